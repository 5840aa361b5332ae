"""A store in small numbers keeps the laws of every store: each read answers the copy of what a store in float32 answers."""

import json
import logging
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import redis_started
from hypothesis import given, settings
from rocksdict import Options, Rdict
from test_apply import CODEC, DictStore, Log, memory, topics
from test_store import IDENTITY, LAYOUT, Store, blob
from test_wholes import answers, fill

from jobs.settings import DaysSettings
from jobs.store import copy
from jobs.store.stats import read_stats
from uic.codec import with_generation
from uic.errors import BadInput, NotFinite, StoreMismatch
from uic.memory import Numbers, UserMemory
from uic.small import Shrink
from uic.store.apply import Applier, Snapshot
from uic.store.contract import InMemoryStore, WritableStore
from uic.store.rocksdb import RocksStore
from uic.store.sharded import ShardedStore, open_to_read

BOTH: tuple[Numbers, ...] = ("float16", "int8")
KINDS = ("rocks", "shards", "redis")
SHRINK = {numbers: Shrink(numbers, LAYOUT) for numbers in (*BOTH, "float32")}
NAN = CODEC.encode(UserMemory(state_F=np.full(LAYOUT.size_F, np.nan, np.float32), fingerprints=bytes(16), sequence=50))


def opened(kind: str, path: Path, numbers: str | None, kept: int = 3) -> WritableStore:
    shrink = None if numbers is None else SHRINK[numbers]
    if kind == "redis":
        return redis_started.opened(redis_started.name_of(path), IDENTITY, kept=kept, shrink=shrink)
    if kind == "shards":
        return ShardedStore.create_or_open(path, IDENTITY, shards=2, partitions=3, kept=kept, shrink=shrink)
    return RocksStore.create_or_open(path, IDENTITY, kept=kept, shrink=shrink)


def small(answered: object, numbers: str) -> object:
    return SHRINK[numbers]([answered])[0] if isinstance(answered, bytes) else answered


@pytest.mark.parametrize("numbers", BOTH)
@pytest.mark.parametrize("kind", KINDS)
def test_every_read_answers_the_copy_of_what_a_store_in_float32_answers(tmp_path: Path, kind: str, numbers: str) -> None:
    with (
        closing(opened("rocks", tmp_path / "large", None)) as large,
        closing(opened(kind, tmp_path / "small", numbers)) as store,
    ):
        fill(large)
        fill(store)
        assert answers(store) == {key: small(each, numbers) for key, each in answers(large).items()}
        assert store.numbers == numbers


class SmallOnRocks(Store):
    """Any interleaving of writes, kept copies and reads, in int8."""

    def open(self) -> WritableStore:
        return RocksStore.create_or_open(self.folder / "store", IDENTITY, generation=3, shrink=SHRINK["int8"])

    def as_kept(self, blob: bytes) -> bytes:
        return SHRINK["int8"]([blob])[0]


class SmallInRedis(SmallOnRocks):
    """The same in Redis."""

    def open(self) -> WritableStore:
        name = redis_started.name_of(self.folder)
        return redis_started.opened(name, IDENTITY, generation=3, shrink=SHRINK["int8"])


class SmallInMemory(SmallOnRocks):
    """The same in dictionaries."""

    def open(self) -> InMemoryStore:  # type: ignore[override]  # no more is asked of it here
        return InMemoryStore(generation=3, shrink=SHRINK["int8"])


TestAnyInterleavingInInt8 = SmallOnRocks.TestCase
TestAnyInterleavingInInt8.settings = settings(max_examples=8, stateful_step_count=30)
TestAnyInterleavingInInt8InRedis = SmallInRedis.TestCase
TestAnyInterleavingInInt8InRedis.settings = settings(max_examples=8, stateful_step_count=30)
TestAnyInterleavingInInt8InMemory = SmallInMemory.TestCase
TestAnyInterleavingInInt8InMemory.settings = settings(max_examples=15, stateful_step_count=30)


