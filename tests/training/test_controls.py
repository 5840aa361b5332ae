"""Controls tell what a history is worth, so they must take away exactly what they say."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small
import torch
from alone import histories_of, untrained

from model.data.dataset import Dataset
from model.nn.ctr import MimnCtr, probability
from model.training.controls import another_users, sampled, shuffled_order
from model.training.evaluate import score
from model.training.histories import Histories, Places
from model.training.run import Run


class Case:
    """Some users and two models: one as it is, one that sees of a history only the mean of its events."""

    def __init__(self, root: Path, table: pd.DataFrame | None = None) -> None:
        self.data: Dataset = small.dataset(root / "data", users=6, rows=120, table=table)
        self.run: Run = small.run(root / "run", self.data)
        self.histories: Histories = histories_of(self.data, self.run)
        self.places: Places = self.histories.places((self.histories.samples["split"] == "test").to_numpy())
        self.model: MimnCtr = untrained(self.run)
        self.bag: MimnCtr = untrained(self.run)
        width = small.VARIANT.event_width
        with torch.no_grad():
            self.bag.head.mlp.first.weight[:, 2 * width :] = 0.0


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("controls"))


def one_item_each() -> pd.DataFrame:
    """Four users at random times, each with one item of their own: a memory's mean event tells whose it is."""
    table = small.log(users=4, rows=80, seed=4)
    own = table["user"].str.removeprefix("u").astype("int64")
    return table.assign(item_id=own + 100, category_id=own + 1)


def test_a_shuffled_history_has_the_same_events(case: Case) -> None:
    ordered = score(case.bag, case.histories, case.places).probability_PN
    shuffled = shuffled_order(case.bag, case.histories, case.places, seed=3).probability_PN
    np.testing.assert_allclose(shuffled, ordered, rtol=0, atol=1e-6)


def test_a_shuffled_history_has_another_order(case: Case) -> None:
    ordered = score(case.model, case.histories, case.places).probability_PN
    shuffled = shuffled_order(case.model, case.histories, case.places, seed=3).probability_PN
    moved = np.abs(shuffled - ordered).max(axis=1)[case.places.position_P > 3]
    assert (moved > 1e-7).mean() > 0.9


def test_the_seed_alone_makes_the_order(case: Case) -> None:
    def shuffled(seed: int) -> "np.typing.NDArray[np.float32]":
        return shuffled_order(case.model, case.histories, case.places, seed=seed).probability_PN

    np.testing.assert_array_equal(shuffled(1), shuffled(1))
    assert (shuffled(1) != shuffled(2)).any()


@pytest.mark.parametrize("seed", range(4))
def test_another_users_history_is_never_the_own(tmp_path: Path, seed: int) -> None:
    case = Case(tmp_path, one_item_each())
    mask = case.places.mask_PN & (case.places.position_P > 0)[:, None]
    own = score(case.bag, case.histories, case.places).probability_PN
    other = another_users(case.bag, case.histories, case.places, seed=seed).probability_PN
    initial = score(case.bag, case.histories, case.places, without_history=True).probability_PN
    assert mask.sum() > 8
    assert (np.abs(other - own)[mask] > 1e-7).all()
    assert (np.abs(other - initial)[mask] > 1e-7).all()


def test_without_history_is_the_initial_memory(case: Case) -> None:
    scored = score(case.model, case.histories, case.places, without_history=True)
    state = case.model.initial_state(len(case.places))
    with torch.no_grad():
        logits = case.model.score(state, torch.from_numpy(case.places.item_PN), torch.from_numpy(case.places.category_PN))
    np.testing.assert_allclose(scored.probability_PN, probability(logits).numpy(), rtol=0, atol=1e-7)
    assert not scored.utilization_PM.any()


@pytest.mark.parametrize("control", [shuffled_order, another_users])
def test_a_control_is_measured_over_the_same_users(case: Case, control: "object") -> None:
    plain = score(case.model, case.histories, case.places).measure()
    measured = control(case.model, case.histories, case.places).measure()  # type: ignore[operator]  # either of the two
    assert (measured.samples, measured.users) == (plain.samples, plain.users)
    assert measured.users_with_both_labels == plain.users_with_both_labels


def test_sampled_places_are_some_of_them_in_the_same_order(case: Case) -> None:
    some = sampled(case.places, 7, seed=2)
    assert len(some) == 7
    pairs = list(zip(some.user_P, some.position_P, strict=True))
    assert pairs == sorted(set(pairs))
    assert set(pairs) <= set(zip(case.places.user_P, case.places.position_P, strict=True))
    assert sampled(case.places, 10**6) is case.places
