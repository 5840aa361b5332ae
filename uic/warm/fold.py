"""A history folded into memories, many users at once: lanes of one batch, each with a user, refilled when that user is done.

So every step is taken for as many users as there are lanes, however unequal their histories are, until the last ones; the
longest come first. What is applied is judged before (uic/warm/judge.py); the memories are those of uic/update.py.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from uic.codec import Columns
from uic.memory import Float32
from uic.update import Updater, content_mark, id_mark
from uic.warm.history import NO_ID, History, Int64
from uic.warm.judge import APPLIED, Verdicts

LANES = 256
_BLOCK = 1024


class Memories(NamedTuple):
    """Some users' memories side by side, as uic/codec.py writes them."""

    users: list[str]
    packed: memoryview


class _Steps(NamedTuple):
    """The events of every user's last life, user by user: those of user u are from `starts_U[u]` on, `counts_U[u]` of them."""

    events_S: Int64
    starts_U: Int64
    counts_U: Int64


def fold_history(updater: Updater, history: History, verdicts: Verdicts, *, lanes: int = LANES) -> Iterator[Memories]:
    """The memories of all users after their histories, some at a time, as they are done."""
    if not history.users:
        return
    steps = _steps(history, verdicts)
    finished: list[int] = []
    states: list[Float32] = []
    for users, states_BF in _run(updater, history, steps, lanes):
        finished += users
        states.append(states_BF)
        if len(finished) >= _BLOCK:
            yield _memories(updater, history, steps, finished, np.concatenate(states))
            finished, states = [], []
    if finished:
        yield _memories(updater, history, steps, finished, np.concatenate(states))


def _steps(history: History, verdicts: Verdicts) -> _Steps:
    is_applied_E = verdicts.outcomes_E == APPLIED
    # Before the last life nothing needs to be computed.
    is_step_E = is_applied_E & (np.arange(len(is_applied_E)) >= np.repeat(verdicts.lives_U, history.counts_U))
    counts_U = np.add.reduceat(is_step_E, history.starts_U, dtype=np.int64)
    return _Steps(np.flatnonzero(is_step_E), np.cumsum(counts_U) - counts_U, counts_U)


def _run(updater: Updater, history: History, steps: _Steps, lanes: int) -> Iterator[tuple[list[int], Float32]]:
    """Users that are done, by their places, with their states; every user once."""
    items_S = updater.items.rows(history.items_E[steps.events_S])
    categories_S = updater.categories.rows(history.categories_E[steps.events_S])
    queue = np.argsort(-steps.counts_U, kind="stable")
    taken = min(lanes, len(queue))
    user_B = queue[:taken]
    at_B, end_B = _reach(steps, user_B)
    states_BF = np.tile(updater.initial.state_F, (taken, 1))
    while len(user_B) > 0:
        states_BF = updater.step(states_BF, items_S[at_B], categories_S[at_B])
        at_B += 1
        done = np.flatnonzero(at_B == end_B)
        if len(done) == 0:
            continue
        yield user_B[done].tolist(), states_BF[done]
        refilled = done[: len(queue) - taken]
        new = queue[taken : taken + len(refilled)]
        taken += len(new)
        user_B[refilled] = new
        at_B[refilled], end_B[refilled] = _reach(steps, new)
        states_BF[refilled] = updater.initial.state_F
        if len(refilled) < len(done):
            stays = np.ones(len(user_B), dtype=np.bool_)
            stays[done[len(refilled) :]] = False
            user_B, at_B, end_B, states_BF = user_B[stays], at_B[stays], end_B[stays], states_BF[stays]


def _reach(steps: _Steps, users: Int64) -> tuple[Int64, Int64]:
    return steps.starts_U[users], steps.starts_U[users] + steps.counts_U[users]


def _memories(updater: Updater, history: History, steps: _Steps, users: list[int], states_BF: Float32) -> Memories:
    counts = steps.counts_U[users]
    times_ms = history.times_E[steps.events_S[steps.starts_U[users] + counts - 1]].tolist()
    columns = Columns(
        states_BF=states_BF,
        rings=_rings(history, steps, users, updater.codec.layout.ring_size),
        sequences=counts.tolist(),
        last_times_ms=times_ms,
        log_times_ms=times_ms,
        generations=[updater.initial.generation] * len(users),
    )
    packed = updater.codec.encode_packed(columns, bundle_version=updater.bundle_version)
    return Memories([history.users[user] for user in users], packed)


def _rings(history: History, steps: _Steps, users: list[int], size: int) -> list[bytes]:
    """The fingerprint ring of each user: event number s of a life is at s % size (uic/update.py, `remember`)."""
    if size == 0:
        return [b""] * len(users)
    counts_U = steps.counts_U[users]
    kept_U = np.minimum(counts_U, size)
    ends_U = np.cumsum(kept_U)
    first_U = steps.starts_U[users] + counts_U - kept_U
    events = steps.events_S[np.repeat(first_U - (ends_U - kept_U), kept_U) + np.arange(int(ends_U[-1]))]
    behaviours, event_ids = history.behaviours, history.event_ids
    marks = b"".join(
        content_mark(time_ms, item, behaviours[behaviour]) + id_mark(None if event_id == NO_ID else event_ids[event_id])
        for time_ms, item, behaviour, event_id in zip(
            history.times_E[events].tolist(),
            history.items_E[events].tolist(),
            history.behaviours_E[events].tolist(),
            history.ids_E[events].tolist(),
            strict=True,
        )
    )
    rings = []
    for count, kept, end in zip(counts_U.tolist(), kept_U.tolist(), ends_U.tolist(), strict=True):
        last = marks[16 * (end - kept) : 16 * end]
        turned = 16 * (size - count % size)
        rings.append(last[turned:] + last[:turned] if kept == size else last + bytes(16 * (size - kept)))
    return rings