@settings(max_examples=40)
@given(topics())
def test_a_topic_is_applied_to_a_small_store_as_to_any(log: Log) -> None:
    large, store = DictStore(), DictStore(shrink=SHRINK["int8"])
    for each in (large, store):
        applier = Applier(each, CODEC, remembered=2)
        for start in range(0, len(log), 3):
            applier.apply(log[start : start + 3], now_ms=0)
    assert store.memories == {user: small(each, "int8") for user, each in large.memories.items()}
    for user in large.memories:
        assert store.copies(user) == {cell: small(each, "int8") if each else b"" for cell, each in large.copies(user).items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_is_written_in_its_own_numbers_alone(tmp_path: Path, kind: str) -> None:
    for numbers, other in (("int8", "float32"), ("float32", "float16"), ("int8", "float16")):
        path = tmp_path / f"{numbers}-{other}"
        opened(kind, path, numbers).close()
        with pytest.raises(StoreMismatch, match=f"in {numbers}, store.numbers says {other}") as raised:
            opened(kind, path, other).close()
        assert ("uic store copy --numbers float16" in str(raised.value)) == (numbers == "float32")
        with closing(opened(kind, path, None)) as store:
            assert store.numbers == numbers


@pytest.mark.parametrize("kind", KINDS)
def test_whoever_has_no_bundle_removes_from_a_small_store_and_writes_nothing(tmp_path: Path, kind: str) -> None:
    with closing(opened(kind, tmp_path / "store", "int8")) as store:
        store.write("u1", blob(1))
        store.write("u2", blob(2))
    with closing(opened(kind, tmp_path / "store", None)) as store:
        store.forget("u1")
        with pytest.raises(StoreMismatch, match="--bundle"):
            store.write("u2", blob(3))
        assert [store.read(user) for user in ("u1", "u2")] == [None, small(blob(2), "int8")]


def test_a_store_in_float32_takes_no_small_memory(tmp_path: Path) -> None:
    with closing(opened("rocks", tmp_path / "store", None)) as store, pytest.raises(StoreMismatch, match="not to be had again"):
        store.write("u1", SHRINK["int8"]([blob(1)])[0])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_is_not_written_and_holds_nobody_up(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(opened(kind, tmp_path / "store", "int8")) as store, caplog.at_level(logging.WARNING):
        assert store.write("u1", blob(1))
        assert store.write_many([("u0", blob(4)), ("u1", NAN), ("u2", blob(5))]) == [True, False, True]
        store.write_kept("u1", NAN)
        assert [store.read(user) for user in ("u0", "u1", "u2")] == [small(blob(each), "int8") for each in (4, 1, 5)]
        assert store.read_kept("u1", 50) is None
    assert "after 50 events" in caplog.text


def test_a_follower_refuses_what_is_not_finite_with_its_reason_and_goes_on() -> None:
    store = DictStore(shrink=SHRINK["int8"])
    log = [Snapshot(0, place, b"u", value) for place, value in enumerate((memory(1, 1), NAN, memory(2, 2)))]
    done = Applier(store, CODEC).apply(log, now_ms=0)
    assert [(each.reason, each.snapshot.offset) for each in done.refused] == [("not_finite", 1)]
    assert store.memories == {b"u": small(memory(2, 2), "int8")}
    # In float32 it is kept as it is: whoever reads it is told.
    large = DictStore()
    assert not Applier(large, CODEC).apply(log[:2], now_ms=0).refused


def test_a_copy_that_was_damaged_is_replaced_by_what_comes() -> None:
    store = DictStore(shrink=SHRINK["int8"])
    Applier(store, CODEC).apply([Snapshot(0, 0, b"u", memory(9, 9))], now_ms=0)
    damaged = bytearray(store.memories[b"u"])
    damaged[-9] ^= 1
    store.memories[b"u"] = bytes(damaged)
    Applier(store, CODEC).apply([Snapshot(0, 0, b"u", memory(3, 3))], now_ms=0)
    assert store.memories == {b"u": small(memory(3, 3), "int8")}


@pytest.mark.parametrize(("source", "target"), [("rocks", "redis"), ("redis", "shards"), ("rocks", "rocks")])
def test_a_store_becomes_small_when_it_is_copied_and_never_large_again(tmp_path: Path, source: str, target: str) -> None:
    place = {kind: Path(str(redis_started.servers(1).url(f"{kind}{source}"))) for kind in ("old", "new", "third")}
    old = place["old"] if source == "redis" else tmp_path / "old"
    new = place["new"] if target == "redis" else tmp_path / "new"
    if source == "redis":
        store: WritableStore = redis_started.opened(f"old{source}", IDENTITY, kept=3)
    else:
        store = opened(source, old, None)
    with closing(store):
        fill(store)
        before = answers(store)
    days = DaysSettings(kept=3)
    assert copy.copy(old, new, days, SHRINK["int8"]).users > 0
    with closing(open_to_read(new)) as read:
        assert read.numbers == "int8"
        users = sorted(read.users())
        assert users == before["users"]
        assert [read.read(user) for user in users] == [small(before[user, None], "int8") for user in users]
    # The same numbers need no bundle, and go through a file as well.
    copy.copy(new, tmp_path / "again", days)
    copy.export(new, tmp_path / "dump")
    copy.import_(tmp_path / "dump", tmp_path / "imported", days)
    copy.export(old, tmp_path / "small-dump", SHRINK["int8"])
    copy.import_(tmp_path / "small-dump", tmp_path / "from-small-dump", days)
    for each in ("again", "imported", "from-small-dump"):
        with closing(RocksStore.open_to_read(tmp_path / each)) as read:
            assert [read.read(user) for user in users] == [small(before[user, None], "int8") for user in users]
    for numbers in ("float32", "float16"):
        with pytest.raises(BadInput, match="not to be had again"):
            copy.copy(new, tmp_path / numbers, days, SHRINK[numbers])
        with pytest.raises(BadInput, match="not to be had again"):
            copy.import_(tmp_path / "dump", tmp_path / numbers, days, SHRINK[numbers])
    said = "\n".join(read_stats(new).lines())
    assert f"{len(SHRINK['int8']([blob(1)])[0])} bytes of memory each, kept in int8" in said


def test_a_release_that_knows_no_small_numbers_refuses_the_store_as_a_whole(tmp_path: Path) -> None:
    for numbers, format_number in (("float32", 1), ("int8", 2)):
        opened("rocks", tmp_path / numbers, numbers).close()
        db = Rdict(str(tmp_path / numbers), Options(raw_mode=True))
        identity = json.loads(db[b"!identity"])
        db.close()
        assert identity["format"] == format_number
        assert ("numbers" in identity) == (numbers == "int8")


def test_a_generation_is_stamped_on_a_small_copy_too(tmp_path: Path) -> None:
    with closing(RocksStore.create_or_open(tmp_path / "store", IDENTITY, generation=4, shrink=SHRINK["int8"])) as store:
        store.write("u", blob(1))
        assert store.read("u") == SHRINK["int8"]([with_generation(blob(1), 4)])[0]
    with pytest.raises(NotFinite):
        SHRINK["int8"]([NAN])
