"""A scan of many events (model/nn/sequence.py) is the fold of single ones, whatever the padding."""

import pytest
import torch
from drawn_models import VARIANTS, fold, largest_difference, make_events, make_step
from hypothesis import given, settings
from hypothesis import strategies as st

from model.nn.sequence import scan

every_variant = pytest.mark.parametrize("name", VARIANTS)


def padded(events_BTX: torch.Tensor, lengths: list[int], left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The last `length` events of each user, padded by zeros to the left or right, and their mask."""
    users, total, _ = events_BTX.shape
    mask_BT = torch.zeros(users, total)
    out = torch.zeros_like(events_BTX)
    for user, length in enumerate(lengths):
        place = slice(total - length, total) if left else slice(0, length)
        out[user, place] = events_BTX[user, total - length :]
        mask_BT[user, place] = 1
    return out, mask_BT


@every_variant
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("left", [True, False])
def test_a_padded_batch_equals_the_fold_of_single_events(name: str, seed: int, left: bool) -> None:
    step = make_step(VARIANTS[name], seed)
    events_BTX = make_events(step, 4, 8, seed)
    lengths = [8, 5, 1, 0]
    with torch.no_grad():
        state = scan(step, *padded(events_BTX, lengths, left)).state
    for user, length in enumerate(lengths):
        alone = fold(step, events_BTX[user : user + 1, 8 - length :])
        assert largest_difference(state.map(lambda tensor: tensor[user : user + 1]), alone) < 1e-6  # noqa: B023  # called before the loop goes on


@every_variant
def test_more_padding_changes_nothing_but_rounding(name: str) -> None:
    step = make_step(VARIANTS[name]).float()
    events_BTX = make_events(step, 2, 5).float()
    mask_BT = torch.ones(2, 5)
    with torch.no_grad():
        plain = scan(step, events_BTX).state
        wide = scan(step, torch.nn.functional.pad(events_BTX, (0, 0, 3, 2)), torch.nn.functional.pad(mask_BT, (3, 2))).state
    assert largest_difference(plain, wide) < 1e-6


@settings(max_examples=30)
@given(st.lists(st.booleans(), min_size=1, max_size=10), st.sampled_from(list(VARIANTS)))
def test_padding_anywhere_is_skipped(real: list[bool], name: str) -> None:
    step = make_step(VARIANTS[name])
    events_BTX = make_events(step, 1, len(real))
    with torch.no_grad():
        state = scan(step, events_BTX, torch.tensor([real]).float()).state
    assert largest_difference(state, fold(step, events_BTX[:, real])) < 1e-12


@every_variant
def test_a_scan_in_two_chunks_is_the_scan_in_one(name: str) -> None:
    step = make_step(VARIANTS[name])
    events_BTX = make_events(step, 2, 7)
    with torch.no_grad():
        first = scan(step, events_BTX[:, :3])
        assert largest_difference(scan(step, events_BTX[:, 3:], start=first.state).state, scan(step, events_BTX).state) < 1e-12
    assert largest_difference(first.states[-1], first.state) == 0.0
    assert len(first.states) == len(first.traces) == 3


def test_running_through_padding_takes_its_zeros_for_events() -> None:
    step = make_step(VARIANTS["official"])
    events_BTX, mask_BT = padded(make_events(step, 2, 6), [6, 2], left=True)
    with torch.no_grad():
        state = scan(step, events_BTX, mask_BT, "run").state
    assert largest_difference(state, fold(step, events_BTX)) < 1e-12
    assert (state.applied == 6).all()


def test_resetting_at_padding_puts_back_all_but_g_and_r() -> None:
    step = make_step(VARIANTS["official"])
    events_BTX, mask_BT = padded(make_events(step, 1, 6), [2], left=True)
    with torch.no_grad():
        scanned = scan(step, events_BTX, mask_BT, "reset")
        at_start, start = scanned.states[3], step.initial_state(1)
        for name in ("controller", "slots", "add_pool", "channels"):
            assert torch.equal(getattr(at_start, name), getattr(start, name)), name
        assert at_start.utilization.sum().item() == pytest.approx(4)
        assert not torch.allclose(at_start.read, start.read)
        assert largest_difference(scanned.state, scan(step, events_BTX[:, 4:], start=at_start).state) < 1e-12


def test_gradients_of_a_padded_batch_are_those_of_the_single_histories() -> None:
    step = make_step(VARIANTS["default"])
    events_BTX = make_events(step, 2, 5)
    scan(step, *padded(events_BTX, [5, 3], left=True)).state.slots.square().sum().backward()
    together = {name: parameter.grad for name, parameter in step.named_parameters()}
    step.zero_grad()
    for user, length in ((0, 5), (1, 3)):
        scan(step, events_BTX[user : user + 1, 5 - length :]).state.slots.square().sum().backward()
    for name, parameter in step.named_parameters():
        if together[name] is None:
            assert parameter.grad is None
        else:
            assert torch.allclose(together[name], parameter.grad, atol=1e-12), name
