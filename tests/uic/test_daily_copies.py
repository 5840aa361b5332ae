"""Any writes, rollbacks and days (uic/store/writing.py): a store answers as one that keeps every memory ever written would."""

import shutil
import tempfile
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import redis_started
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from test_apply import CODEC, memory
from test_store import IDENTITY

from uic.clock import Days
from uic.codec import read_header
from uic.partition import partition_of
from uic.store.apply import Applier, Snapshot
from uic.store.contract import InMemoryStore, ReadableStore
from uic.store.redis_store import RedisStore
from uic.store.rocksdb import RocksStore
from uic.store.sharded import ShardedStore, open_to_read
from uic.store.writing import LEFT

ZONE = "Africa/Cairo"  # where 2026-04-24 has no midnight
DAYS = Days(ZONE)
KEPT = 3
START_MS = DAYS.begins_ms(date(2026, 4, 20))
QUARTER_MS = 6 * 3_600_000
USERS = ["u", "u\0", "é"]
PARTITIONS = 3
Store = InMemoryStore | RocksStore | ShardedStore | RedisStore


class Written(NamedTuple):
    """A memory that was offered to the store, or (None) that its user left. Of equal versions the later arrival counts."""

    generation: int
    log_time_ms: int
    sequence: int
    arrival: int
    blob: bytes | None


class Model:
    """Every memory ever offered, and the cuts."""

    def __init__(self) -> None:
        self.written: dict[str, list[Written]] = {user: [] for user in USERS}
        self.cuts: list[tuple[int, int]] = []
        self.newest_ms: int | None = None
        self.gone: set[str] = set()  # who left, and has had no later memory since

    @property
    def generation(self) -> int:
        return self.cuts[-1][0] if self.cuts else 0

    def shows(self, generation: int, log_time_ms: int) -> bool:
        return generation <= self.generation and all(log_time_ms < cut for later, cut in self.cuts if later > generation)

    def write(self, user: str, written: Written) -> bool:
        """Whether it may be taken at all."""
        if not self.shows(written.generation, written.log_time_ms):
            return False
        if user in self.gone and self.read(user) is None:
            # They are back on the day they left.
            self.written[user] = [each for each in self.written[user] if each.blob is not None or each < written]
        if user in self.gone and (self.read(user) is None or max(self.shown(user)) < written):
            self.gone.remove(user)
        self.written[user].append(written)
        self.newest_ms = max(written.log_time_ms, self.newest_ms or written.log_time_ms)
        return True

    def leave(self, user: str, today_ms: int) -> None:
        """The user is gone from the end of that day on; as of the days before they were still there."""
        if not self.written[user]:
            return
        ends_ms = DAYS.bounds_ms(today_ms)[1]
        self.written[user] = [
            each for each in self.written[user] if DAYS.bounds_ms(each.log_time_ms)[1] < ends_ms or not self.shows(*each[:2])
        ]
        self.written[user].append(Written(self.generation, ends_ms - 1, 2**62, 0, None))
        self.gone.add(user)

    def has_left(self, user: str) -> bool:
        """Where nothing is left of the time before, a store does not say so: what comes late from then is as good as new."""
        return any(each.blob is None for each in self.shown(user))

    def shown(self, user: str, as_of: date | None = None) -> list[Written]:
        before_ms = 2**63 if as_of is None else DAYS.begins_ms(as_of)
        return [each for each in self.written[user] if self.shows(*each[:2]) and each.log_time_ms < before_ms]

    def read(self, user: str, as_of: date | None = None) -> bytes | None:
        shown = self.shown(user, as_of)
        return max(shown).blob if shown else None

    def days(self) -> list[date]:
        if self.newest_ms is None:
            return []
        day = DAYS.day_of(self.newest_ms)
        return [DAYS.before(day, count) for count in reversed(range(KEPT))]


