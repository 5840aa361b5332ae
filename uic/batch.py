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


class _Steps(NamedTuple):
    """The events to apply, in log order, column by column. `waves`: which wave of steps each belongs to."""

    waves: list[int]
    users: list[int]
    items: list[int]
    categories: list[int]
    begins: list[int]


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
        ledgers = opened.ledgers
        steps = _Steps([], [], [], [], [])
        next_wave = [0] * len(users)
        left: list[Left] = []
        for place, (user, log_time_ms, accepts_late, payload) in enumerate(events):
            try:
                event = parse_event(payload, now_ms=log_time_ms, accepted=accepted, max_ahead_ms=max_ahead_ms, key=users[user])
            except InvalidEvent as error:
                left.append(Left(place, "dead", error.reason, str(error)))
                continue
            ledger = ledgers[user]
            outcome, detail = ledger.take(event, log_time_ms, rules, accepts_late=accepts_late)
            if outcome is not Outcome.APPLIED:
                left.append(Left(place, outcome.value, outcome.value, detail))
                continue
            if ledger.sequence == 1:
                steps.begins.append(len(steps.users))
            steps.waves.append(next_wave[user])
            next_wave[user] += 1
            steps.users.append(user)
            steps.items.append(event.item_id)
            steps.categories.append(event.category_id)
        started = time.perf_counter()
        self._step(opened.states_UF, steps)
        step_s = time.perf_counter() - started
        outcomes = Counter(each.kind for each in left)
        outcomes[Outcome.APPLIED.value] = len(steps.users)
        changed = [user for user, wave in enumerate(next_wave) if wave > 0]
        return BatchUpdate(self._close(changed, opened), left, outcomes, step_s)

    def _open(self, users: Sequence[str], blobs: Sequence[bytes | None]) -> _Open:
        empty = self.updater.initial
        present = [place for place, blob in enumerate(blobs) if blob is not None]
        columns = self._decode(users, present, [blob for blob in blobs if blob is not None])
        times = zip(columns.rings, columns.sequences, columns.last_times_ms, columns.log_times_ms, strict=True)
        known = [Ledger(ring, sequence, _time(last_ms), _time(log_ms)) for ring, sequence, last_ms, log_ms in times]
        if len(present) == len(users):
            return _Open(known, columns.generations, columns.states_BF.copy())
        ledgers = [Ledger.of(empty) for _ in users]
        generations = [empty.generation] * len(users)
        for place, ledger, generation in zip(present, known, columns.generations, strict=True):
            ledgers[place] = ledger
            generations[place] = generation
        states_UF = np.empty((len(users), self.updater.codec.layout.size_F), dtype=np.float32)
        states_UF[:] = empty.state_F
        states_UF[present] = columns.states_BF
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

    def _step(self, states_UF: Float32, steps: _Steps) -> None:
        """Take the steps in waves: within one, every user comes once at most."""
        if not steps.users:
            return
        updater = self.updater
        waves_E = np.array(steps.waves)
        order_E = np.argsort(waves_E, kind="stable")
        users_E = np.array(steps.users)[order_E]
        items_E = updater.items.rows(np.array(steps.items, dtype=np.int64))[order_E]
        categories_E = updater.categories.rows(np.array(steps.categories, dtype=np.int64))[order_E]
        begins_E = np.zeros(len(users_E), dtype=np.bool_)
        begins_E[steps.begins] = True
        begins_E = begins_E[order_E]
        start = 0
        for end in np.cumsum(np.bincount(waves_E)).tolist():
            users_B = users_E[start:end]
            before_BF = states_UF[users_B]
            if steps.begins:
                before_BF[begins_E[start:end]] = updater.initial.state_F
            states_UF[users_B] = updater.step(before_BF, items_E[start:end], categories_E[start:end])
            start = end

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
