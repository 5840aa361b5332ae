"""Every model is trained and evaluated on the same samples, by the same commands; its best epoch comes back as it was."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import torch
from alone import histories_of, untrained

from model.data.dataset import Dataset
from model.nn.ctr import MemoryCtr, MimnCtr
from model.nn.history import Events
from model.training.evaluate import score
from model.training.histories import Negatives, user_batch
from model.training.reading import events_before, readings
from model.training.run import Run, RunPlan
from onnx_export.bundle import dense_weights, export_run
from uic.errors import BadInput
from uic.models import NAMES, AnyVariant, model_variant

SIZES: dict[str, Any] = {"sdim": {"bits": 2}, "delta": {"key_width": 4}, "din": {"length": 6}}


def variant_of(name: str) -> AnyVariant:
    return model_variant(name, "default", embedding=4, slots=4, switches=SIZES.get(name, {}))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return small.dataset(tmp_path_factory.mktemp("models") / "data", users=5, rows=60, items=10)


def run_of(name: str, path: Path, data: Dataset, **config: Any) -> Run:
    return small.run(path, data, variant=variant_of(name), config={"epochs": 1, **config})  # type: ignore[arg-type]  # any variant


@pytest.mark.parametrize("name", NAMES)
def test_every_model_learns_and_scores_its_best_epoch_again(name: str, data: Dataset, tmp_path: Path) -> None:
    made = run_of(name, tmp_path / "run", data)
    before = copy.deepcopy(untrained(made).state_dict())
    small.train_quietly(made, data)
    model, histories = made.best_model(), histories_of(data, made)
    assert any(not torch.equal(before[key], value) for key, value in model.state_dict().items())
    valid = histories.places((histories.samples["split"] == "valid").to_numpy())
    scored = score(model, histories, valid)
    assert made.metrics["best_auc"] == scored.measure().auc
    assert scored.utilization_PM.shape[1] == (4 if name == "mimn" else 0)
    nothing = score(model, histories, valid, without_history=True)
    assert not np.allclose(nothing.probability_PN, scored.probability_PN)
    if name != "mimn":
        with pytest.raises(BadInput, match=f"a run of {name}, whose slots are not balanced"):
            made.utilization_shares()


@pytest.mark.parametrize("name", ["din", "arnn", "dien"])
def test_a_run_of_a_model_without_a_memory_is_not_exported(name: str, data: Dataset, tmp_path: Path) -> None:
    made = small.trained(tmp_path / "run", data, variant=variant_of(name), config={"epochs": 1})  # type: ignore[arg-type]  # any variant
    with pytest.raises(BadInput, match=f"{name} looks at a user's raw events for every candidate"):
        export_run(made, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_place_shows_the_last_events_before_it_and_none_after(data: Dataset, tmp_path: Path) -> None:
    made = run_of("din", tmp_path / "run", data)
    histories = histories_of(data, made)
    places = histories.places(np.ones(len(histories.samples), dtype=bool))
    batch = user_batch(histories, places, np.unique(places.user_P))
    seen = events_before(batch, np.arange(len(batch.places)), 6)
    for place in range(len(batch.places)):
        items, kinds = histories.rows_of(int(batch.places.user_P[place]))
        end = int(batch.places.position_P[place])
        real = seen.mask_PL[place]
        assert seen.item_PL[place][real].tolist() == items[max(0, end - 6) : end].tolist()
        assert seen.category_PL[place][real].tolist() == kinds[max(0, end - 6) : end].tolist()
        assert not seen.item_PL[place][~real].any()


@pytest.mark.parametrize("name", ["mimn", "dien"])
def test_the_auxiliary_loss_moves_what_a_candidate_does_not_meet_and_is_not_exported(
    name: str, data: Dataset, tmp_path: Path
) -> None:
    with_it, without = (
        small.trained(tmp_path / str(weight), data, variant=variant_of(name), config={"epochs": 1, "auxiliary_weight": weight})  # type: ignore[arg-type]  # any variant
        for weight in (1.0, 0.0)
    )
    assert with_it.metrics["epochs"][0]["loss"] > without.metrics["epochs"][0]["loss"] + 0.5
    model = with_it.best_model()
    assert any(key.startswith("auxiliary.") for key in model.state_dict())
    assert not any(key.startswith("auxiliary.") for key in without.best_model().state_dict())
    if isinstance(model, MemoryCtr):
        assert not any("auxiliary" in key for key in dense_weights(model))


def test_the_auxiliary_loss_of_a_scan_is_that_of_each_event_told_from_its_negative_alone(data: Dataset, tmp_path: Path) -> None:
    made = run_of("mimn", tmp_path / "run", data, auxiliary_weight=1.0)
    model, histories = untrained(made), histories_of(data, made)
    assert isinstance(model, MimnCtr)
    assert model.auxiliary is not None
    places = histories.places(np.ones(len(histories.samples), dtype=bool), most=1)
    batch = Negatives.of(histories).drawn(user_batch(histories, places, np.unique(places.user_P)), np.random.default_rng(1))
    assert batch.negatives is not None
    with torch.no_grad():
        (read,) = readings(model, batch, chunk=1000)
        alone = []
        for user, last in enumerate(batch.last_B):
            state = model.initial_state(1)
            for t in range(int(last)):
                event = model.embedding(batch.item_BT[user, t : t + 1], batch.category_BT[user, t : t + 1])
                negative = model.embedding(*(rows[user, t : t + 1] for rows in batch.negatives))
                if t > 0:
                    alone.append(model.auxiliary.losses(model.step.output(state), event, negative))
                state = model.step(state, event)
    assert read.auxiliary is not None
    assert read.auxiliary.item() == pytest.approx(torch.cat(alone).mean().item(), abs=2e-6)


def test_negatives_are_events_of_others_where_there_are_any(data: Dataset, tmp_path: Path) -> None:
    made = run_of("mimn", tmp_path / "run", data)
    histories = histories_of(data, made)
    places = histories.places(np.ones(len(histories.samples), dtype=bool))
    batch = user_batch(histories, places, np.unique(places.user_P))
    drawn = Negatives.of(histories).drawn(batch, np.random.default_rng(1)).negatives
    assert drawn is not None
    pairs = set(zip(histories.item_rows.tolist(), histories.category_rows.tolist(), strict=True))
    assert set(zip(drawn[0].flatten().tolist(), drawn[1].flatten().tolist(), strict=True)) <= pairs
    again = Negatives.of(histories).drawn(batch, np.random.default_rng(1)).negatives
    assert again is not None
    assert torch.equal(drawn[0], again[0])


def test_a_model_that_predicts_nothing_has_no_auxiliary_loss(data: Dataset, tmp_path: Path) -> None:
    made = run_of("rum", tmp_path / "run", data, auxiliary_weight=0.5)
    with pytest.raises(BadInput, match="auxiliary_weight: expected 0, since rum has no auxiliary loss; mimn and dien have"):
        small.train_quietly(made, data)


def test_a_run_begun_before_a_setting_existed_is_gone_on_with_under_its_default(data: Dataset, tmp_path: Path) -> None:
    plan = run_of("mimn", tmp_path / "run", data).plan
    older = {key: value for key, value in plan.train.items() if key != "auxiliary_weight"}
    begun = RunPlan(**{**vars(plan), "train": older})
    assert begun.differences(plan) == []
    assert begun.differences(RunPlan(**{**vars(plan), "train": {**plan.train, "auxiliary_weight": 1.0}})) != []


def test_no_event_at_all_is_seen_as_nothing(data: Dataset, tmp_path: Path) -> None:
    model = run_of("dien", tmp_path / "run", data).model()
    blank: Events = model.blank(3)
    assert not blank.mask_PL.any()
    assert model.logits(blank, torch.ones(3, 2).long(), torch.ones(3, 2).long()).isfinite().all()
