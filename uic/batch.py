"""Many events of many users applied in one call: the batched plan's half of uic/update.py, with the same rules.

Which events are applied is decided event by event in log order. The steps are then taken in waves: the first event of every
user in the batch at once, then the second ones, so that a user may come as often as they like within a batch.

What a batch gives is each user's last memory. Where a user's events in it are of several days, the last of each earlier day is
given too: the store keeps a copy of it.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from uic.clock import Days
from uic.codec import NO_TIME, Columns
from uic.errors import CorruptMemory, InvalidEvent
from uic.event import parse_event
from uic.memory import Float32
from uic.quarantine import Quarantine
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
    """What a batch did. `changed`: users, by their places, whose memory is another one; `packed`: the new ones side by side.

    `earlier`: the last memories of days that ended within the batch for their user, to be published before those.
    """

    changed: list[int]
    packed: memoryview
    earlier: list[tuple[int, bytes]]
    left: list[Left]
    outcomes: Counter[str]
    step_s: float

    @property
    def blobs(self) -> dict[int, bytes]:
        """The new memory of each user who has one, by the user's place."""
        return dict(_blobs(self.changed, self.packed))


class _Steps(NamedTuple):
    """The events to apply, in log order, column by column. `waves`: which wave of steps each belongs to."""

    waves: list[int]
    users: list[int]
    items: list[int]
    categories: list[int]
    begins: list[int]


class _Open(NamedTuple):
    ledgers: list[Ledger]
    states_UF: Float32


