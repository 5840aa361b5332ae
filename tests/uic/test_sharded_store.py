"""A store of several shards (uic/store/sharded.py) is one store to whoever reads it, and no other can slip into it."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from drawn import USER_IDS
from hypothesis import given, settings
from hypothesis import strategies as st
from test_store import AWKWARD, IDENTITY, Store, blob

from uic.errors import BadInput, StoreError, StoreLocked, StoreMismatch
from uic.partition import partition_of
from uic.store.contract import InMemoryStore, OnlineStore, Shard
from uic.store.rocksdb import RocksStore
from uic.store.sharded import FILE, ShardedStore, folder, make, open_shard, open_to_read


def opened(path: Path, shards: int = 2, partitions: int = 4) -> ShardedStore:
    return ShardedStore.create_or_open(path, IDENTITY, shards=shards, partitions=partitions, wait_s=0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ShardedStore]:
    made = opened(tmp_path / "store")
    yield made
    made.close()


class Sharded(Store):
    """The laws of every store (test_store.py), closed and opened again in between."""

    def open(self) -> OnlineStore:
        return ShardedStore.create_or_open(self.folder / "store", IDENTITY, shards=2, partitions=3, generation=3)


TestAnyInterleavingOnShards = Sharded.TestCase
TestAnyInterleavingOnShards.settings = settings(max_examples=8, stateful_step_count=30)


@settings(max_examples=10)
@given(st.lists(USER_IDS, unique=True, max_size=8), st.integers(1, 3), st.integers(3, 5))
def test_a_reader_sees_what_a_plain_store_would_hold(
    tmp_path_factory: pytest.TempPathFactory, users: list[str], shards: int, partitions: int
) -> None:
    path = tmp_path_factory.mktemp("sharded")
    written, plain = opened(path, shards, partitions), InMemoryStore()
    for sequence, user in enumerate(users):
        for each in (written, plain):
            assert each.write(user, blob(sequence, sequence))
            each.write_kept(user, blob(sequence))
    for user in users[::3]:
        for each in (written, plain):
            each.delete(user)
    reader = open_to_read(path)
    assert reader.identity == IDENTITY
    assert sorted(reader.users()) == sorted(plain.users())
    for sequence, user in enumerate(users):
        assert reader.read(user) == plain.read(user)
        assert reader.read_kept(user, sequence) == plain.read_kept(user, sequence)
    reader.close()
    written.close()


def test_each_user_is_in_the_shard_of_their_partition_and_in_no_other(store: ShardedStore, tmp_path: Path) -> None:
    for user in AWKWARD:
        store.write(user, blob(1))
    for number, shard in enumerate(store.shards):
        assert sorted(shard.users()) == sorted(user for user in AWKWARD if partition_of(user.encode(), 4) % 2 == number)
        assert shard.shard == Shard(number=number, shards=2, partitions=4)
    assert json.loads((tmp_path / "store" / FILE).read_text()) == {
        "format": 1,
        "partitioner": "murmur2",
        "shards": 2,
        "partitions": 4,
    }


def test_a_reader_follows_the_writers_after_a_refresh(store: ShardedStore, tmp_path: Path) -> None:
    store.write("u1", blob(1))
    reader = open_to_read(tmp_path / "store")
    for number in range(20):
        store.write(f"u{number}", blob(2))
    reader.refresh()
    assert all(reader.read(f"u{number}") == blob(2) for number in range(20))
    reader.close()


def test_two_processes_make_one_store_and_each_holds_its_own_shard(tmp_path: Path) -> None:
    def one(number: int) -> None:
        start.wait()
        make(tmp_path / "store", shards=4, partitions=4)
        mine[number] = open_shard(tmp_path / "store", IDENTITY, number, wait_s=0)

    start, mine = threading.Barrier(4), dict[int, RocksStore]()
    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(mine) == [0, 1, 2, 3]
    with pytest.raises(StoreLocked, match="shard-2: another process has written"):
        open_shard(tmp_path / "store", IDENTITY, 2, wait_s=0)
    for shard in mine.values():
        shard.close()
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["shard-0", "shard-1", "shard-2", "shard-3", FILE]


def test_another_number_of_shards_or_partitions_is_refused_with_both(store: ShardedStore, tmp_path: Path) -> None:
    for shards, partitions in ((3, 4), (2, 6)):
        with pytest.raises(
            StoreMismatch, match=f"has 2 shards for a topic of 4 partitions, asked were {shards} for {partitions}"
        ):
            opened(tmp_path / "store", shards, partitions)


@pytest.mark.parametrize("shards", [0, 5])
def test_a_shard_without_a_partition_is_refused(tmp_path: Path, shards: int) -> None:
    with pytest.raises(BadInput, match=f"expected 1 to 4 shards, as many as the topic has partitions; got {shards}"):
        make(tmp_path, shards=shards, partitions=4)


def test_another_identity_is_refused_in_every_shard_and_lets_go_of_all(tmp_path: Path) -> None:
    opened(tmp_path / "store").close()
    other = IDENTITY._replace(lineage="lineage-b")
    with pytest.raises(
        StoreMismatch, match="shard-0: the store holds memories of lineage lineage-a, the bundle is of lineage-b"
    ):
        ShardedStore.create_or_open(tmp_path / "store", other, shards=2, partitions=4, wait_s=0)
    opened(tmp_path / "store").close()


def test_a_missing_shard_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    make(tmp_path / "store", shards=2, partitions=4)
    open_shard(tmp_path / "store", IDENTITY, 0).close()
    with pytest.raises(StoreError, match=r"shard 1 of 2 has not been made yet; `uic store follow .* --shard 1/2`"):
        open_to_read(tmp_path / "store")


def test_shards_of_different_stores_are_not_mixed(tmp_path: Path) -> None:
    opened(tmp_path / "store").close()
    lineage_b = IDENTITY._replace(lineage="lineage-b")
    ShardedStore.create_or_open(tmp_path / "other", lineage_b, shards=2, partitions=4, wait_s=0).close()
    second = folder(tmp_path / "store", 1)
    second.rename(tmp_path / "away")
    folder(tmp_path / "other", 1).rename(second)
    with pytest.raises(StoreMismatch, match="shards of different stores cannot be mixed"):
        open_to_read(tmp_path / "store")
    second.rename(folder(tmp_path / "other", 1))
    folder(tmp_path / "store", 0).rename(second)
    with pytest.raises(StoreMismatch, match=r"expected shard 1 of 2 .*, found shard 0 of 2"):
        open_shard(tmp_path / "store", IDENTITY, 1, wait_s=0)


def test_a_shard_alone_is_no_store_to_write_to_and_neither_are_all_of_them(tmp_path: Path) -> None:
    opened(tmp_path / "store").close()
    with pytest.raises(StoreMismatch, match="this is shard 0 of 2; open the store"):
        RocksStore.create_or_open(tmp_path / "store" / "shard-0", IDENTITY, wait_s=0)
    with pytest.raises(BadInput, match="a store of several shards is written by `uic store follow`"):
        RocksStore.create_or_open(tmp_path / "store", IDENTITY, wait_s=0)


def test_a_plain_store_opens_by_the_same_name_and_does_not_become_a_sharded_one(tmp_path: Path) -> None:
    plain = RocksStore.create_or_open(tmp_path / "store", IDENTITY)
    plain.write("u1", blob(1))
    plain.close()
    reader = open_to_read(tmp_path / "store")
    assert reader.read("u1") == blob(1)
    reader.close()
    with pytest.raises(BadInput, match="expected a store of 2 shards or an empty folder, found something else"):
        make(tmp_path / "store", shards=2, partitions=4)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"format": 2, "partitioner": "murmur2", "shards": 1, "partitions": 1}', "reads format 1 with murmur2, got 2"),
        ('{"format": 1, "partitioner": "crc32", "shards": 1, "partitions": 1}', "with crc32"),
    ],
)
def test_a_file_of_shards_that_is_none_is_refused(tmp_path: Path, content: str, names: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(StoreError, match=names):
        open_to_read(tmp_path)
