"""All of a store in another one or in a file: every read answers there as it did here, whichever stores they are."""

import io
import itertools
from collections.abc import Iterator
from contextlib import closing
from datetime import date
from pathlib import Path

import pytest
import redis_started
from test_apply import memory
from test_store import AWKWARD, IDENTITY, blob

from uic.clock import Days
from uic.errors import BadInput, CorruptMemory, StoreMismatch
from uic.store import dump
from uic.store.contract import WritableStore
from uic.store.dump import Head
from uic.store.rocksdb import RocksStore
from uic.store.sharded import ShardedStore

DAY_MS = 86_400_000
MONDAY_MS = Days().begins_ms(date(2026, 11, 16))
KINDS = ("rocks", "shards", "redis")
KEPT = 3


def opened(kind: str, path: Path) -> WritableStore:
    if kind == "redis":
        return redis_started.opened(redis_started.name_of(path), IDENTITY, kept=KEPT)
    if kind == "shards":
        return ShardedStore.create_or_open(path, IDENTITY, shards=2, partitions=3, kept=KEPT)
    return RocksStore.create_or_open(path, IDENTITY, kept=KEPT)


def fill(store: WritableStore) -> None:
    """Five days of users who come and go, with a rollback in between."""
    for day in range(5):
        for number, user in enumerate(AWKWARD):
            if user and (number + day) % 3:
                store.write(user, memory(10 * day + number, MONDAY_MS + day * DAY_MS + number, generation=int(day == 4)))
        store.delete(AWKWARD[day])
        if day == 3:
            store.begin_generation(1, MONDAY_MS + 3 * DAY_MS)
    store.write_kept("u", blob(7))
    store.write_kept("u", blob(8))


def answers(store: WritableStore) -> dict[object, object]:
    """What every read says."""
    days = store.days_kept()
    found: dict[object, object] = {(user, day): store.read(user, day) for user in AWKWARD if user for day in (None, *days)}
    return found | {"days": days, "users": sorted(store.users()), "lineage": store.lineage, "kept": store.read_kept("u", 7)}


@pytest.mark.parametrize(("source", "target"), [pair for pair in itertools.product(KINDS, KINDS) if "redis" in pair])
def test_a_copy_answers_every_read_as_the_store_does(tmp_path: Path, source: str, target: str) -> None:
    with closing(opened(source, tmp_path / "old")) as old, closing(opened(target, tmp_path / "new")) as new:
        fill(old)
        for _ in range(2):  # one that was stopped is begun again
            new.adopt(old.lineage)
            new.put_wholes(list(old.wholes()), old.span)
            assert answers(new) == answers(old)
        # And goes on as the store does.
        for store in (old, new):
            assert not store.write("u1", memory(100, MONDAY_MS + 9 * DAY_MS))
            assert store.write("u1", memory(100, MONDAY_MS + 4 * DAY_MS, generation=1))
            store.forget("u11")
        assert answers(new) == answers(old)


@pytest.fixture
def dumped(tmp_path: Path) -> Iterator[bytes]:
    with closing(opened("rocks", tmp_path / "old")) as store:
        fill(store)
        file = io.BytesIO()
        dump.write(file, Head(store.identity, store.zone, store.span, store.lineage), store.wholes())
        yield file.getvalue()


def test_a_dump_has_all_of_a_store(tmp_path: Path, dumped: bytes) -> None:
    file = io.BytesIO(dumped)
    head = dump.read_head(file, tmp_path)
    with closing(opened("redis", tmp_path / "new")) as new, closing(opened("rocks", tmp_path / "old2")) as old:
        fill(old)
        assert head == Head(old.identity, old.zone, old.span, old.lineage)
        new.adopt(head.lineage)
        new.put_wholes(list(dump.read(file, tmp_path)), head.span)
        assert answers(new) == answers(old)


def test_a_dump_that_was_cut_off_or_changed_is_refused_wherever_it_is_so(tmp_path: Path, dumped: bytes) -> None:
    begin = dumped.index(b"\n") + 1
    for at in range(begin, len(dumped), 97):
        for broken in (dumped[:at], dumped[:at] + bytes([dumped[at] ^ 4]) + dumped[at + 1 :]):
            file = io.BytesIO(broken)
            dump.read_head(file, tmp_path)
            with pytest.raises(CorruptMemory):
                list(dump.read(file, tmp_path))
    with pytest.raises(BadInput, match="expected what `uic store export` writes"):
        dump.read_head(io.BytesIO(b"something else\n"), tmp_path)


def test_generations_that_do_not_go_on_from_ours_are_not_taken_over(tmp_path: Path) -> None:
    with closing(opened("redis", tmp_path / "a")) as one, closing(opened("rocks", tmp_path / "b")) as other:
        for store, day in ((one, 1), (other, 2)):
            store.write("u", memory(1, MONDAY_MS + 2 * DAY_MS))
            store.begin_generation(1, MONDAY_MS + day * DAY_MS)
        with pytest.raises(StoreMismatch, match="Use an empty store"):
            one.adopt(other.lineage)
