"""One scan of a history serves all its samples: what it computes is what every sample alone would have given."""

import copy
from pathlib import Path

import numpy as np
import pytest
import small
import torch
from alone import Alone, histories_of, untrained
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.dataset import Dataset
from model.nn.ctr import MimnCtr
from model.training.config import TrainConfig
from model.training.evaluate import score
from model.training.histories import Histories, Places, user_batch
from model.training.run import Run
from model.training.scan import scan_places
from model.training.train import train_epoch

LONGER_THAN_ANY_HISTORY = 1000
# Two ways to add up the same float32 numbers; the values themselves are about 1.
ROUNDING = 2e-6


class Case:
    """Five users, their training samples, and a model that has not been trained."""

    def __init__(self, root: Path) -> None:
        self.data: Dataset = small.dataset(root / "data", users=5, rows=70, items=10)
        self.run: Run = small.run(root / "run", self.data)
        self.model: MimnCtr = untrained(self.run)
        self.alone = Alone(self.data, self.run)
        self.histories: Histories = histories_of(self.data, self.run)
        self.rows = np.flatnonzero(self.alone.samples["split"] == "train")
        self.places: Places = self.histories.places((self.alone.samples["split"] == "train").to_numpy())


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("scan"))


def config(**changes: object) -> TrainConfig:
    """All samples in one step of the optimiser, whose gradient is not cut."""
    return TrainConfig(**{**small.CONFIG, "samples_per_step": 10**6, "clip_norm": 1e9, **changes})  # type: ignore[arg-type]  # by name


def one_epoch(case: Case, chosen: TrainConfig) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of an epoch, and the gradient: what plain descent at rate 1 takes away from the weights."""
    model = copy.deepcopy(case.model)
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    loss = train_epoch(model, optimiser, case.histories, case.places, chosen, 1, lambda at: None)
    after = dict(model.named_parameters())
    return loss, {name: (before - after[name]).detach() for name, before in case.model.named_parameters()}


def test_the_loss_of_one_scan_is_the_mean_of_every_sample_scored_from_a_fold_of_its_own(case: Case) -> None:
    chosen = config(chunk=7)
    loss, _ = one_epoch(case, chosen)
    with torch.no_grad():
        alone = case.alone.losses(case.model, case.rows, chosen).mean().item()
    assert loss == pytest.approx(alone, abs=ROUNDING)


def test_its_gradient_too_where_the_chunk_is_longer_than_every_history(case: Case) -> None:
    chosen = config(chunk=LONGER_THAN_ANY_HISTORY)
    _, gradients = one_epoch(case, chosen)
    model = copy.deepcopy(case.model)
    case.alone.losses(model, case.rows, chosen).mean().backward()
    for name, parameter in model.named_parameters():
        alone = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(gradients[name], alone, rtol=1e-4, atol=ROUNDING, msg=lambda text, of=name: f"{of}: {text}")
    assert any(gradient.abs().max() > 1e-3 for gradient in gradients.values())


def test_a_shorter_chunk_cuts_the_gradient_and_leaves_the_loss(case: Case) -> None:
    whole_loss, whole = one_epoch(case, config(chunk=LONGER_THAN_ANY_HISTORY))
    cut_loss, cut = one_epoch(case, config(chunk=3))
    assert cut_loss == pytest.approx(whole_loss, abs=ROUNDING)
    assert (cut["step.initial_read"] - whole["step.initial_read"]).abs().max() > 1e-5


@pytest.mark.parametrize("chunk", [1, 2, 5, 13])
def test_the_length_of_a_chunk_changes_no_memory(case: Case, chunk: int) -> None:
    users = np.unique(case.places.user_P)
    batch = user_batch(case.histories, case.places, users)
    with torch.no_grad():
        whole = [read.states_PF for read in scan_places(case.model, batch, LONGER_THAN_ANY_HISTORY)]
        parts = list(scan_places(case.model, batch, chunk))
    assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
    torch.testing.assert_close(torch.cat([part.states_PF for part in parts]), whole[0], rtol=0, atol=ROUNDING)


@given(st.data())
@settings(max_examples=8)
def test_the_company_and_order_of_users_in_a_batch_change_no_memory(case: Case, data: st.DataObject) -> None:
    users = data.draw(st.lists(st.sampled_from(sorted(np.unique(case.places.user_P))), min_size=1, unique=True))
    batch = user_batch(case.histories, case.places, np.array(users))
    names = case.histories.users
    with torch.no_grad():
        for read in scan_places(case.model, batch, 8):
            for place, state_F in zip(range(read.start, read.stop), read.states_PF, strict=True):
                user, position = batch.places.user_P[place], int(batch.places.position_P[place])
                alone_F = case.alone.memory(case.model, str(names[user]), position).pack()[0]
                torch.testing.assert_close(state_F, alone_F, rtol=0, atol=1e-5)


def test_every_sample_of_a_split_is_scored_from_the_events_before_its_position(case: Case) -> None:
    scored = score(case.model, case.histories, case.places)
    mask = case.places.mask_PN
    assert sorted(case.places.sample_PN[mask]) == list(case.rows)
    alone = case.alone.probabilities(case.model, case.places.sample_PN[mask])
    np.testing.assert_allclose(scored.probability_PN[mask], alone, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(
        case.places.label_PN[mask], case.alone.samples["label"].to_numpy()[case.places.sample_PN[mask]]
    )


@given(st.data())
@settings(max_examples=15)
def test_what_else_is_scored_does_not_change_a_samples_probability(case: Case, data: st.DataObject) -> None:
    whole = score(case.model, case.histories, case.places).probability_PN
    some = np.array(sorted(data.draw(st.sets(st.integers(0, len(case.places) - 1), min_size=1))))
    np.testing.assert_allclose(
        score(case.model, case.histories, case.places.take(some)).probability_PN, whole[some], rtol=0, atol=1e-6
    )


def test_no_place_at_all_is_scored_as_nothing(case: Case) -> None:
    nothing = score(case.model, case.histories, case.places.take(np.zeros(0, dtype=np.int64)))
    assert nothing.probability_PN.size == 0


def test_the_scan_keeps_nothing_between_two_epochs(case: Case) -> None:
    assert one_epoch(case, config())[0] == one_epoch(case, config())[0]