class BatchUpdater:
    """Applies batches of raw events to memories of one bundle, as `Updater` applies single events.

    `accepted` and `max_ahead_ms` are those of `parse_event`; the clock that an event must not run ahead of is its log time.
    `days` are those at whose ends memories are kept; `quarantine` tells what is left out after a rollback.
    """

    def __init__(
        self,
        updater: Updater,
        *,
        accepted: frozenset[str] | None,
        max_ahead_ms: int,
        days: Days | None = None,
        quarantine: Quarantine | None = None,
    ) -> None:
        self.updater = updater
        self._quarantine = quarantine
        self._accepted = accepted
        self._max_ahead_ms = max_ahead_ms
        self._days = days or Days()

    def apply(self, users: Sequence[str], blobs: Sequence[bytes | None], events: Sequence[Arrival]) -> BatchUpdate:
        """Apply `events`, in log order, to the memories in `blobs` (None: the initial memory) of `users`.

        Raises CorruptMemory, naming the user, if a memory cannot be used; then nothing of the batch counts.
        """
        present = [place for place, blob in enumerate(blobs) if blob is not None]
        columns = self._decode(users, present, [blob for blob in blobs if blob is not None])
        return self._apply(users, self._open(len(users), present, columns), events)

    def apply_packed(
        self,
        users: Sequence[str],
        present: Sequence[int],
        packed: memoryview,
        events: Sequence[Arrival],
        *,
        into: memoryview | None = None,
    ) -> BatchUpdate:
        """The same with the memories of the users at the places `present` side by side, all of them of the layout's size.

        The new ones are written to `into`, which may be where the old ones lie.
        """
        try:
            columns = self.updater.codec.decode_packed(packed)
        except CorruptMemory:
            size = self.updater.codec.size
            columns = self._decode(users, present, [bytes(packed[at : at + size]) for at in range(0, len(packed), size)])
        return self._apply(users, self._open(len(users), present, columns), events, into)

    def _apply(
        self, users: Sequence[str], opened: _Open, events: Sequence[Arrival], into: memoryview | None = None
    ) -> BatchUpdate:
        left: list[Left] = []
        earlier: list[tuple[int, bytes]] = []
        changed: set[int] = set()
        applied, step_s = 0, 0.0
        turns = self._turns(events)
        for turn, places in enumerate(turns):
            steps = self._judge(users, opened.ledgers, events, places, left)
            started = time.perf_counter()
            opened = opened._replace(states_UF=self._step(opened.states_UF, steps))
            step_s += time.perf_counter() - started
            applied += len(steps.users)
            changed.update(steps.users)
            if turn + 1 < len(turns):
                ended = sorted(changed.intersection(events[place].user for place in turns[turn + 1]))
                earlier += _blobs(ended, self._close(ended, opened))
        if len(turns) > 1:
            left.sort()
        outcomes = Counter(each.kind for each in left)
        outcomes[Outcome.APPLIED.value] = applied
        last = sorted(changed)
        return BatchUpdate(last, self._close(last, opened, into), earlier, left, outcomes, step_s)

    def _turns(self, events: Sequence[Arrival]) -> Sequence[Sequence[int]]:
        """The places of the events in turns, so that within one each user's events are of one day: nearly always one turn."""
        bounds_ms = self._days.bounds_ms
        begins_ms, ends_ms = bounds_ms(events[0].log_time_ms) if events else (0, 0)
        if all(begins_ms <= event.log_time_ms < ends_ms for event in events):
            return [range(len(events))]
        turn_of: dict[int, tuple[int, int]] = {}
        turns: list[list[int]] = []
        for place, event in enumerate(events):
            turn, ends_ms = turn_of.get(event.user, (0, bounds_ms(event.log_time_ms)[1]))
            if event.log_time_ms >= ends_ms:
                turn, ends_ms = turn + 1, bounds_ms(event.log_time_ms)[1]
            turn_of[event.user] = turn, ends_ms
            if turn == len(turns):
                turns.append([])
            turns[turn].append(place)
        return turns

    def _judge(
        self, users: Sequence[str], ledgers: list[Ledger], events: Sequence[Arrival], places: Sequence[int], left: list[Left]
    ) -> _Steps:
        """Decide over the events at these places, in log order, and enter in the ledgers those that are to be applied."""
        accepted, max_ahead_ms, rules = self._accepted, self._max_ahead_ms, self.updater.rules
        quarantine = self._quarantine
        steps = _Steps([], [], [], [], [])
        next_wave = [0] * len(users)
        for place in places:
            user, log_time_ms, accepts_late, payload = events[place]
            try:
                event = parse_event(payload, now_ms=log_time_ms, accepted=accepted, max_ahead_ms=max_ahead_ms, key=users[user])
                if quarantine is not None:
                    quarantine.check(event, log_time_ms)
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
        return steps

    def _open(self, users: int, present: Sequence[int], columns: Columns) -> _Open:
        empty = self.updater.initial
        times = zip(columns.rings, columns.sequences, columns.last_times_ms, columns.log_times_ms, strict=True)
        known = [Ledger(ring, sequence, _time(last_ms), _time(log_ms)) for ring, sequence, last_ms, log_ms in times]
        if len(present) == users:
            return _Open(known, columns.states_BF.copy())
        ledgers = [Ledger.of(empty) for _ in range(users)]
        for place, ledger in zip(present, known, strict=True):
            ledgers[place] = ledger
        states_UF = np.empty((users, self.updater.codec.layout.size_F), dtype=np.float32)
        states_UF[:] = empty.state_F
        states_UF[present] = columns.states_BF
        return _Open(ledgers, states_UF)

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

    def _step(self, states_UF: Float32, steps: _Steps) -> Float32:
        """The states after the steps, taken in waves: within one, every user comes once at most."""
        if not steps.users:
            return states_UF
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
            # Nearly always the first wave is everybody, in order: that saves taking them out and putting them back.
            is_whole = len(users_B) == len(states_UF) and bool((users_B[:-1] < users_B[1:]).all())
            before_BF = states_UF if is_whole else states_UF[users_B]
            if steps.begins:
                before_BF[begins_E[start:end]] = updater.initial.state_F
            after_BF = updater.step(before_BF, items_E[start:end], categories_E[start:end])
            if is_whole:
                states_UF = after_BF
            else:
                states_UF[users_B] = after_BF
            start = end
        return states_UF

    def _close(self, changed: list[int], opened: _Open, into: memoryview | None = None) -> memoryview:
        ledgers = [opened.ledgers[place] for place in changed]
        states_UF = opened.states_UF
        columns = Columns(
            states_BF=states_UF if len(changed) == len(states_UF) else states_UF[changed],
            rings=[ledger.ring for ledger in ledgers],
            sequences=[ledger.sequence for ledger in ledgers],
            last_times_ms=[NO_TIME if ledger.last_time_ms is None else ledger.last_time_ms for ledger in ledgers],
            log_times_ms=[NO_TIME if ledger.log_time_ms is None else ledger.log_time_ms for ledger in ledgers],
            generations=[self.updater.generation] * len(ledgers),
        )
        return self.updater.codec.encode_packed(columns, bundle_version=self.updater.bundle_version, into=into)


def _time(time_ms: int) -> int | None:
    return None if time_ms == NO_TIME else time_ms


def _blobs(users: Sequence[int], packed: memoryview) -> Iterator[tuple[int, bytes]]:
    size = len(packed) // max(1, len(users))
    return ((user, bytes(packed[at * size : (at + 1) * size])) for at, user in enumerate(users))
