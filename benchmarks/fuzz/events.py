"""Targets: an event on the wire, and logs of them taken event by event and in batches."""

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.fuzz.memories import CODEC, LAYOUT
from benchmarks.fuzz.target import Target
from uic import event as events
from uic.batch import Arrival, BatchUpdater
from uic.errors import InvalidEvent
from uic.event import parse_event, to_json
from uic.memory import Float32, UserMemory
from uic.quarantine import Quarantine
from uic.update import Int64, Outcome, Rules, Updater
from uic.vocabulary import Vocabulary

NOW_MS = 1_700_000_000_000
_USERS = ("u1", "u2", "ü")
_ACCEPTED = frozenset({"click", "buy"})
_AHEAD_MS = 1000
_STEPS_MS = (0, 1, 40, 400, 600, 43_200_000)
_MOST_LINES = 40
_GOOD = {"user_id": "u1", "item_id": 42, "category_id": 7, "behaviour": "click", "time_ms": NOW_MS}
_WORDS = (
    *(f'"{name}":'.encode() for name in (*_GOOD, "event_id", "source")),
    *(b"null", b"true", b"1.0", b"1e5", b"-0", b'""', b"\\ud800", b"\\u0000", b"NaN", b"Infinity"),
    *(b"\xed\xa0\x80", "ü".encode(), b"\xef\xbb\xbf"),
)


def check_event(payload: bytes) -> None:
    """Read and written back the same, in the short way as in the checked one; or refused with a reason that can be kept."""
    try:
        read = parse_event(payload, now_ms=NOW_MS)
    except InvalidEvent as error:
        _check_refusal(error)
        return
    assert parse_event(to_json(read), now_ms=NOW_MS) == read
    assert b"\n" not in to_json(read)
    assert events._checked_event(payload) == read, "the short way and the checked one disagree"  # not to be seen from outside


def _check_refusal(refused: InvalidEvent) -> None:
    assert refused.reason.isidentifier()
    assert len(str(refused).encode()) < 1000


class _Line(NamedTuple):
    """An event of a log as fuzzed: bytes for user, step of the log time and being late, then the payload."""

    user: int
    log_time_ms: int
    accepts_late: bool
    payload: bytes


def _log(data: bytes) -> list[_Line]:
    lines, log_time_ms = [], NOW_MS
    for line in data.split(b"\n")[:_MOST_LINES]:
        head = (*line[:2], 0, 0)[:2]
        log_time_ms += _STEPS_MS[head[1] % len(_STEPS_MS)]
        lines.append(_Line(head[0] % len(_USERS), log_time_ms, head[1] % 7 == 0, line[2:]))
    return lines


def _step(state_BF: Float32, item_rows_B: Int64, category_rows_B: Int64) -> Float32:
    # Exact in float32 for short histories, and the order of events matters.
    after_BF: Float32 = (state_BF / 2 + (item_rows_B + category_rows_B / 4)[:, None]).astype(np.float32)
    return after_BF


def _updater() -> Updater:
    return Updater(
        codec=CODEC,
        step=_step,
        initial=UserMemory(state_F=np.zeros(LAYOUT.size_F, np.float32), fingerprints=bytes(16 * LAYOUT.ring_size)),
        items=Vocabulary(np.arange(40, 60)),
        categories=Vocabulary(np.arange(1, 10)),
        bundle_version=99,
        rules=Rules(lateness_ms=50, idle_after_ms=500),
    )


_UPDATER = _updater()
_QUARANTINE = Quarantine(from_ms=NOW_MS + 30, users=frozenset({"ü"}), items=frozenset({44}), sources=frozenset({"bad"}))
_BATCHES = BatchUpdater(_UPDATER, accepted=_ACCEPTED, max_ahead_ms=_AHEAD_MS, quarantine=_QUARANTINE)
Left = tuple[int, str, str, str]


def _one_by_one(log: Sequence[_Line]) -> tuple[dict[int, bytes], list[Left]]:
    memories: dict[int, bytes] = {}
    left: list[Left] = []
    for place, (user, log_time_ms, accepts_late, payload) in enumerate(log):
        try:
            one = parse_event(payload, now_ms=log_time_ms, accepted=_ACCEPTED, max_ahead_ms=_AHEAD_MS, key=_USERS[user])
            _QUARANTINE.check(one, log_time_ms)
        except InvalidEvent as error:
            left.append((place, "dead", error.reason, str(error)))
            continue
        done = _UPDATER.update(memories.get(user), one, log_time_ms=log_time_ms, accepts_late=accepts_late)
        if done.outcome is not Outcome.APPLIED:
            left.append((place, done.outcome.value, done.outcome.value, done.detail))
        if done.blob is not None:
            memories[user] = done.blob
    return memories, left


def _batched(log: Sequence[_Line], cut: int) -> tuple[dict[int, bytes], list[Left]]:
    memories: dict[int, bytes] = {}
    left: list[Left] = []
    for start, part in ((0, log[:cut]), (cut, log[cut:])):
        done = _BATCHES.apply(_USERS, [memories.get(user) for user in range(len(_USERS))], [Arrival(*line) for line in part])
        memories |= done.blobs
        left += [(start + each.event, each.kind, each.reason, each.detail) for each in done.left]
    return memories, left


def check_log(data: bytes) -> None:
    """Both plans leave the same memories, and put the same events aside for the same reasons."""
    log = _log(data)
    one, other = _one_by_one(log), _batched(log, data[0] % (len(log) + 1) if data else 0)
    assert one[1] == other[1], f"event by event {one[1]}, in batches {other[1]}"
    assert one[0] == other[0], "the memories differ"


def _json(**changes: object) -> bytes:
    return json.dumps({**_GOOD, **changes}).encode()


def targets() -> list[Target]:
    """Both targets."""
    kinds = [
        _json(),
        _json(event_id="e1", source="web", page={"deep": [1, None, 1.5]}),
        _json(user_id=7, item_id=-(2**63), category_id=2**63 - 1, event_id=12),
        _json(user_id="ü" * 40, behaviour="\u0000\n", source=None),
        json.dumps({**_GOOD, "user_id": "ü𝄞"}, ensure_ascii=False).encode(),
        _json(item_id=1.5),
        _json(time_ms=NOW_MS + 10**9),
    ]
    lines = [
        bytes([user, step]) + _json(user_id=_USERS[user], item_id=40 + step, time_ms=NOW_MS + 30 * step, event_id=mark)
        for user in (0, 1, 2)
        for step in (0, 1, 2, 5, 7)
        for mark in (None, "a")
    ]
    logs = [b"\n".join(lines[start::5]) for start in range(5)] + [b"\n".join(b"\0\1" + each for each in kinds), lines[0]]
    return [
        Target(
            name="event",
            law="an event is read and written back the same in both ways of reading, or refused with a reason",
            check=check_event,
            seeds=kinds,
            words=_WORDS,
        ),
        Target(
            name="log",
            law="the per-event and the batched plan leave the same memories and the same letters",
            check=check_log,
            seeds=logs,
            words=(*_WORDS, b"\n\0\0{", b"\n\1\7{"),
        ),
    ]
