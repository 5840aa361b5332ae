"""A sequence of events through the step: the scan, with what padded positions do to it (mimn-spec 2.5)."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from model.nn.gru import GruInput
from model.nn.mimn import EventInput, MimnState, MimnStep, StepTrace

Padding = Literal["skip", "reset", "run"]


class Scanned(NamedTuple):
    """The final memory, and for each event the memory after it and what happened inside."""

    state: MimnState
    states: list[MimnState]
    traces: list[StepTrace]


def scan(
    step: MimnStep, events_BTX: Tensor, mask_BT: Tensor | None = None, padding: Padding = "skip", start: MimnState | None = None
) -> Scanned:
    """Fold T events into a memory, keeping every state. Padded positions are those where the mask is 0.

    skip    a padded position leaves the memory as it was: a padded batch equals the fold of single events (default)
    reset   controller, slots, add vectors and channels go back to their start, g and r do not (the authors' Taobao script)
    run     the zero vector of a padded position is an event like any other (the authors' Amazon script)
    """
    initial = step.initial_state(events_BTX.shape[0])
    state = initial if start is None else start
    projected = step.project(events_BTX)
    states, traces = [], []
    for t in range(events_BTX.shape[1]):
        after, trace = step.advance(state, at(projected, t))
        if mask_BT is not None and padding != "run":
            real_B = mask_BT[:, t] > 0
            after = _keep(after, state, real_B) if padding == "skip" else _reset(after, initial, real_B)
        state = after
        states.append(state)
        traces.append(trace)
    return Scanned(state, states, traces)


def at(projected: EventInput, t: int, users: int | None = None) -> EventInput:
    """The events of position t of a projected sequence, of all users or of the first so many."""

    def pick(part: Tensor) -> Tensor:
        return part[:users, t]

    controller = GruInput(pick(projected.controller.gates), pick(projected.controller.candidate))
    channels = projected.channels
    if channels is not None:
        channels = GruInput(pick(channels.gates), pick(channels.candidate))
    return EventInput(pick(projected.event), controller, channels)


def _where(real_B: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(real_B.view(-1, *[1] * (one.dim() - 1)), one, other)


def _keep(after: MimnState, before: MimnState, real_B: Tensor) -> MimnState:
    pairs = zip(after._fields, after, before, strict=True)
    return MimnState(**{name: _where(real_B, new, old) for name, new, old in pairs if new is not None and old is not None})


def _reset(after: MimnState, initial: MimnState, real_B: Tensor) -> MimnState:
    fresh = {
        name: _where(real_B, new, start)
        for name, new, start in zip(after._fields, after, initial, strict=True)
        if name in ("controller", "slots", "add_pool", "channels") and new is not None and start is not None
    }
    return after._replace(**fresh)
