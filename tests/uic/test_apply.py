"""A store that follows a topic (uic/store/apply.py) says what the topic says, in whatever pieces and however often it reads."""

import random
import struct
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from child import child
from hypothesis import given, settings
from hypothesis import strategies as st
from test_store import IDENTITY, LAYOUT, blob

from uic.codec import NO_TIME, Codec, read_header
from uic.memory import MemoryLayout, UserMemory
from uic.partition import partition_of
from uic.store.apply import Applied, Applier, Snapshot
from uic.store.contract import InMemoryStore, Shard, Source
from uic.store.rocksdb import Position, RocksStore
from uic.store.writing import takes_over
from uic.variant import Variant

USERS = [b"u", b"u\0", "é".encode()]
CODEC = Codec(LAYOUT)


def memory(sequence: int, log_time_ms: int | None = None, *, generation: int = 0, number: float = 0.0) -> bytes:
    state_F = np.full(LAYOUT.size_F, number, np.float32)
    made = UserMemory(state_F=state_F, fingerprints=bytes(16), sequence=sequence, log_time_ms=log_time_ms)
    return CODEC.encode(replace(made, generation=generation))


class DictStore(InMemoryStore):
    """What an applier writes to, in dictionaries; it remembers how far it is as a store on disk does."""

    @property
    def memories(self) -> dict[bytes, bytes]:
        return self._latest


Log = list[Snapshot]


def topic(values: list[tuple[bytes, bytes | None]]) -> Log:
    """These as a topic of one partition for each user."""
    offsets: Counter[int] = Counter()
    log = []
    for key, value in values:
        partition = USERS.index(key)
        log.append(Snapshot(partition, offsets[partition], key, value))
        offsets[partition] += 1
    return log


@st.composite
def topics(draw: st.DrawFn) -> Log:
    """What a job publishes that dies and starts again from a checkpoint: users live, leave and come back; runs come again."""
    logs = [draw(published(user)) for user in USERS]
    turns = draw(st.permutations([place for place, log in enumerate(logs) for _ in log]))
    return topic([(USERS[place], logs[place].pop(0)) for place in turns])


@st.composite
def published(draw: st.DrawFn, user: bytes) -> list[bytes | None]:
    history: list[bytes | None] = []
    log_time_ms = 0
    for life in range(draw(st.integers(0, 3))):
        if life > 0:
            history.append(None)
        for sequence in range(1, draw(st.integers(1, 5)) + 1):
            log_time_ms += draw(st.integers(0, 2)) + 10 * (sequence == 1)
            history.append(memory(sequence, log_time_ms))
    if history and draw(st.booleans()):
        history.append(None)
    out: list[bytes | None] = []
    checkpoint = 0
    for _ in range(draw(st.integers(0, 3))):
        died = draw(st.integers(checkpoint, len(history)))
        out += history[checkpoint:died]
        checkpoint = draw(st.integers(checkpoint, died))
    return out + history[checkpoint:]


def in_pieces(draw: st.DataObject, log: Log) -> list[Log]:
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(log)), max_size=6)))
    return [log[start:end] for start, end in zip([0, *cuts], [*cuts, len(log)], strict=True)]


def what_it_says(log: Log) -> dict[bytes, bytes]:
    """The last snapshot of every user."""
    last = {snapshot.key: snapshot.value for snapshot in log}
    return {key: value for key, value in last.items() if key is not None and value is not None}


def total(applied: list[Applied]) -> tuple[int, int, int, int]:
    return (
        sum(each.written for each in applied),
        sum(each.stale for each in applied),
        sum(each.deleted for each in applied),
        sum(len(each.refused) for each in applied),
    )


@given(topics(), st.data())
def test_in_whatever_pieces_a_topic_is_read_the_last_snapshot_of_every_user_stays(log: Log, data: st.DataObject) -> None:
    store = DictStore()
    applier = Applier(store, CODEC, remembered=data.draw(st.sampled_from([1, 4, 1000])))
    applied = []
    for piece in in_pieces(data, log):
        applied.append(applier.apply(piece, now_ms=0))
        if data.draw(st.booleans()):  # the follower died here: only the store knows how far it is
            applier = Applier(store, CODEC)
    assert store.memories == what_it_says(log)
    assert store.offsets == {snapshot.partition: snapshot.offset + 1 for snapshot in log}
    assert total(applied) == total([Applier(DictStore(), CODEC).apply(log, now_ms=0)])
    assert sum(total(applied)) == len(log)


@given(topics(), st.data())
def test_reading_a_topic_again_from_its_beginning_changes_nothing_in_the_end(log: Log, data: st.DataObject) -> None:
    store = DictStore()
    Applier(store, CODEC).apply(log, now_ms=0)
    before = dict(store.memories)
    for piece in in_pieces(data, log):
        Applier(store, CODEC).apply(piece, now_ms=0)
    assert store.memories == before


