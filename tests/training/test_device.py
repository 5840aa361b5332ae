"""Training runs where it is told to, and in mixed precision learns what it learns in float32."""

from pathlib import Path
from typing import Any

import elsewhere
import numpy as np
import pytest
import small
import torch
from alone import histories_of
from elsewhere import Elsewhere, There, TwoDevices
from torch import Tensor
from torch.overrides import TorchFunctionMode

from model.data.dataset import Dataset
from model.nn.ctr import CtrModel
from model.nn.gru import GruCell
from model.nn.models import make
from model.nn.sdim import SdimStep
from model.training.config import TrainConfig
from model.training.device import Hardware
from model.training.evaluate import score
from model.training.histories import Histories, Places, user_batch
from model.training.optimiser import optimiser_of
from model.training.train import train_epoch
from uic.errors import BadInput, EnvironmentProblem
from uic.models import NAMES, Sdim, model_variant


class Case:
    """Five users and their first training places: few, since what is shown is shown by every one of them."""

    def __init__(self, root: Path) -> None:
        self.data: Dataset = small.dataset(root / "data", users=5, rows=70, items=10)
        made = small.run(root / "run", self.data)
        self.vocabularies = made.vocabularies
        self.histories: Histories = histories_of(self.data, made)
        places = self.histories.places((self.histories.samples["split"] == "train").to_numpy())
        self.places: Places = places.take(np.flatnonzero(places.position_P < 5))

    def model(self, name: str) -> CtrModel:
        torch.manual_seed(3)
        return make(
            model_variant(name, "default", embedding=4, slots=4, switches={}),
            item_rows=self.vocabularies.items.table_rows,
            category_rows=self.vocabularies.categories.table_rows,
            auxiliary=name in ("mimn", "dien"),
        )

    def epoch(self, model: CtrModel, name: str, **asked: Any) -> float:
        """The loss of an epoch of several steps, with the auxiliary loss where there is one."""
        auxiliary = 0.5 if name in ("mimn", "dien") else 0.0
        config = TrainConfig(**{**small.CONFIG, "samples_per_step": 16, "chunk": 3, "auxiliary_weight": auxiliary, **asked})
        return train_epoch(model, optimiser_of(model, config), self.histories, self.places, config, 1, lambda at: None)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("device"))


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_of_training_and_scoring_is_on_the_models_device(case: Case, name: str) -> None:
    here = case.model(name)
    loss = case.epoch(here, name)
    scored = score(here, case.histories, case.places)
    with Elsewhere():
        model = case.model(name).to(elsewhere.DEVICE)
        assert all(isinstance(each, There) for each in (*model.parameters(), *model.buffers()))
        assert case.epoch(model, name, device=elsewhere.DEVICE) == pytest.approx(loss, rel=1e-5)
        assert score(model, case.histories, case.places).probability_PN == pytest.approx(scored.probability_PN, abs=1e-4)
        assert all(isinstance(each, There) for each in (*model.parameters(), *model.buffers()))


def test_a_tensor_that_was_left_on_the_cpu_is_found(case: Case) -> None:
    with Elsewhere():
        model = case.model("din").to(elsewhere.DEVICE)
        left = user_batch(case.histories, case.places, np.unique(case.places.user_P), "cpu")
        with pytest.raises(TwoDevices):
            list(model.embedding(left.item_BT, left.category_BT))


class Watch(TorchFunctionMode):
    """Notes which functions gave numbers of which kind."""

    def __init__(self) -> None:
        super().__init__()
        self.gave: dict[str, set[torch.dtype]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # torch's signature
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.is_floating_point():
            self.gave.setdefault(getattr(func, "__name__", ""), set()).add(out.dtype)
        return out


@pytest.mark.parametrize("name", NAMES)
def test_products_are_in_16_bits_and_no_state_softmax_loss_or_weight_is(case: Case, name: str) -> None:
    model = case.model(name)
    states: list[torch.dtype] = []
    for module in model.modules():
        if isinstance(module, GruCell):
            module.register_forward_hook(lambda module, given, made: states.append(made.dtype))
    watch = Watch()
    with watch:
        loss = case.epoch(model, name, precision="bfloat16")
    assert torch.bfloat16 in watch.gave["linear"]
    for exact in ("softmax", "log", "binary_cross_entropy_with_logits"):
        assert watch.gave.get(exact, {torch.float32}) == {torch.float32}
    assert "binary_cross_entropy_with_logits" in watch.gave
    assert set(states) <= {torch.float32}
    assert {each.dtype for each in model.parameters()} == {torch.float32}
    assert loss == pytest.approx(case.epoch(case.model(name), name), rel=0.02)


def test_a_candidate_looks_into_the_bucket_that_the_same_event_fell_into() -> None:
    torch.manual_seed(1)
    step = SdimStep(Sdim())
    events = torch.randn(500, step.variant.event_width)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        of_candidates = step.buckets_of(events)
    assert torch.equal(of_candidates, step.buckets_of(events))


def test_mixed_precision_learns_what_float32_learns(tmp_path: Path) -> None:
    data = small.dataset(tmp_path / "data", users=6, rows=120)
    losses = {}
    for precision in ("float32", "bfloat16", "float16"):
        made = small.trained(tmp_path / precision, data, config={"epochs": 3, "precision": precision})
        losses[precision] = [epoch["loss"] for epoch in made.metrics["epochs"]]
    assert losses["float32"][-1] < 0.93 * losses["float32"][0]
    for precision in ("bfloat16", "float16"):
        assert losses[precision] == pytest.approx(losses["float32"], rel=0.03)


def test_a_run_in_float16_is_one_however_often_it_was_begun(tmp_path: Path) -> None:
    data = small.dataset(tmp_path / "data", users=5, rows=70, items=10)
    config = {"precision": "float16", "epochs": 2}
    straight = small.trained(tmp_path / "straight", data, config=config)
    begun = small.trained(tmp_path / "begun", data, config={**config, "epochs": 1})
    small.train_quietly(begun.with_epochs(2), data)
    assert small.without_seconds(begun.metrics) == small.without_seconds(straight.metrics)
    one, other = begun.load("last.pt"), straight.load("last.pt")
    assert one is not None
    assert other is not None
    assert one["scaler"] == other["scaler"]
    assert one["scaler"]["scale"] > 1.0


def test_auto_is_the_gpu_where_there_is_one() -> None:
    gpu, older, none = Hardware(cuda=True, bfloat16=True), Hardware(cuda=True, bfloat16=False), Hardware(False, False)
    found = {each: TrainConfig().resolved(each) for each in (gpu, older, none)}
    assert [(each.device, each.precision) for each in found.values()] == [
        ("cuda", "bfloat16"), ("cuda", "float16"), ("cpu", "float32"),
    ]  # fmt: skip
    assert found[gpu].resolved(gpu) == found[gpu]
    with pytest.raises(EnvironmentProblem, match="finds no GPU here; `auto` takes what there is"):
        found[gpu].resolved(none)
    with pytest.raises(BadInput, match=r"train\.device: expected auto, cpu, cuda"):
        TrainConfig(device="gpu")
