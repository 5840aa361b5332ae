"""The file of generations (uic/store/generations.py): one rename for all shards and processes, and no zombie behind it."""

import json
import tarfile
from datetime import date
from pathlib import Path

import pytest
from child import child
from test_apply import CODEC, memory
from test_store import IDENTITY, blob

from uic.clock import Days
from uic.errors import BadInput, StoreError, StoreMismatch
from uic.store.apply import Applier, Snapshot
from uic.store.contract import InMemoryStore
from uic.store.generations import FILE
from uic.store.rocksdb import RocksStore
from uic.store.sharded import ShardedStore, open_to_read

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
MONDAY = date(2026, 11, 16)
MONDAY_MS = Days().begins_ms(MONDAY)
TUESDAY_MS = MONDAY_MS + DAY_MS
TUESDAY = date(2026, 11, 17)


def polluted(store: RocksStore | ShardedStore | InMemoryStore, users: list[str]) -> None:
    """Each user with a memory of Monday and one of Tuesday, which should not have been."""
    for user in users:
        assert store.write(user, memory(5, MONDAY_MS + HOUR_MS))
        assert store.write(user, memory(9, TUESDAY_MS + HOUR_MS))


def in_order(path: Path) -> RocksStore:
    return RocksStore.create_or_open(path, IDENTITY, wait_s=0)


def test_a_rollback_is_seen_by_a_reader_and_a_writer_that_were_open_before(tmp_path: Path) -> None:
    writer = in_order(tmp_path)
    polluted(writer, ["u"])
    reader, operator = open_to_read(tmp_path), open_to_read(tmp_path)
    operator.begin_generation(1, TUESDAY_MS)
    assert reader.read("u") == writer.read("u") == memory(5, MONDAY_MS + HOUR_MS)
    assert reader.lineage == writer.lineage
    # The zombie goes on with what it has; the job of the new generation applies Tuesday again.
    assert not writer.write("u", memory(10, TUESDAY_MS + 2 * HOUR_MS))
    assert writer.write("u", memory(6, TUESDAY_MS + HOUR_MS, generation=1))
    assert not writer.write("u", memory(11, TUESDAY_MS + 3 * HOUR_MS))
    reader.refresh()
    assert reader.read("u") == memory(6, TUESDAY_MS + HOUR_MS, generation=1)
    assert reader.read("u", as_of=TUESDAY) == memory(5, MONDAY_MS + HOUR_MS)
    for store in (reader, operator, writer):
        store.close()


def test_a_rollback_writes_one_file_and_nothing_for_a_user(tmp_path: Path) -> None:
    store = ShardedStore.create_or_open(tmp_path, IDENTITY, shards=2, partitions=4)
    polluted(store, [f"u{number}" for number in range(20)])
    before = {path.relative_to(tmp_path): path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()}
    store.begin_generation(1, TUESDAY_MS)
    after = {path.relative_to(tmp_path): path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()}
    assert set(after) - set(before) == {Path(FILE)}
    assert {path: after[path] for path in before} == before
    assert json.loads((tmp_path / FILE).read_text()) == {
        "format": 1,
        "cuts": [{"generation": 1, "cut_ms": TUESDAY_MS}],
    }
    assert {store.read(f"u{number}") for number in range(20)} == {memory(5, MONDAY_MS + HOUR_MS)}
    store.close()


def test_a_batch_decided_before_the_cut_and_made_after_it_is_seen_by_nobody(tmp_path: Path) -> None:
    store = in_order(tmp_path)
    polluted(store, ["u"])
    assert store.write("v", memory(5, MONDAY_MS))
    late = store.writing()
    late.place(b"u", (0, 9, TUESDAY_MS + HOUR_MS), (0, 10, TUESDAY_MS + 2 * HOUR_MS), memory(10, TUESDAY_MS + 2 * HOUR_MS))
    late.place(b"v", (0, 5, MONDAY_MS), (0, 6, TUESDAY_MS + 2 * HOUR_MS), memory(6, TUESDAY_MS + 2 * HOUR_MS))
    late.place(b"w", None, (0, 1, TUESDAY_MS + 3 * DAY_MS), memory(1, TUESDAY_MS + 3 * DAY_MS))
    store.begin_generation(1, TUESDAY_MS)
    store.commit(late)
    assert (store.read("u"), store.read("v"), store.read("w")) == (memory(5, MONDAY_MS + HOUR_MS), memory(5, MONDAY_MS), None)
    assert sorted(store.users()) == ["u", "v"]
    store.close()


