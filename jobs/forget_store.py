"""The online store's part of `uic user forget`: written where nobody else does, else its follower is waited for."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from uic.codec import read_header
from uic.errors import StoreLocked
from uic.forgetting import Forgotten
from uic.partition import partition_of
from uic.store import sharded
from uic.store.contract import Position
from uic.store.place import redis_url, words
from uic.store.rocksdb import RocksStore

if TYPE_CHECKING:
    from jobs.forget import Report
    from jobs.forget_topics import Place
    from uic.store.redis_store import RedisStore

_POLL_S = 0.05


def forget(store: Path, user: str, place: "Place", forgotten: Forgotten, wait_s: float, report: "Report") -> None:
    """Forget in a store that follows the snapshots topic, in which the deletion is at this place."""
    if redis_url(store) is not None:
        with to_write(store) as shared:
            if shared is None:
                report.erased.append(f"{words(store)}: no store is there; whoever follows the topic comes by the deletion")
                return
            # Its follower writes it too, and need not be waited for; nor does it bring back what is older than the deletion for
            # longer than until it comes by it.
            shared.forget(user)
            at = shared.positions().get(place.partition)
        report.erased.append(f"{words(store)}: the memory, daily and kept copies")
        _say_if_behind(words(store), at, place, report)
        return
    path = _part_of(store, user)
    if not (path / "CURRENT").exists():
        report.erased.append(f"{store}: no store is there on this machine; whoever follows the topic comes by the deletion")
        return
    with closing(RocksStore.open_to_read(path)) as reader:
        try:
            writer = RocksStore.create_or_open(path, reader.identity, shard=reader.shard, wait_s=0)
        except StoreLocked:
            if _is_past(reader, user, place, forgotten, wait_s):
                report.erased.append(f"{store}: the memory, daily and kept copies; its follower has come past the deletion")
            else:
                report.to_do.append(
                    f"{store}: its follower has not come past the deletion within {wait_s:g} s; `uic store status` tells how "
                    "far it is. Run this command again"
                )
            return
        with closing(writer):
            writer.forget(user)
            at = writer.positions().get(place.partition)
        report.erased.append(f"{store}: the memory, daily and kept copies; nobody else writes it now")
        _say_if_behind(str(store), at, place, report)


def _say_if_behind(store: str, at: Position | None, place: "Place", report: "Report") -> None:
    if at is not None and at.offset <= place.offset:
        report.still.append(
            f"{store}: it is {place.offset - at.offset + 1} snapshots behind, and older ones may show the user for a "
            "moment, until `uic store follow` has come past the deletion"
        )


@contextmanager
def to_write(path: Path) -> Iterator["RocksStore | RedisStore | None"]:
    """The store of an embedded job that does not run, or one in Redis; None where there is none yet."""
    if not sharded.is_there(path):
        yield None
        return
    with closing(sharded.open_to_read(path)) as reader:
        identity = reader.identity
    with closing(sharded.open_to_write(path, identity)) as writer:
        yield cast("RocksStore | RedisStore", writer)


def _part_of(store: Path, user: str) -> Path:
    """The folder of the RocksDB that has this user."""
    if not sharded.is_sharded(store):
        return store
    first = sharded.read(store)
    return sharded.folder(store, partition_of(user.encode(), first.partitions) % first.shards)


def _is_past(reader: RocksStore, user: str, place: "Place", forgotten: Forgotten, wait_s: float) -> bool:
    """Wait until the store has applied the deletion; False where that takes too long."""
    give_up_at = time.monotonic() + wait_s
    while True:
        reader.refresh()
        at = reader.positions().get(place.partition)
        if at is not None and at.offset > place.offset:
            blob = reader.read(user)
            if blob is None or not forgotten.is_gone(user, read_header(blob).log_time_ms):
                return True
        if time.monotonic() > give_up_at:
            return False
        time.sleep(_POLL_S)
