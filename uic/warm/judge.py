"""Which events of a history are applied: the rules of uic/update.py over columns, in a fraction of their time.

Two of those rules say something here: an event is a duplicate, or it begins a new life of a user who was idle for too long.
Nothing in a history is late, and what is no event never becomes part of one. Users with no two events alike, nearly all of
them, are settled by whole columns; the others event by event, with what is alike as numbers in place of fingerprints.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from uic.warm.history import NO_ID, History, Int64

APPLIED, SAME_CONTENT, SAME_ID = 0, 1, 2
# As `admit` says it.
DETAILS = {SAME_CONTENT: "same time, item and behaviour", SAME_ID: "same event_id"}
_UNLIKE = -1


class Verdicts(NamedTuple):
    """`outcomes_E`: APPLIED, SAME_CONTENT or SAME_ID. `lives_U`: the event with which each user's last life begins."""

    outcomes_E: NDArray[np.uint8]
    lives_U: Int64


def judge(history: History, *, ring_size: int, idle_after_ms: int | None) -> Verdicts:
    """What becomes of each event."""
    outcomes_E = np.zeros(len(history.times_E), dtype=np.uint8)
    lives_U = _lives(history, idle_after_ms)
    if ring_size == 0:
        return Verdicts(outcomes_E, lives_U)
    user_E = history.user_E
    contents_E = _contents(history, user_E)
    ids_E = _repeated_ids(history, user_E)
    for user in np.unique(user_E[(contents_E != _UNLIKE) | (ids_E != _UNLIKE)]).tolist():
        start = int(history.starts_U[user])
        end = start + int(history.counts_U[user])
        outcomes, life = _one_by_one(
            history.times_E[start:end].tolist(),
            contents_E[start:end].tolist(),
            ids_E[start:end].tolist(),
            ring_size=ring_size,
            idle_after_ms=idle_after_ms,
        )
        outcomes_E[start:end] = outcomes
        lives_U[user] = start + life
    return Verdicts(outcomes_E, lives_U)


def _lives(history: History, idle_after_ms: int | None) -> Int64:
    """The first event of every user's last life, if all events are applied."""
    starts_U = history.starts_U.copy()
    if idle_after_ms is None or len(starts_U) == 0:
        return starts_U
    begins_E = np.zeros(len(history.times_E), dtype=np.int64)
    after = np.flatnonzero(np.diff(history.times_E) > idle_after_ms) + 1
    begins_E[after] = after
    lives_U: Int64 = np.maximum(starts_U, np.maximum.reduceat(begins_E, starts_U))
    return lives_U


def _contents(history: History, user_E: Int64) -> Int64:
    """A number that equal events of a user share (time, item and behaviour); _UNLIKE where there is no other such event."""
    contents_E = np.full(len(user_E), _UNLIKE)
    is_tie = (np.diff(history.times_E) == 0) & (np.diff(user_E) == 0)
    if not is_tie.any():
        return contents_E
    in_run = np.flatnonzero(np.concatenate([is_tie, [False]]) | np.concatenate([[False], is_tie]))
    run = np.cumsum(np.concatenate([[True], ~is_tie]))[in_run]
    keys = (history.behaviours_E[in_run], history.items_E[in_run], run)
    order = np.lexsort(keys)
    is_new = np.concatenate([[True], np.logical_or.reduce([np.diff(key[order]) != 0 for key in keys])])
    group = np.cumsum(is_new) - 1
    is_repeated = np.bincount(group)[group] > 1
    contents_E[in_run[order[is_repeated]]] = group[is_repeated]
    return contents_E


def _repeated_ids(history: History, user_E: Int64) -> Int64:
    """The event id's code where the user has it more than once, else _UNLIKE."""
    ids_E = np.full(len(user_E), _UNLIKE)
    with_id = np.flatnonzero(history.ids_E != NO_ID)
    if len(with_id) == 0:
        return ids_E
    order = with_id[np.lexsort((history.ids_E[with_id], user_E[with_id]))]
    is_new = np.concatenate([[True], (np.diff(user_E[order]) != 0) | (np.diff(history.ids_E[order]) != 0)])
    group = np.cumsum(is_new) - 1
    repeated = order[np.bincount(group)[group] > 1]
    ids_E[repeated] = history.ids_E[repeated]
    return ids_E


def _one_by_one(
    times: list[int], contents: list[int], ids: list[int], *, ring_size: int, idle_after_ms: int | None
) -> tuple[list[int], int]:
    """One user's outcomes, and where the last life begins. Event number a is in the ring until number a + ring_size came."""
    outcomes = []
    numbers: dict[tuple[bool, int], int] = {}
    applied, life, last_ms = 0, 0, times[0]
    for place, (time_ms, content, event_id) in enumerate(zip(times, contents, ids, strict=True)):
        if idle_after_ms is not None and time_ms - last_ms > idle_after_ms:
            numbers.clear()
            applied, life = 0, place
        oldest = applied - ring_size
        if content != _UNLIKE and numbers.get((True, content), oldest - 1) >= oldest:
            outcomes.append(SAME_CONTENT)
            continue
        if event_id != _UNLIKE and numbers.get((False, event_id), oldest - 1) >= oldest:
            outcomes.append(SAME_ID)
            continue
        outcomes.append(APPLIED)
        numbers[True, content] = numbers[False, event_id] = applied
        applied += 1
        last_ms = time_ms
    return outcomes, life