@given(topics(), st.data())
def test_what_compaction_drops_is_not_missed(log: Log, data: st.DataObject) -> None:
    """Read up to somewhere, then what compaction left of the rest: it may drop whatever has a successor, deletions too."""
    cut = data.draw(st.integers(0, len(log)))
    last = {snapshot.key: snapshot for snapshot in log}
    rest = [snapshot for snapshot in log[cut:] if last[snapshot.key] is snapshot or data.draw(st.booleans())]
    store = DictStore()
    applier = Applier(store, CODEC)
    applier.apply(log[:cut], now_ms=0)
    applier.apply(rest, now_ms=0)
    assert store.memories == what_it_says(log)


VERSIONS = st.tuples(st.integers(0, 2), st.integers(0, 5)).map(lambda pair: memory(pair[1], pair[1], generation=pair[0]))


@given(st.lists(VERSIONS, max_size=12))
def test_within_one_life_the_larger_generation_and_sequence_stays_whatever_order_they_come_in(blobs: list[bytes]) -> None:
    store = DictStore()
    Applier(store, CODEC).apply(topic([(b"u", each) for each in blobs]), now_ms=0)
    largest = max((read_header(each).version for each in blobs), default=None)
    assert {read_header(each).version for each in store.memories.values()} == ({largest} if blobs else set())


def test_of_two_equal_versions_the_later_overwrites() -> None:
    store = DictStore()
    applier = Applier(store, CODEC)
    first = applier.apply(topic([(b"u", memory(3, 7, number=1.0))]), now_ms=0)
    again = applier.apply(topic([(b"u", memory(3, 7, number=2.0))]), now_ms=0)
    assert store.memories == {b"u": memory(3, 7, number=2.0)}
    # It is written, but it is no news: nobody waited for it.
    assert (first.log_times_ms, again.log_times_ms) == ([7], [])
    assert (first.written, again.written) == (1, 1)


def test_a_deletion_wins_over_an_older_memory_and_yields_to_a_later_one() -> None:
    store = DictStore()
    applier = Applier(store, CODEC)
    assert applier.apply(topic([(b"u", memory(8, 80)), (b"u", None)]), now_ms=0).deleted == 1
    assert store.memories == {}
    applier.apply(topic([(b"u", memory(1, 900))]), now_ms=0)
    assert store.memories == {b"u": memory(1, 900)}
    # The job failed: an old run comes again, and the follower is on its way through it.
    again = topic([(b"u", memory(7, 70)), (b"u", memory(8, 80)), (b"u", None), (b"u", memory(1, 900))])
    for snapshot in again:
        applier.apply([snapshot], now_ms=0)
    assert store.memories == {b"u": memory(1, 900)}


@pytest.mark.parametrize("remembered", [1, 4, 1000])
def test_after_a_deletion_any_memory_is_taken(remembered: int) -> None:
    store = DictStore()
    applier = Applier(store, CODEC, remembered=remembered)
    applier.apply(topic([(user, memory(8, 80)) for user in USERS]), now_ms=0)
    for value in (None, memory(1, 80)):
        applier.apply(topic([(b"u", value)]), now_ms=0)
    assert store.memories[b"u"] == memory(1, 80)


