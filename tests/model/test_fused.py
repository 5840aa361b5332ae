"""MIMN's run with its hand-written backward pass (model/nn/fused) is the run step by step, gradients included."""

import copy

import pytest
import torch
from drawn_models import SIZES, VARIANTS, make_events, make_step, tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.nn.fused.scan import supports
from model.nn.mimn import MimnState, MimnStep
from model.nn.state import first
from model.nn.step import MemoryStep
from uic.variant import preset

DRAWN = VARIANTS | {
    "no temperature": preset("default", temperature=False, **SIZES),
    "no key memory": preset("official", key_memory=False, **SIZES),
    "basic": preset("default", mur="none", miu=False, pooling="sum", **SIZES),
}


@pytest.fixture(autouse=True)
def _fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has to be asked for."""
    monkeypatch.setattr(MimnStep, "is_fused", True)


FUSED = {name: variant for name, variant in DRAWN.items() if supports(variant)}


def outcome(states: list[MimnState], weights: list[dict[str, Tensor]]) -> Tensor:
    """A number that depends on every float of every memory."""
    parts = [
        (weights[t][name][: len(value)] * value).sum() for t, each in enumerate(states) for name, value in tensors(each).items()
    ]
    return torch.stack(parts).sum()


def gradients(
    step: MimnStep, events: Tensor, start: MimnState, going: list[int], weights: list[dict[str, Tensor]], kind: str
) -> dict[str, Tensor]:
    step.zero_grad()
    given = {"events": events.clone().requires_grad_()} | {
        name: value.clone().requires_grad_()
        for name, value in tensors(start).items()
        if name not in ("applied", "last_channels")
    }
    state = start._replace(**{name: value for name, value in given.items() if name != "events"})
    run = step.run if kind == "fused" else lambda *of: MemoryStep.run(step, *of)
    loss = outcome(run(first(state, going[0]), given["events"][: going[0]], going), weights)
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
    ours, theirs = (gradients(step, events, warm, going, weights, kind) for kind in ("fused", "step by step"))
    assert ours.keys() == theirs.keys()
    for which, value in theirs.items():
        torch.testing.assert_close(ours[which], value, rtol=1e-8, atol=1e-8, msg=lambda text, of=which: f"{of}: {text}")


@settings(max_examples=12)
@given(st.sampled_from(sorted(FUSED)), st.integers(0, 99))
def test_in_float32_gradients_are_no_further_from_the_exact_ones_than_those_of_single_steps(name: str, seed: int) -> None:
    exact_step = make_step(FUSED[name], seed)
    step = copy.deepcopy(exact_step).float()
    events, going = make_events(exact_step, 4, 16, seed), [4] * 16
    with torch.no_grad():
        start = exact_step.initial_state(4)
    torch.manual_seed(seed)
    weights = [{which: torch.randn_like(value) for which, value in tensors(start).items()} for _ in going]
    rounded = [{which: value.float() for which, value in each.items()} for each in weights]
    exact = gradients(exact_step, events, start, going, weights, "step by step")

    def error(kind: str) -> float:
        found = gradients(step, events.float(), start.map(Tensor.float), going, rounded, kind)
        squares = [(found[which].double() - value).square().sum() for which, value in exact.items() if which != "loss"]
        return float(torch.stack(squares).sum().sqrt())

    norm = float(torch.stack([value.square().sum() for which, value in exact.items() if which != "loss"]).sum().sqrt())
    # Two sums of roundings: neither is the truth, and one may be luckier than the other.
    assert error("fused") <= 2 * error("step by step") + 1e-6 * norm


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
