"""What the re-balancing of writes can reach and what it counts, and how the figures of single events (figure 6) see it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.experiments.writes import Writes, measured
from model.nn.addressing import ShiftAndSharpen, circular_shifts
from model.nn.losses import utilization_loss

SLOTS = 8


def rebalanced(weights: torch.Tensor, taps: list[float], power: float) -> torch.Tensor:
    return ShiftAndSharpen(torch.tensor([taps]).double(), torch.tensor([[power]]).double(), circular_shifts(SLOTS).double())(
        weights
    )


@given(
    st.integers(0, SLOTS - 1), st.floats(0, 0.3), st.lists(st.floats(-20, 20), min_size=3, max_size=3), st.floats(4, 84),
    st.lists(st.floats(0, 1), min_size=SLOTS, max_size=SLOTS),
)  # fmt: skip
def test_a_write_that_looks_at_one_slot_reaches_its_two_neighbours_and_no_further(
    peak: int, ratio: float, taps: list[float], power: float, others: list[float]
) -> None:
    # The largest tap is a third at least, so a slot within reach gets peak / 3; one beyond gets the largest of the others.
    weights = ratio * torch.tensor([others]).double()
    weights[0, peak] = 1.0
    written = rebalanced(weights / weights.sum(), taps, power)[0]
    beyond = written.sum() - written[[(peak + step) % SLOTS for step in (-1, 0, 1)]].sum()
    assert beyond <= (SLOTS - 3) * (3 * ratio) ** power + 1e-9


def test_equal_taps_write_one_slot_and_count_three() -> None:
    # The authors add C(w) to g where w, which C has re-balanced already, is written.
    looks = torch.tensor([[0.02, 0.03, 0.25, 0.3, 0.25, 0.07, 0.05, 0.03]]).double()
    written = rebalanced(looks, [0.0, 0.0, 0.0], 20.0)
    counted = rebalanced(written, [0.0, 0.0, 0.0], 20.0)
    assert written[0, 3] > 0.99
    assert counted[0, 2:5].tolist() == pytest.approx([1 / 3] * 3, abs=0.05)
    ideal = utilization_loss(100 * torch.tensor([[0, 0, 1, 1, 1, 0, 0, 0]]) / 3, "share", 1.0)
    assert utilization_loss(100 * counted, "share", 1.0) < 1.1 * ideal < 0.5 * utilization_loss(100 * written, "share", 1.0)


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=1, max_size=6).filter(lambda rows: all(map(sum, rows)))
)
def test_all_events_of_a_memory_write_at_least_as_many_slots_as_one(rows: list[list[float]]) -> None:
    found = measured(writes_of_one_user(rows))
    assert 1 - 1e-9 <= found["told_apart"] <= 4 + 1e-9
    assert 1 - 1e-9 <= found["an_event"] <= 4 + 1e-9
    assert found["miscounted"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("rows", "an_event", "told_apart"),
    [
        ([[1, 1, 1, 1]] * 4, 4, 1),  # level, and all slots alike
        (np.eye(4).tolist(), 1, 4),  # level, and each slot has its own
        ([[1, 0, 0, 0]] * 4, 1, 1),  # one slot for everything
        ([[1, 1, 0, 0], [0, 0, 1, 1]], 2, 2),
    ],
)
def test_level_shares_are_told_from_slots_that_are_all_alike(
    rows: list[list[float]], an_event: float, told_apart: float
) -> None:
    found = measured(writes_of_one_user(rows))
    assert found["an_event"] == pytest.approx(an_event)
    assert found["told_apart"] == pytest.approx(told_apart)


def writes_of_one_user(rows: list[list[float]]) -> Writes:
    """Events that wrote in these proportions."""
    written = np.array(rows, dtype=np.float64)
    written /= written.sum(axis=1, keepdims=True)
    nothing = np.zeros(len(rows), dtype=np.int64)
    return Writes(nothing, written, written, written.sum(axis=0, keepdims=True), np.ones((1, 4, 3)))
