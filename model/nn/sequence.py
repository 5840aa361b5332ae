"""A sequence of events through the step: the scan, with what padded positions do to it (mimn-spec 2.5)."""

from typing import Any, Generic, Literal, NamedTuple

import torch
from torch import Tensor

from model.nn.state import S, made
from model.nn.step import MemoryStep

Padding = Literal["skip", "reset", "run"]


class Scanned(NamedTuple, Generic[S]):
    """The final memory, and for each event the memory after it and what happened inside."""

    state: S
    states: list[S]
    traces: list[Any]  # what the step tells of itself, such as StepTrace


def scan(
    step: MemoryStep[S], events_BTX: Tensor, mask_BT: Tensor | None = None, padding: Padding = "skip", start: S | None = None
) -> Scanned[S]:
    """Fold T events into a memory, keeping every state. Padded positions are those where the mask is 0.

    skip    a padded position leaves the memory as it was: a padded batch equals the fold of single events (default)
    reset   what the step names in `resets` goes back to its start, for MIMN all but g and r (the authors' Taobao script)
    run     the zero vector of a padded position is an event like any other (the authors' Amazon script)
    """
    initial = step.initial_state(events_BTX.shape[0])
    state = initial if start is None else start
    states, traces = [], []
    for t, event in enumerate(step.each(events_BTX)):
        after, trace = step.advance(state, event)
        if mask_BT is not None and padding != "run":
            real_B = mask_BT[:, t] > 0
            after = _keep(after, state, real_B) if padding == "skip" else _reset(after, initial, real_B, step.resets)
        state = after
        states.append(state)
        traces.append(trace)
    return Scanned(state, states, traces)


def _where(real_B: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(real_B.view(-1, *[1] * (one.dim() - 1)), one, other)


def _keep(after: S, before: S, real_B: Tensor) -> S:
    return made(after, [None if new is None else _where(real_B, new, old) for new, old in zip(after, before, strict=True)])


def _reset(after: S, initial: S, real_B: Tensor, names: tuple[str, ...]) -> S:
    triples = zip(after._fields, after, initial, strict=True)  # type: ignore[attr-defined]  # every state is a NamedTuple
    return made(after, [_where(real_B, new, old) if name in names and new is not None else new for name, new, old in triples])
