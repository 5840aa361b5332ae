"""What 1,000 and 10,000 events do to a memory: slots stay distinct, nothing grows; and what becomes of the paper as printed.

Random events of a catalogue of 60 items over weights as they are drawn. Distances between slots are relative to the user's
mean slot norm; cosines would say little, since all slots share the direction that is written most.
"""

import numpy as np
import pytest
import torch
from drawn_models import slot_distances, tensors
from torch import Tensor

from model.nn.mimn import MimnState, MimnStep
from uic.variant import Variant, preset

USERS = 8


@torch.no_grad()
def live(variant: Variant, seed: int, places: list[int]) -> list[MimnState]:
    """The memories of 8 users after so many random events each."""
    torch.manual_seed(seed)
    step = MimnStep(variant)
    catalogue = torch.randn(60, variant.event_width) * 0.5
    items_BT = torch.randint(60, (USERS, places[-1]))
    state, kept = step.initial_state(USERS), []
    for t in range(places[-1]):
        state = step(state, catalogue[items_BT[:, t]])
        if t + 1 in places:
            kept.append(state)
    return kept


def distances_after_1000(variant: Variant, seed: int) -> "np.ndarray":
    return slot_distances(live(variant, seed, [1000])[0].slots)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_slots_stay_distinct_after_1000_events_in_default(seed: int) -> None:
    distances_BP = distances_after_1000(preset("default"), seed)
    # Measured over seeds 0 to 5: medians of a user 0.057 to 0.234, the closest pair of any user 0.0100.
    assert np.median(distances_BP, axis=1).min() > 0.04
    assert distances_BP.min() > 0.005


@pytest.mark.parametrize("seed", [0, 2])
def test_slots_of_the_paper_merge_without_key_memory_and_temperature_and_stay_apart_with_them(seed: int) -> None:
    without = distances_after_1000(preset("paper"), seed)
    with_both = distances_after_1000(preset("paper", key_memory=True, temperature=True), seed)
    # Measured over seeds 0 to 5: a user's median is 0.0001 to 0.0038 without, 0.004 to 0.163 with, 15 to 60 times larger.
    assert np.median(without, axis=1).max() < 0.005
    assert without.max() < 0.02
    assert np.median(with_both) > 10 * np.median(without)


def norms(state: MimnState) -> dict[str, Tensor]:
    """Each user's norm of each tensor; utilization as shares, since g counts events like `applied` does."""
    found = {name: tensor.flatten(1).norm(dim=1) for name, tensor in tensors(state).items() if name != "applied"}
    return {**found, "utilization": (state.utilization / state.applied).norm(dim=1)}


def test_10_000_events_in_default_behave_like_100() -> None:
    after_100, after_1000, after_10_000 = live(preset("default"), 0, [100, 1000, 10_000])
    assert all(torch.isfinite(tensor).all() for tensor in tensors(after_10_000).values())
    assert torch.allclose(after_10_000.utilization.sum(-1), after_10_000.applied[:, 0], rtol=1e-4)
    for name, at_end in norms(after_10_000).items():
        # Measured: the largest growth from 100 on is 1.7 (add_pool), from 1,000 on 1.1.
        assert at_end.mean() < 2.0 * norms(after_100)[name].mean(), name
        assert at_end.mean() < 1.2 * norms(after_1000)[name].mean(), name
        assert at_end.mean() > 0.5 * norms(after_100)[name].mean(), name
    assert after_10_000.controller.abs().max() <= 1
    assert after_10_000.add_pool.abs().max() <= 1
    assert slot_distances(after_10_000.slots).min() > 0.005
