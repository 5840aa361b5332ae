"""Many events of many users applied in one call: the batched plan's half of uic/update.py, with the same rules.

Which events are applied is decided event by event in log order. The steps are then taken in waves: the first event of every
user in the batch at once, then the second ones, so that a user may come as often as they like within a batch.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from uic.codec import NO_TIME, Columns
from uic.errors import CorruptMemory, InvalidEvent
from uic.event import parse_event
from uic.memory import Float32
from uic.update import Ledger, Outcome, Updater


class Arrival(NamedTuple):
    """One event of a batch: the place of its user in the batch, when the log took it in, and its original bytes."""

    user: int
    log_time_ms: int
    accepts_late: bool
    payload: bytes


class Left(NamedTuple):
    """An event of the batch, by its place, that was not applied. `kind` is dead, late or duplicate."""

    event: int
    kind: str
    reason: str
    detail: str


class BatchUpdate(NamedTuple):
    """What a batch did. `blobs` has the new memory of every user whose memory changed, by the user's place."""

    blobs: Mapping[int, bytes]
    left: list[Left]
    outcomes: Counter[str]
    step_s: float


class _Wave(NamedTuple):
    users: list[int]
    items: list[int]
    categories: list[int]
    begins: list[bool]


class _Open(NamedTuple):
    ledgers: list[Ledger]
    generations: list[int]
    states_UF: Float32


class BatchUpdater:
    """Applies batches of raw events to memories of one bundle, as `Updater` applies single events.

    `accepted` and `max_ahead_ms` are those of `parse_event`; the clock that an event must not run ahead of is its log time.
    """

    def __init__(self, updater: Updater, *, accepted: frozenset[str] | None, max_ahead_ms: int) -> None:
        self.updater = updater
        self._accepted = accepted
        self._max_ahead_ms = max_ahead_ms

    def apply(self, users: Sequence[str], blobs: Sequence[bytes | None], events: Sequence[Arrival]) -> BatchUpdate:
        """Apply `events`, in log order, to the memories in `blobs` (None: the initial memory) of `users`.

        Raises CorruptMemory, naming the user, if a memory cannot be used; then nothing of the batch counts.
        """
        accepted, max_ahead_ms, rules = self._accepted, self._max_ahead_ms, self.updater.rules
        opened = self._open(users, blobs)
        waves: list[_Wave] = []
        next_wave = [0] * len(users)
        left: list[Left] = []
        outcomes: Counter[str] = Counter()
        for place, (user, log_time_ms, accepts_late, payload) in enumerate(events):
            try:
                event = parse_event(payload, now_ms=log_time_ms, accepted=accepted, max_ahead_ms=max_ahead_ms, key=users[user])
            except InvalidEvent as error:
                left.append(Left(place, "dead", error.reason, str(error)))
                continue
            ledger = opened.ledgers[user]
            outcome, detail = ledger.take(event, log_time_ms, rules, accepts_late=accepts_late)
            if outcome is Outcome.APPLIED:
                if next_wave[user] == len(waves):
                    waves.append(_Wave([], [], [], []))
                wave = waves[next_wave[user]]
                next_wave[user] += 1
                wave.users.append(user)
                wave.items.append(event.item_id)
                wave.categories.append(event.category_id)
                wave.begins.append(ledger.sequence == 1)
            else:
                left.append(Left(place, outcome.value, outcome.value, detail))
        started = time.perf_counter()
        self._step(opened.states_UF, waves)
        step_s = time.perf_counter() - started
        outcomes.update(each.kind for each in left)
        outcomes[Outcome.APPLIED.value] = len(events) - len(left)
        # The first wave holds every user of whom anything was applied.
        changed = waves[0].users if waves else []
        return BatchUpdate(self._close(changed, opened), left, outcomes, step_s)

    def _open(self, users: Sequence[str], blobs: Sequence[bytes | None]) -> _Open:
        updater = self.updater
        empty = updater.initial
        ledgers = [Ledger.of(empty) for _ in users]
        generations = [empty.generation] * len(users)
        states_UF = np.empty((len(users), updater.codec.layout.size_F), dtype=np.float32)
        present = [place for place, blob in enumerate(blobs) if blob is not None]
        if len(present) < len(users):
            states_UF[:] = empty.state_F
        if present:
            columns = self._decode(users, present, [blob for blob in blobs if blob is not None])
            states_UF[present] = columns.states_BF
            for place, ring, sequence, last_ms, log_ms, generation in zip(
                present,
                columns.rings,
                columns.sequences,
                columns.last_times_ms,
                columns.log_times_ms,
                columns.generations,
                strict=True,
            ):
                ledgers[place] = Ledger(ring, sequence, _time(last_ms), _time(log_ms))
                generations[place] = generation
        return _Open(ledgers, generations, states_UF)

    def _decode(self, users: Sequence[str], present: Sequence[int], blobs: Sequence[bytes]) -> Columns:
        codec = self.updater.codec
        try:
            return codec.decode_many(blobs)
        except CorruptMemory:
            for place, blob in zip(present, blobs, strict=True):
                try:
                    codec.decode(blob)
                except CorruptMemory as error:
                    raise type(error)(f"user {users[place]!r}: {error}") from None
            raise

    def _step(self, states_UF: Float32, waves: "list[_Wave]") -> None:
        updater = self.updater
        for wave in waves:
            users_B = np.array(wave.users)
            before_BF = states_UF[users_B]
            if any(wave.begins):
                before_BF[wave.begins] = updater.initial.state_F
            items_B = updater.items.rows(np.array(wave.items, dtype=np.int64))
            categories_B = updater.categories.rows(np.array(wave.categories, dtype=np.int64))
            states_UF[users_B] = updater.step(before_BF, items_B, categories_B)

    def _close(self, changed: list[int], opened: _Open) -> dict[int, bytes]:
        if not changed:
            return {}
        ledgers = [opened.ledgers[place] for place in changed]
        columns = Columns(
            states_BF=opened.states_UF[changed],
            rings=[ledger.ring for ledger in ledgers],
            sequences=[ledger.sequence for ledger in ledgers],
            last_times_ms=[NO_TIME if ledger.last_time_ms is None else ledger.last_time_ms for ledger in ledgers],
            log_times_ms=[NO_TIME if ledger.log_time_ms is None else ledger.log_time_ms for ledger in ledgers],
            generations=[opened.generations[place] for place in changed],
        )
        blobs = self.updater.codec.encode_many(columns, bundle_version=self.updater.bundle_version)
        return dict(zip(changed, blobs, strict=True))


def _time(time_ms: int) -> int | None:
    return None if time_ms == NO_TIME else time_ms