# Beginning a generation, killed at a random moment and run again, is begun once.
BEGINNER = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_generations import TUESDAY_MS
from uic.store.sharded import open_to_read
store = open_to_read(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.readline()
store.begin_generation(1, TUESDAY_MS)
print("done", flush=True)
sys.stdin.readline()
"""


def test_killed_at_the_cut_and_run_again_a_generation_is_begun_once(tmp_path: Path) -> None:
    store = in_order(tmp_path)
    polluted(store, ["u"])
    with child(BEGINNER, tmp_path) as killed:
        killed.said()
        killed.tell("go")
        killed.kill()
    assert store.read("u") in (memory(9, TUESDAY_MS + HOUR_MS), memory(5, MONDAY_MS + HOUR_MS))
    for _ in range(2):
        store.begin_generation(1, TUESDAY_MS)
        assert len(store.lineage.cuts) == 1
        assert store.read("u") == memory(5, MONDAY_MS + HOUR_MS)
    store.close()


def test_a_cut_must_be_where_a_kept_day_begins() -> None:
    store = InMemoryStore(kept=2)
    with pytest.raises(BadInput, match="as of 2026-11-17: no day is kept yet"):
        store.begin_generation(1, TUESDAY_MS)
    polluted(store, ["u"])
    for cut_ms, says in (
        (TUESDAY_MS + 1, "expected where a day begins in UTC"),
        (TUESDAY_MS + DAY_MS, "as of 2026-11-18: nothing in the store was taken in on that day"),
        (MONDAY_MS - DAY_MS, "as of 2026-11-15: kept are 2026-11-16 to 2026-11-17"),
    ):
        with pytest.raises(BadInput, match=says):
            store.begin_generation(1, cut_ms)
    store.begin_generation(1, MONDAY_MS)
    with pytest.raises(BadInput, match="expected one after 1"):
        store.begin_generation(1, TUESDAY_MS)
    assert store.read("u") is None


def test_what_a_job_of_another_generation_publishes_is_counted_and_said() -> None:
    store = InMemoryStore()
    polluted(store, ["u"])
    store.begin_generation(1, TUESDAY_MS)
    log = [
        Snapshot(0, 0, b"u", memory(10, TUESDAY_MS + 2 * HOUR_MS)),
        Snapshot(0, 1, b"u", None, generation=0),
        Snapshot(0, 2, b"u", memory(7, MONDAY_MS + 2 * HOUR_MS)),  # a follower that lags: that is of before the cut
        Snapshot(0, 3, b"u", memory(8, TUESDAY_MS + HOUR_MS, generation=2)),
    ]
    applied = Applier(store, CODEC).apply(log, now_ms=0)
    assert (applied.fenced, applied.written, applied.deleted, len(applied.refused)) == (2, 1, 0, 1)
    assert applied.refused[0].reason == "unknown_generation"
    assert "the store is in 1, this memory is of 2, which has not begun here" in applied.refused[0].detail
    assert store.read("u") == memory(7, MONDAY_MS + 2 * HOUR_MS)
    assert Applier(store, CODEC).apply([Snapshot(0, 4, b"u", None, generation=1)], now_ms=0).deleted == 1
    assert store.read("u") is None


def test_a_store_whose_file_of_generations_was_lost_is_not_read(tmp_path: Path) -> None:
    store = in_order(tmp_path)
    polluted(store, ["u"])
    store.begin_generation(1, TUESDAY_MS)
    assert store.write("u", memory(6, TUESDAY_MS, generation=1))
    content = (tmp_path / FILE).read_text()
    (tmp_path / FILE).unlink()
    with pytest.raises(StoreError, match="it was there, and is gone"):
        store.read("u")
    store.close()
    for is_to_write in (True, False):
        with pytest.raises(StoreError, match=r"expected the generations that the store was written in, \[\(1, \d+\)\], found"):
            (in_order if is_to_write else open_to_read)(tmp_path)
    (tmp_path / FILE).write_text(content)
    store = in_order(tmp_path)
    assert store.read("u") == memory(6, TUESDAY_MS, generation=1)
    store.close()


def test_a_generation_is_begun_in_the_store_and_not_in_a_shard(tmp_path: Path) -> None:
    store = ShardedStore.create_or_open(tmp_path, IDENTITY, shards=2, partitions=4)
    polluted(store, ["u0", "u1", "u2", "u3"])
    shard = next(each for each in store.shards if each.span is not None)
    with pytest.raises(BadInput, match="this is a shard; a generation is begun in the store"):
        shard.begin_generation(1, TUESDAY_MS)
    store.close()


def test_two_zones_in_one_store_are_refused(tmp_path: Path) -> None:
    RocksStore.create_or_open(tmp_path, IDENTITY, zone="Africa/Cairo").close()
    with pytest.raises(StoreMismatch, match=r"the store's days are those of Africa/Cairo, days\.zone says UTC"):
        RocksStore.create_or_open(tmp_path, IDENTITY, zone="UTC", wait_s=0)
    for store in (RocksStore.create_or_open(tmp_path, IDENTITY, wait_s=0), open_to_read(tmp_path)):
        assert store.zone == "Africa/Cairo"
        store.close()


@pytest.fixture
def stores_v1(tmp_path: Path) -> Path:
    """Stores as they were written before there were daily copies: one of one RocksDB, one of two shards."""
    with tarfile.open(Path(__file__).parent / "golden" / "stores_v1.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def test_a_store_from_before_daily_copies_is_read_and_written_and_keeps_days_from_the_next_on(stores_v1: Path) -> None:
    first_ms = 1_700_000_000_000
    for open_it in (open_to_read, in_order):
        store = open_it(stores_v1 / "plain")
        assert sorted(store.users()) == ["u1", "u3", "é"]
        assert (store.read("u1"), store.read("é")) == (memory(3, first_ms), memory(5, first_ms + 500, number=2.0))
        assert (store.read("u2"), store.read_kept("u2", 4)) == (None, blob(4, 1.0))
        assert (store.zone, store.days_kept(), store.lineage.cuts) == ("UTC", [], ())
        store.close()
    sharded = open_to_read(stores_v1 / "sharded")
    assert [sharded.read(f"u{number}") for number in range(6)] == [memory(n + 1, first_ms + n) for n in range(6)]
    assert sharded.read_kept("u1", 2) == memory(2, 5)
    sharded.close()
    with pytest.raises(StoreMismatch, match="days are those of UTC"):
        RocksStore.create_or_open(stores_v1 / "plain", IDENTITY, zone="Asia/Shanghai")

    writer = RocksStore.create_or_open(stores_v1 / "plain", IDENTITY, zone="UTC")
    assert writer.source is not None
    assert {partition: position.offset for partition, position in writer.positions().items()} == {0: 7, 3: 9}
    # What was overwritten on the first day, nobody knows any more: the next day is the first one kept.
    assert writer.write("u1", memory(4, first_ms + DAY_MS))
    assert writer.days_kept() == []
    with pytest.raises(BadInput, match="no day is kept yet"):
        writer.read("u1", as_of=date(2023, 11, 15))
    assert writer.write("é", memory(6, first_ms + 2 * DAY_MS))
    assert writer.days_kept() == [date(2023, 11, 16)]
    assert writer.read("u1", as_of=date(2023, 11, 16)) == memory(4, first_ms + DAY_MS)
    assert writer.read("é", as_of=date(2023, 11, 16)) == memory(5, first_ms + 500, number=2.0)
    writer.close()
