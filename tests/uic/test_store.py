"""The laws of an online store (uic/store/contract.py), the same for every store there is."""

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis_started
from drawn import SMALL, USER_IDS
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from uic.codec import Codec, with_generation
from uic.errors import CorruptMemory
from uic.memory import MemoryLayout, UserMemory
from uic.store.contract import InMemoryStore, OnlineStore, StoreIdentity
from uic.store.rocksdb import RocksStore
from uic.variant import Variant

LAYOUT = MemoryLayout(Variant(**SMALL), ring_size=1)
IDENTITY = StoreIdentity(LAYOUT.layout_name, "lineage-a")
# Ids that would run together if keys were made without care.
AWKWARD = [
    "u",
    "u1",
    "u11",
    "u\0",
    "u\0\0",
    "u\0" + "\0" * 8,
    "L",
    "K",
    "Lu",
    "!identity",
    "",
    "\0",
    "\u00e9",
    "e\u0301",
    "𝄞",
    "u" * 128,
    "￿",
    "\U0010ffff",
]

# Among them 1 and 11, and bytes that are letters of keys.
SEQUENCES = (0, 1, 11, 0x4B_00_00, 2**64 - 1)


def blob(sequence: int, number: float = 0.0, generation: int = 0) -> bytes:
    memory = UserMemory(state_F=np.full(LAYOUT.size_F, number, np.float32), fingerprints=bytes(16), sequence=sequence)
    return Codec(LAYOUT).encode(replace(memory, generation=generation))


KINDS = ("memory", "rocks", "redis")


def open_store(kind: str, path: Path, generation: int = 0) -> OnlineStore:
    """The store at this path; in Redis, of this name."""
    if kind == "memory":
        return InMemoryStore(generation)
    if kind == "redis":
        return redis_started.opened(redis_started.name_of(path), IDENTITY, generation=generation)
    return RocksStore.create_or_open(path, IDENTITY, generation=generation)


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OnlineStore]:
    opened = open_store(request.param, tmp_path / "store")
    yield opened
    opened.close()


def test_a_user_never_seen_has_no_memory(store: OnlineStore) -> None:
    assert store.read("u1") is None
    assert store.read_kept("u1", 0) is None
    assert list(store.users()) == []


def test_the_larger_sequence_stays_an_equal_one_overwrites_and_a_smaller_one_is_refused(store: OnlineStore) -> None:
    assert store.write("u1", blob(5, 1.0))
    assert not store.write("u1", blob(4, 2.0))
    assert store.read("u1") == blob(5, 1.0)
    assert store.write("u1", blob(5, 3.0))
    assert store.read("u1") == blob(5, 3.0)
    assert store.write("u1", blob(6, 4.0))
    assert store.read("u1") == blob(6, 4.0)


def test_a_store_stamps_its_own_generation(tmp_path: Path) -> None:
    for kind in KINDS:
        store = open_store(kind, tmp_path / kind, generation=1)
        assert store.write("u1", blob(900, generation=7))
        assert store.read("u1") == blob(900, generation=1)
        store.write_kept("u1", blob(900, generation=7))
        assert store.read_kept("u1", 900) == blob(900, generation=1)
        store.close()


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_later_generation_replaces_a_larger_sequence_and_an_earlier_one_never(tmp_path: Path, kind: str) -> None:
    for generation, sequence, is_written in ((1, 900, True), (2, 3, True), (1, 901, False), (2, 2, False), (2, 3, True)):
        store = open_store(kind, tmp_path / "store", generation)
        assert store.write("u1", blob(sequence)) == is_written
        store.close()


def test_after_any_two_writes_a_third_is_judged_by_the_larger_of_them(store: OnlineStore) -> None:
    for number, (first, second, third) in enumerate(itertools.product(range(4), repeat=3)):
        largest = max(first, second)
        for sequence in (first, second):
            store.write(f"u{number}", blob(sequence))
        assert store.write(f"u{number}", blob(third, 7.0)) == (third >= largest)
        assert store.read(f"u{number}") == (blob(third, 7.0) if third >= largest else blob(largest))


def test_a_kept_copy_stays_beside_the_latest_whatever_is_written_later(store: OnlineStore) -> None:
    store.write("u1", blob(1, 1.0))
    store.write_kept("u1", blob(1, 1.0))
    store.write("u1", blob(2, 2.0))
    store.write_kept("u1", blob(256, 9.0))
    assert store.read_kept("u1", 1) == blob(1, 1.0)
    assert store.read_kept("u1", 256) == blob(256, 9.0)
    assert store.read_kept("u1", 2) is None
    assert store.read("u1") == blob(2, 2.0)
    store.write_kept("u1", blob(1, 5.0))
    assert store.read_kept("u1", 1) == blob(1, 5.0)
    assert list(store.users()) == ["u1"]


def test_a_user_who_left_has_no_memory_and_begins_anew_with_whichever_comes(store: OnlineStore) -> None:
    store.write("u1", blob(8))
    store.write_kept("u1", blob(8))
    store.delete("u1")
    assert store.read("u1") is None
    assert list(store.users()) == []
    assert store.write("u1", blob(1, 1.0))
    assert store.read("u1") == blob(1, 1.0)
    assert store.read_kept("u1", 8) == blob(8)
    store.delete("nobody")
    assert list(store.users()) == ["u1"]


