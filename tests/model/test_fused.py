"""MIMN's run with its hand-written backward pass (model/nn/fused) is the run step by step, gradients included."""

import copy

import numpy as np
import pytest
import torch
from drawn_models import SIZES, VARIANTS, make_events, make_step, tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.nn.fused import compiled, stepped
from model.nn.fused.scan import Way, run, supports
from model.nn.mimn import MimnState, MimnStep
from model.nn.state import first
from model.nn.step import MemoryStep
from uic.memory import MemoryLayout
from uic.tolerance import memory_excess
from uic.variant import preset

DRAWN = VARIANTS | {
    "no temperature": preset("default", temperature=False, **SIZES),
    "no key memory": preset("official", key_memory=False, **SIZES),
    "basic": preset("default", mur="none", miu=False, pooling="sum", **SIZES),
    "full size": preset("default"),
}


FUSED = {name: variant for name, variant in DRAWN.items() if supports(variant)}


def outcome(states: list[MimnState], weights: list[dict[str, Tensor]]) -> Tensor:
    """A number that depends on every float of every memory."""
    parts = [
        (weights[t][name][: len(value)] * value).sum() for t, each in enumerate(states) for name, value in tensors(each).items()
    ]
    return torch.stack(parts).sum()


def run_by(way: Way | None, step: MimnStep, state: MimnState, events: Tensor, going: list[int]) -> list[MimnState]:
    """The memories by one of the fused ways, or step by step."""
    return MemoryStep.run(step, state, events, going) if way is None else run(step, state, events, going, way)


def gradients(
    step: MimnStep, events: Tensor, start: MimnState, going: list[int], weights: list[dict[str, Tensor]], way: Way | None
) -> dict[str, Tensor]:
    step.zero_grad()
    given = {"events": events.clone().requires_grad_()} | {
        name: value.clone().requires_grad_()
        for name, value in tensors(start).items()
        if name not in ("applied", "last_channels")
    }
    state = start._replace(**{name: value for name, value in given.items() if name != "events"})
    states = run_by(way, step, first(state, going[0]), given["events"][: going[0]], going)
    loss = outcome(states, weights)
    loss.backward()
    found = {name: value.grad for name, value in (*step.named_parameters(), *given.items())}
    return {"loss": loss.detach()} | {name: value.clone() for name, value in found.items() if value is not None}


@settings(max_examples=25)
@given(st.sampled_from(sorted(FUSED)), st.lists(st.integers(1, 4), min_size=1, max_size=7), st.integers(0, 99))
def test_every_gradient_of_a_run_is_that_of_its_single_steps(name: str, lengths: list[int], seed: int) -> None:
    going = sorted(lengths, reverse=True)
    step = make_step(FUSED[name], seed)
    with torch.no_grad():
        warm = MemoryStep.run(step, step.initial_state(4), make_events(step, 4, 3, seed + 1), [4, 4, 4])[-1]
    events = make_events(step, 4, len(going), seed)
    torch.manual_seed(seed)
    weights = [{name: torch.randn_like(value) for name, value in tensors(warm).items()} for _ in going]
    ours, theirs = (gradients(step, events, warm, going, weights, way) for way in (stepped, None))
    assert ours.keys() == theirs.keys()
    for which, value in theirs.items():
        torch.testing.assert_close(ours[which], value, rtol=1e-8, atol=1e-8, msg=lambda text, of=which: f"{of}: {text}")


@settings(max_examples=25)
@given(st.sampled_from(sorted(FUSED)), st.lists(st.integers(1, 4), min_size=1, max_size=16), st.integers(0, 99))
def test_in_float32_memories_and_gradients_are_as_near_the_exact_ones_as_those_of_single_steps(
    name: str, lengths: list[int], seed: int
) -> None:
    going = sorted(lengths, reverse=True)
    exact_step = make_step(FUSED[name], seed)
    step = copy.deepcopy(exact_step).float()
    events = make_events(exact_step, 4, len(going), seed)
    with torch.no_grad():
        start = MemoryStep.run(exact_step, exact_step.initial_state(4), make_events(exact_step, 4, 3, seed + 1), [4, 4, 4])[-1]
        start = start.map(lambda value: value.float().double())
    torch.manual_seed(seed)
    weights = [{which: torch.randn_like(value) for which, value in tensors(start).items()} for _ in going]
    rounded = [{which: value.float() for which, value in each.items()} for each in weights]
    exact = gradients(exact_step, events.float().double(), start, going, weights, None)

    def error(way: Way | None) -> float:
        found = gradients(step, events.float(), start.map(Tensor.float), going, rounded, way)
        assert found.keys() == exact.keys()
        squares = [(found[which].double() - value).square().sum() for which, value in exact.items() if which != "loss"]
        return float(torch.stack(squares).sum().sqrt())

    norm = float(torch.stack([value.square().sum() for which, value in exact.items() if which != "loss"]).sum().sqrt())
    for way in (compiled, stepped):
        # Two sums of roundings: neither is the truth, and one may be far luckier than the other; 1e-5 is the tolerance's.
        assert error(way) <= 2 * error(None) + 1e-5 * norm


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_a_run_makes_the_memories_of_its_single_steps_with_and_without_gradients(name: str) -> None:
    step = make_step(DRAWN[name])
    events, start = make_events(step, 3, 5), step.initial_state(3)
    wanted = MemoryStep.run(step, start, events, [3, 3, 2, 2, 1])
    with torch.no_grad():
        plain = step.run(start, events, [3, 3, 2, 2, 1])
    for have in (plain, step.run(start, events, [3, 3, 2, 2, 1])):
        for one, other in zip(have, wanted, strict=True):
            for which, value in tensors(other).items():
                torch.testing.assert_close(getattr(one, which), value, rtol=1e-9, atol=1e-9, msg=which)


