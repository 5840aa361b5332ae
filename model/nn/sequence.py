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
    states, traces = [], []
    for t, event in enumerate(each_event(step.project(events_BTX))):
        after, trace = step.advance(state, event)
        if mask_BT is not None and padding != "run":
            real_B = mask_BT[:, t] > 0
            after = _keep(after, state, real_B) if padding == "skip" else _reset(after, initial, real_B)
        state = after
        states.append(state)
        traces.append(trace)
    return Scanned(state, states, traces)


def each_event(projected: EventInput) -> list[EventInput]:
    """A projected sequence [B, T, ...] as T events [B, ...].

    Taken apart at once: picked one by one, each position's gradient would be padded to the whole sequence.
    """
    events = projected.event.unbind(1)
    controllers = _each(projected.controller)
    channels = [None] * len(events) if projected.channels is None else _each(projected.channels)
    return [EventInput(*parts) for parts in zip(events, controllers, channels, strict=True)]


def first_users(event: EventInput, users: int) -> EventInput:
    """The same event of the first so many users of a batch."""

    def cut(gru: GruInput) -> GruInput:
        return gru._replace(gates=gru.gates[:users], candidate=gru.candidate[:users])

    return EventInput(event.event[:users], cut(event.controller), None if event.channels is None else cut(event.channels))


def _each(gru: GruInput) -> list[GruInput]:
    pairs = zip(gru.gates.unbind(1), gru.candidate.unbind(1), strict=True)
    return [gru._replace(gates=gates, candidate=candidate) for gates, candidate in pairs]


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