def test_a_kept_copy_alone_makes_no_user(store: OnlineStore) -> None:
    store.write_kept("u1", blob(1))
    assert list(store.users()) == []
    assert store.read("u1") is None


def test_awkward_user_ids_never_run_together(store: OnlineStore) -> None:
    for number, (user, sequence) in enumerate(itertools.product(AWKWARD, SEQUENCES)):
        store.write_kept(user, blob(sequence, float(number)))
    for number, user in enumerate(AWKWARD):
        store.write(user, blob(1, 1000.0 + number))
    for number, (user, sequence) in enumerate(itertools.product(AWKWARD, SEQUENCES)):
        assert store.read_kept(user, sequence) == blob(sequence, float(number))
    for number, user in enumerate(AWKWARD):
        assert store.read(user) == blob(1, 1000.0 + number)
    assert sorted(store.users()) == sorted(AWKWARD)


@pytest.mark.parametrize("junk", [b"", b"no memory, but long enough to be taken for a header of one, or so it seems"])
def test_what_is_no_memory_is_refused_and_changes_nothing(store: OnlineStore, junk: bytes) -> None:
    store.write("u1", blob(1))
    for write in (store.write, store.write_kept):
        with pytest.raises(CorruptMemory):
            write("u1", junk)
    assert store.read("u1") == blob(1)


FEW_USERS = st.sampled_from(["u", "u\0", "é"])


class Store(RuleBasedStateMachine):
    """Any interleaving of writes, kept copies, reads and reopening, against two dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="uic-test-"))
        self.store = self.open()
        self.latest: dict[str, tuple[int, bytes]] = {}
        self.kept: dict[tuple[str, int], bytes] = {}

    def open(self) -> OnlineStore:
        return RocksStore.create_or_open(self.folder / "store", IDENTITY, generation=3)

    def as_kept(self, blob: bytes) -> bytes:
        """What the store keeps of a memory."""
        return blob

    @rule(user=FEW_USERS, sequence=st.integers(0, 4), number=st.integers(0, 9))
    def write(self, user: str, sequence: int, number: int) -> None:
        expected = user not in self.latest or sequence >= self.latest[user][0]
        assert self.store.write(user, blob(sequence, number)) == expected
        if expected:
            self.latest[user] = sequence, self.as_kept(with_generation(blob(sequence, number), 3))

    @rule(user=FEW_USERS, sequence=st.integers(0, 4), number=st.integers(0, 9))
    def keep(self, user: str, sequence: int, number: int) -> None:
        self.store.write_kept(user, blob(sequence, number))
        self.kept[user, sequence] = self.as_kept(with_generation(blob(sequence, number), 3))

    @rule(user=FEW_USERS)
    def delete(self, user: str) -> None:
        self.store.delete(user)
        self.latest.pop(user, None)

    @rule(user=FEW_USERS, sequence=st.integers(0, 4))
    def read(self, user: str, sequence: int) -> None:
        assert self.store.read(user) == self.latest.get(user, (0, None))[1]
        assert self.store.read_kept(user, sequence) == self.kept.get((user, sequence))

    @invariant()
    def the_users_are_those_with_a_latest_memory(self) -> None:
        assert sorted(self.store.users()) == sorted(self.latest)

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)


class DurableStore(Store):
    """The same with a store that is closed and opened again in between."""

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self.open()


class VolatileStore(Store):
    """The same for the store in a dictionary."""

    def open(self) -> OnlineStore:
        return InMemoryStore(generation=3)


class SharedStore(DurableStore):
    """The same in Redis."""

    def open(self) -> OnlineStore:
        return redis_started.opened(redis_started.name_of(self.folder), IDENTITY, generation=3)


TestAnyInterleavingInRedis = SharedStore.TestCase
TestAnyInterleavingInRedis.settings = settings(max_examples=15, stateful_step_count=40)
TestAnyInterleavingOnRocks = DurableStore.TestCase
TestAnyInterleavingOnRocks.settings = settings(max_examples=15, stateful_step_count=40)
TestAnyInterleavingInMemory = VolatileStore.TestCase
TestAnyInterleavingInMemory.settings = settings(max_examples=50, stateful_step_count=30)


@given(st.lists(USER_IDS, unique=True, max_size=8))
def test_any_user_ids_keep_their_own_memories(users: list[str]) -> None:
    store = InMemoryStore()
    for sequence, user in enumerate(users):
        assert store.write(user, blob(sequence))
    assert sorted(store.users()) == sorted(users)
    assert [store.read(user) for user in users] == [blob(sequence) for sequence in range(len(users))]


@given(st.permutations(range(6)))
def test_in_whatever_order_versions_arrive_the_largest_stays(order: list[int]) -> None:
    store = InMemoryStore()
    for sequence in order:
        store.write("u1", blob(sequence, sequence))
    assert store.read("u1") == blob(5, 5)