BROKEN = {
    "truncated": memory(9)[:40],
    "not_a_memory": b"x" * CODEC.size,
    "unknown_format": memory(9)[:4] + b"\x02\0" + memory(9)[6:],
    "other_layout": Codec(MemoryLayout(Variant(slots=5), ring_size=1)).encode(
        UserMemory(state_F=np.zeros(MemoryLayout(Variant(slots=5)).size_F, np.float32), fingerprints=bytes(16), sequence=9)
    ),
    "checksum": memory(9)[:-1] + bytes([memory(9)[-1] ^ 1]),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_what_cannot_be_used_is_refused_with_its_reason_and_the_rest_goes_on(reason: str) -> None:
    store = DictStore()
    log = topic([(b"u", memory(1)), (b"u", BROKEN[reason]), ("é".encode(), memory(1)), (b"u", memory(2))])
    applied = Applier(store, CODEC).apply(log, now_ms=0)
    assert total([applied]) == (3, 0, 0, 1)
    assert (applied.refused[0].reason, applied.refused[0].snapshot) == (reason, log[1])
    assert store.memories == {b"u": memory(2), "é".encode(): memory(1)}
    assert store.offsets == {0: 3, 2: 1}


@given(st.integers(0, CODEC.size - 1), st.integers(0, 7))
def test_one_flipped_bit_anywhere_is_never_stored(at: int, bit: int) -> None:
    broken = bytearray(memory(9, 90))
    broken[at] ^= 1 << bit
    store = DictStore()
    Applier(store, CODEC).apply(topic([(b"u", memory(1))]), now_ms=0)
    assert len(Applier(store, CODEC).apply(topic([(b"u", bytes(broken))]), now_ms=0).refused) == 1
    assert store.memories == {b"u": memory(1)}


@pytest.mark.parametrize("key", [None, b"", b"\xff", b"u" * 129])
@pytest.mark.parametrize("value", [None, memory(1)])
def test_a_key_that_is_no_user_is_refused(key: bytes | None, value: bytes | None) -> None:
    store = DictStore()
    applied = Applier(store, CODEC).apply([Snapshot(0, 5, key, value)], now_ms=0)
    assert [refusal.reason for refusal in applied.refused] == ["bad_key"]
    assert (store.memories, store.offsets) == ({}, {0: 6})


def test_a_user_in_a_partition_where_no_reader_looks_is_refused() -> None:
    shard = Shard(number=0, shards=1, partitions=4)
    right = partition_of(b"u", 4)
    store = DictStore()
    applied = Applier(store, CODEC, shard=shard).apply(
        [Snapshot(right, 0, b"u", memory(1)), Snapshot((right + 1) % 4, 0, b"u", memory(2))], now_ms=0
    )
    assert [refusal.reason for refusal in applied.refused] == ["wrong_partition"]
    assert store.memories == {b"u": memory(1)}


def test_a_broken_memory_in_the_store_is_replaced_by_what_the_topic_has() -> None:
    store = DictStore()
    store.memories[b"u"] = BROKEN["checksum"]
    Applier(store, CODEC).apply(topic([(b"u", memory(1))]), now_ms=0)
    assert store.memories == {b"u": memory(1)}


@given(topics())
def test_versions_are_read_as_everybody_reads_them(log: Log) -> None:
    applier = Applier(DictStore(), CODEC)
    for snapshot in log:
        if snapshot.value is not None:
            header = read_header(snapshot.value)
            assert applier.version(snapshot.value) == (header.generation, header.sequence, header.log_time_ms)


@settings(max_examples=15)
@given(topics(), st.data())
def test_on_disk_a_topic_ends_as_in_a_dictionary_with_the_store_closed_anywhere(
    tmp_path_factory: pytest.TempPathFactory, log: Log, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("disk")
    for piece in [*in_pieces(data, log), log]:
        store = RocksStore.create_or_open(path, IDENTITY)
        Applier(store, CODEC).apply(piece, now_ms=5)
        store.close()
    store = RocksStore.create_or_open(path, IDENTITY)
    assert {user.encode(): store.read(user) for user in store.users()} == what_it_says(log)
    assert store.positions() == {snapshot.partition: Position(snapshot.offset + 1, 5) for snapshot in log}
    store.close()


def test_a_new_source_forgets_the_offsets_of_the_one_before_and_keeps_the_memories(tmp_path: Path) -> None:
    store = RocksStore.create_or_open(tmp_path, IDENTITY)
    assert (store.source, store.positions()) == (None, {})
    store.follow(Source("cluster", "snapshots", "first", 4))
    writing = store.writing()
    writing.place(b"u", None, (0, 1, NO_TIME), memory(1))
    store.commit(writing, {0: 5, 3: 2**40}, now_ms=7)
    assert store.positions() == {0: Position(5, 7), 3: Position(2**40, 7)}
    store.follow(Source("cluster", "snapshots", "second", 4))
    assert (store.source, store.positions()) == (Source("cluster", "snapshots", "second", 4), {})
    assert store.read("u") == memory(1)
    store.close()


# Applies an endless topic, a few snapshots a batch, and says how far it is.
FOLLOWER = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_apply import CODEC, IDENTITY, endless
from uic.store.apply import Applier
from uic.store.rocksdb import RocksStore
store = RocksStore.create_or_open(Path(sys.argv[1]), IDENTITY)
offset = store.positions()[0].offset if 0 in store.positions() else 0
applier = Applier(store, CODEC)
while True:
    applier.apply([endless(offset + place) for place in range(offset % 5 + 1)], now_ms=0)
    offset += offset % 5 + 1
    print(offset, flush=True)
"""


def endless(offset: int) -> Snapshot:
    """Five users whose memories say at which offset they were published; now and then one leaves, or comes from before."""
    user = b"u%d" % (offset % 5)
    rng = random.Random(offset)
    if rng.random() < 0.1:
        return Snapshot(0, offset, user, None)
    return Snapshot(0, offset, user, memory(offset - 50 * (rng.random() < 0.1) + 100, offset, number=offset))


def test_kill_9_leaves_the_memories_of_exactly_the_offsets_it_says(tmp_path: Path) -> None:
    for _ in range(3):
        with child(FOLLOWER, tmp_path / "store") as follower:
            for _ in range(40):
                follower.said()
            follower.kill()
        store = RocksStore.create_or_open(tmp_path / "store", IDENTITY, wait_s=0)
        offset = store.positions()[0].offset
        expected = DictStore()
        Applier(expected, CODEC).apply([endless(place) for place in range(offset)], now_ms=0)
        assert {user.encode(): store.read(user) for user in store.users()} == expected.memories
        store.close()
    assert offset >= 300


def test_blobs_of_the_tests_are_of_the_documented_shape() -> None:
    assert struct.unpack_from("<IIQqq", memory(3, 7, generation=2), 24)[::2] == (2, 3, 7)
    assert blob(3) == memory(3)
    assert takes_over(*(Applier(DictStore(), CODEC).version(each) for each in (memory(3, 7), memory(3, 7))))