class Daily(RuleBasedStateMachine):
    """Writes of any generation, late and early, one by one or in batches; rollbacks to any kept day; sweeps."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="uic-test-"))
        self.store = self.open()
        self.model = Model()
        self.arrivals = 0
        self.now_ms = START_MS

    def open(self) -> Store:
        return InMemoryStore(zone=ZONE, kept=KEPT)

    def offered(self, quarters: int, offset_ms: int, older: int) -> Written:
        """A memory around now, of the present generation or an older one. Within a generation the log tells sequences apart."""
        log_time_ms = self.now_ms + quarters * QUARTER_MS + offset_ms
        generation = max(0, self.model.generation - older)
        sequence = 10**10 + (log_time_ms - START_MS) - 10**8 * generation
        self.arrivals += 1
        blob = memory(sequence, log_time_ms, generation=generation, number=float(self.arrivals))
        return Written(generation, log_time_ms, sequence, self.arrivals, blob)

    quarters = st.integers(-14, 3)
    offsets_ms = st.sampled_from([0, -1, 1, -1000])
    older = st.sampled_from([0, 0, 0, 1, 2])

    @rule(quarters=st.integers(0, 6))
    def time_goes_on(self, quarters: int) -> None:
        self.now_ms += quarters * QUARTER_MS

    @rule(user=st.sampled_from(USERS), quarters=quarters, offset_ms=offsets_ms, older=older)
    def write(self, user: str, quarters: int, offset_ms: int, older: int) -> None:
        if self.model.has_left(user):
            quarters, offset_ms, older = abs(quarters), 0, 0
            self.now_ms = max(self.now_ms, self.model.newest_ms or 0)
        written = self.offered(quarters, offset_ms, older)
        assert written.blob is not None
        before = self.model.read(user)
        may_be_taken = self.model.write(user, written)
        is_written = self.store.write(user, written.blob)
        assert may_be_taken or not is_written
        if self.model.read(user) != before:
            assert is_written

    @rule(batch=st.lists(st.tuples(st.sampled_from(USERS), quarters, offsets_ms, older), max_size=8))
    def apply(self, batch: list[tuple[str, int, int, int]]) -> None:
        snapshots = []
        for user, *rest in batch:
            if user in self.model.gone or self.model.has_left(user):
                continue
            written = self.offered(*rest)
            self.model.write(user, written)
            snapshots.append(Snapshot(partition_of(user.encode(), PARTITIONS), self.arrivals, user.encode(), written.blob))
        parts: Any = self.store.shards if isinstance(self.store, ShardedStore) else [self.store]
        for number, part in enumerate(parts):
            mine = [snapshot for snapshot in snapshots if snapshot.partition % len(parts) == number]
            applied = Applier(part, CODEC).apply(mine, now_ms=0)
            assert applied.written + applied.stale + applied.fenced == len(mine)

    @rule(user=st.sampled_from(USERS), as_topic=st.booleans(), older=st.sampled_from([None, 0, 1]))
    def leave(self, user: str, as_topic: bool, older: int | None) -> None:
        part = self.store._of(user) if isinstance(self.store, ShardedStore) else self.store
        span = part.span
        generation = None if older is None else self.model.generation - older
        if span is None or (generation is not None and generation < 0):
            return
        if as_topic:
            key = user.encode()
            snapshot = Snapshot(partition_of(key, PARTITIONS), 0, key, None, generation)
            assert Applier(part, CODEC).apply([snapshot], now_ms=0).fenced == (older == 1)
        else:
            self.store.delete(user, generation=generation)
        if older != 1:
            self.model.leave(user, span.last_ms)

    @rule(user=st.sampled_from(USERS))
    def forget(self, user: str) -> None:
        self.store.write_kept(user, memory(7, 7))
        self.store.forget(user)
        assert self.store.read_kept(user, 7) is None
        self.model.written[user] = []
        self.model.gone.discard(user)

    @rule(back=st.integers(1, KEPT), again=st.booleans())
    def roll_back(self, back: int, again: bool) -> None:
        if not self.model.days():
            return
        generation, day = self.model.generation + 1, self.model.days()[-back]
        expected = {user: self.model.read(user, day) for user in USERS}
        for _ in range(1 + again):
            self.store.begin_generation(generation, DAYS.begins_ms(day))
            assert {user: self.store.read(user) for user in USERS} == expected
        self.model.cuts.append((generation, DAYS.begins_ms(day)))

    @rule(most=st.integers(1, 3))
    def sweep(self, most: int) -> None:
        for part in self.store.shards if isinstance(self.store, ShardedStore) else [self.store]:
            while not part.sweep(most):
                pass
            if part.span != self.store.span:
                continue  # this shard cannot know yet which days the whole store has given up
            for user in USERS:
                returned = {self.model.read(user), *(self.model.read(user, day) for day in self.model.days())}
                assert set(part.copies(user.encode()).values()) <= {*returned, LEFT}, user

    @invariant()
    def every_read_returns_what_it_should(self) -> None:
        assert self.store.days_kept() == self.model.days()
        for user in USERS:
            assert self.store.read(user) == self.model.read(user)
            for day in self.model.days():
                assert self.store.read(user, as_of=day) == self.model.read(user, day), (user, day)
        assert sorted(self.store.users()) == sorted(user for user in USERS if self.model.read(user) is not None)

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)


WEDNESDAY = date(2026, 4, 22)
WEDNESDAY_MS = DAYS.begins_ms(WEDNESDAY)


def read_all(store: InMemoryStore, user: str = "u") -> list[int | None]:
    """The sequences as of each kept day, and the latest."""
    blobs = [*(store.read(user, as_of=day) for day in store.days_kept()), store.read(user)]
    return [None if blob is None else read_header(blob).sequence for blob in blobs]


def test_of_two_days_in_one_batch_the_last_of_the_first_day_stays() -> None:
    store = InMemoryStore(zone=ZONE, kept=KEPT)
    times = [WEDNESDAY_MS - 2, WEDNESDAY_MS - 1, WEDNESDAY_MS, WEDNESDAY_MS + 1]
    log = [Snapshot(0, offset, b"u", memory(offset + 1, time_ms)) for offset, time_ms in enumerate(times)]
    assert Applier(store, CODEC).apply(log, now_ms=0).written == 4
    assert read_all(store) == [None, None, 2, 4]


def test_a_user_who_came_back_is_read_as_they_were_before_and_as_they_are() -> None:
    """Also where compaction took away that they had left in between."""
    store = InMemoryStore(zone=ZONE, kept=KEPT)
    for sequence, time_ms in ((8, WEDNESDAY_MS - 1), (1, WEDNESDAY_MS + QUARTER_MS), (2, WEDNESDAY_MS + 4 * QUARTER_MS)):
        assert store.write("u", memory(sequence, time_ms))
    assert read_all(store) == [None, 8, 1, 2]
    store.delete("u")
    assert read_all(store) == [None, 8, 1, None]
    store.begin_generation(1, WEDNESDAY_MS + 4 * QUARTER_MS)
    assert read_all(store) == [None, 8, 1, 1]


def test_a_log_whose_clock_runs_backwards_over_midnight_never_takes_back_what_was_applied_last() -> None:
    store = InMemoryStore(zone=ZONE, kept=KEPT)
    for sequence, time_ms in ((4, WEDNESDAY_MS - 9), (5, WEDNESDAY_MS + 9), (6, WEDNESDAY_MS - 5), (7, WEDNESDAY_MS + 1)):
        assert store.write("u", memory(sequence, time_ms))
        assert read_all(store)[-1] == sequence
    assert read_all(store) == [None, None, 6, 7]


def test_what_no_read_returns_any_more_goes_with_the_users_next_memory_or_with_a_sweep() -> None:
    store = InMemoryStore(zone=ZONE, kept=KEPT)
    for day in range(10):
        for user in ("every-day", "only-twice")[: 1 + (day < 2)]:
            assert store.write(user, memory(day + 1, WEDNESDAY_MS + day * 4 * QUARTER_MS + QUARTER_MS))
    assert (len(store.copies(b"every-day")), len(store.copies(b"only-twice"))) == (KEPT, 1)
    assert store.sweep()
    assert (len(store.copies(b"every-day")), len(store.copies(b"only-twice"))) == (KEPT, 0)
    assert (read_all(store, "every-day"), read_all(store, "only-twice")) == ([7, 8, 9, 10], [2, 2, 2, 2])


class OnRocks(Daily):
    """The same on disk, closed and opened again in between, and read by another instance that was opened before."""

    def open(self) -> Store:
        return RocksStore.create_or_open(self.folder / "store", IDENTITY, zone=ZONE, kept=KEPT)

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self.open()

    def open_to_read(self) -> ReadableStore:
        return open_to_read(self.folder / "store")

    @rule()
    def another_reader_sees_the_same(self) -> None:
        reader = self.open_to_read()
        assert reader.lineage == self.store.lineage
        for user in USERS:
            assert reader.read(user) == self.model.read(user)
            for day in self.model.days():
                assert reader.read(user, as_of=day) == self.model.read(user, day)
        reader.close()


class OnShards(OnRocks):
    """The same in two shards, whose newest days may differ."""

    def open(self) -> Store:
        return ShardedStore.create_or_open(
            self.folder / "store", IDENTITY, shards=2, partitions=PARTITIONS, zone=ZONE, kept=KEPT
        )


class InRedis(OnRocks):
    """The same in Redis."""

    masters = 1

    def open(self) -> Store:
        name = redis_started.name_of(self.folder)
        return redis_started.opened(name, IDENTITY, masters=self.masters, zone=ZONE, kept=KEPT)

    def open_to_read(self) -> ReadableStore:
        return redis_started.opened_to_read(redis_started.name_of(self.folder), masters=self.masters, kept=KEPT)


# On disk a failure is not made smaller: that would take minutes, and in memory it nearly always happens too.
ON_DISK = settings(max_examples=8, stateful_step_count=30, phases=[Phase.explicit, Phase.reuse, Phase.generate])

TestAnyDaysInMemory = Daily.TestCase
TestAnyDaysInMemory.settings = settings(max_examples=100, stateful_step_count=25)
TestAnyDaysOnRocks = OnRocks.TestCase
TestAnyDaysOnRocks.settings = ON_DISK
TestAnyDaysInRedis = InRedis.TestCase
TestAnyDaysInRedis.settings = settings(max_examples=12, stateful_step_count=30)
TestAnyDaysOnShards = OnShards.TestCase
TestAnyDaysOnShards.settings = ON_DISK