@pytest.mark.parametrize("name", sorted(FUSED))
@pytest.mark.parametrize("is_traced", [False, True])
def test_compiled_memories_are_those_of_single_steps_within_the_tolerance(name: str, is_traced: bool) -> None:
    step = make_step(FUSED[name]).float()
    events, start, going = make_events(step, 3, 40).float(), step.initial_state(3), [3] * 20 + [2] * 15 + [1] * 5
    layout = MemoryLayout(step.variant)
    with torch.set_grad_enabled(is_traced):
        have, want = (run_by(way, step, start, events, going) for way in (compiled, None))
    for one, other in zip(have, want, strict=True):
        worst = memory_excess(layout, *(each.pack().detach().numpy() for each in (one, other)))
        assert {which: value.max() for which, value in worst.items() if value.max() > 1.0} == {}


def test_the_number_of_threads_changes_no_memory_and_no_gradient() -> None:
    step = make_step(VARIANTS["default"]).float()
    events, start, going = make_events(step, 7, 6).float(), step.initial_state(7).map(Tensor.detach), [7, 7, 5, 2, 2, 1]
    weights = [{name: torch.ones_like(value) for name, value in tensors(start).items()} for _ in going]
    threads = torch.get_num_threads()
    found = []
    for number in (1, 2):
        torch.set_num_threads(number)
        found.append(gradients(step, events, start, going, weights, compiled))
    torch.set_num_threads(threads)
    for which, value in found[0].items():
        torch.testing.assert_close(found[1][which], value, rtol=1e-6, atol=1e-6, msg=which)


def test_a_memory_that_is_no_number_stays_so_and_touches_no_other_user() -> None:
    step = make_step(VARIANTS["default"]).float()
    events = make_events(step, 2, 3).float()
    events[1, 0, 0] = float("nan")
    with torch.no_grad():
        last = run(step, step.initial_state(2), events, [2, 2, 2], compiled)[-1]
    for which, value in tensors(last).items():
        assert value[0].isfinite().all(), which
    assert last.controller[1].isnan().all()
    assert last.slots[1].isnan().all()


def test_without_a_compiler_the_same_is_done_in_operations_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    step = make_step(VARIANTS["default"]).float()
    events, start = make_events(step, 2, 3).float(), step.initial_state(2)
    wanted = run(step, start, events, [2, 2, 1], stepped)
    monkeypatch.setattr(compiled, "has_compiler", lambda: False)
    monkeypatch.setattr(compiled, "walk", None)
    for one, other in zip(step.run(start, events, [2, 2, 1]), wanted, strict=True):
        for which, value in tensors(other).items():
            assert torch.equal(getattr(one, which), value), which


@given(st.floats(-100, 100, width=32))
def test_the_compiled_nonlinearities_are_right_to_the_last_digits(number: float) -> None:
    from model.nn.fused import vector

    x, exact = np.float32(number), np.float64(number)
    # Beyond -87 and 88 they stay where they are: e^x leaves float32 there.
    lowest, highest = np.float64(np.float32(-87.3)), np.float64(np.float32(88.3))
    assert vector.exp(x) == pytest.approx(np.exp(np.clip(exact, lowest, highest)), rel=3e-7)
    assert vector.sigmoid(x) == pytest.approx(1 / (1 + np.exp(np.clip(-exact, lowest, highest))), rel=5e-7)
    assert vector.tanh(x) == pytest.approx(np.tanh(exact), rel=3e-7)


def test_a_memory_read_early_alone_has_gradients_of_what_came_before_it() -> None:
    step = make_step(VARIANTS["default"])
    events = make_events(step, 2, 6).requires_grad_()
    step.run(step.initial_state(2), events, [2] * 6)[2].slots.square().sum().backward()
    assert events.grad is not None
    assert (events.grad[:, :3].abs().sum((0, 2)) > 0).all()
    assert (events.grad[:, 3:] == 0).all()


def test_nothing_is_kept_alive_after_a_run_whose_gradient_nobody_asked_for() -> None:
    import gc
    import weakref

    step = make_step(VARIANTS["default"])
    events = make_events(step, 2, 3)
    gc.collect()
    gc.disable()
    try:
        states = step.run(step.initial_state(2), events, [2] * 3)
        kept = weakref.ref(states[-1].slots)
        del states
        assert kept() is None
    finally:
        gc.enable()
