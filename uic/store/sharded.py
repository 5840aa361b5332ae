"""A store in several RocksDBs, so that several processes can write it: each follows its own partitions of the snapshots topic.

    shards.json     {"format": 1, "partitioner": "murmur2", "shards": 2, "partitions": 4}
    lineage.json    the generations, where any was begun (uic/store/generations.py)
    shard-0/        a RocksDB (uic/store/rocksdb.py); every user of the partitions p with p % 2 == 0
    shard-1/        ... with p % 2 == 1

A user's partition is `partition_of(user, partitions)`, so a reader needs no broker to know the shard. Both numbers are fixed
when the store is made: with others, users would be looked for where they are not.
"""

import itertools
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, cast

from uic.errors import BadInput, StoreError, StoreMismatch
from uic.memory import Numbers
from uic.partition import partition_of
from uic.small import Shrink
from uic.store.contract import OnlineStore, ReadableStore, Shard, StoreIdentity, WritableStore
from uic.store.lineage import Lineage
from uic.store.opening import SHARDS_FILE as FILE
from uic.store.opening import check_numbers, check_zone
from uic.store.place import redis_url
from uic.store.rocksdb import RocksStore
from uic.store.versioned import begun, check_adoption, days_of, midnight_ms
from uic.store.writing import Retention, Span, Whole

if TYPE_CHECKING:
    from uic.store.apply import FollowingStore

_FORMAT = 1
_PARTITIONER = "murmur2"


class ShardedStore:
    """An `OnlineStore` over all shards. Open it with `create_or_open` to write and with `open_to_read` to read."""

    def __init__(self, shards: Sequence[RocksStore], partitions: int) -> None:
        self.shards = shards
        self._partitions = partitions

    @classmethod
    def create_or_open(
        cls,
        path: Path,
        identity: StoreIdentity,
        *,
        shards: int,
        partitions: int,
        zone: str | None = None,
        kept: int = 7,
        generation: int | None = None,
        shrink: Shrink | None = None,
        wait_s: float = 30,
    ) -> "ShardedStore":
        """Open all shards for writing, making those that are not there; raises what `RocksStore.create_or_open` does."""
        make(path, shards=shards, partitions=partitions)
        opened: list[RocksStore] = []
        try:
            for number in range(shards):
                opened.append(
                    open_shard(
                        path, identity, number, zone=zone, kept=kept, generation=generation, shrink=shrink, wait_s=wait_s
                    )
                )
        except BaseException:
            close_all(opened)
            raise
        return cls(opened, partitions)

    @classmethod
    def open_to_read(cls, path: Path) -> "ShardedStore":
        """Open for reading, also while others write; raises StoreError where a shard has not been made yet."""
        first = read(path)
        opened: list[RocksStore] = []
        try:
            for number in range(first.shards):
                place = folder(path, number)
                if not (place / "CURRENT").exists():
                    raise StoreError(
                        f"{path}: shard {number} of {first.shards} has not been made yet; "
                        f"`uic store follow --store {path} --shard {number}/{first.shards}` makes it"
                    )
                opened.append(RocksStore.open_to_read(place))
                expected = first._replace(number=number)
                if opened[-1].shard != expected or opened[-1].identity != opened[0].identity:
                    raise StoreMismatch(
                        f"{place}: expected {expected} of {opened[0].identity}, "
                        f"found {opened[-1].shard} of {opened[-1].identity}; shards of different stores cannot be mixed"
                    )
                check_zone(opened[-1].zone, opened[0].zone, place)
                check_numbers(opened[-1].numbers, Shrink(opened[0].numbers), place)
        except BaseException:
            close_all(opened)
            raise
        return cls(opened, first.partitions)

    @property
    def identity(self) -> StoreIdentity:
        return self.shards[0].identity

    def write(self, user_id: str, blob: bytes) -> bool:
        return self._of(user_id).write(user_id, blob)

    def write_many(self, memories: Sequence[tuple[str, bytes]]) -> list[bool]:
        kept = self.shards[0].shrunk([blob for _, blob in memories])
        return [blob is not None and self.write(user_id, blob) for (user_id, _), blob in zip(memories, kept, strict=True)]

    def read(self, user_id: str, as_of: date | None = None) -> bytes | None:
        at_ms = None if as_of is None else midnight_ms(as_of, self.retention, self.span)
        return self._of(user_id).read_before(user_id, at_ms)

    def delete(self, user_id: str, *, generation: int | None = None) -> None:
        self._of(user_id).delete(user_id, generation=generation)

    def forget(self, user_id: str) -> None:
        self._of(user_id).forget(user_id)

    def begin_generation(self, generation: int, cut_ms: int) -> None:
        for shard in self.shards:
            shard.refresh()
        lineage = begun(self.lineage, generation, cut_ms, self.retention, self.span)
        if lineage is not None:
            self.shards[0].generations.write(lineage)

    @property
    def lineage(self) -> Lineage:
        return self.shards[0].lineage

    @property
    def zone(self) -> str:
        return self.retention.days.zone

    @property
    def numbers(self) -> Numbers:
        return self.shards[0].numbers

    @property
    def retention(self) -> Retention:
        return self.shards[0].retention

    @property
    def span(self) -> Span | None:
        """The midnights that every shard can be read as of; the last is that of the shard which is furthest."""
        spans = [span for span in (shard.span for shard in self.shards) if span is not None]
        if not spans:
            return None
        return Span(max(span.first_ms for span in spans), max(span.last_ms for span in spans))

    def days_kept(self) -> list[date]:
        return days_of(self.span, self.retention)

    def users(self) -> Iterator[str]:
        return itertools.chain.from_iterable(shard.users() for shard in self.shards)

    def wholes(self) -> Iterator[Whole]:
        return itertools.chain.from_iterable(shard.wholes() for shard in self.shards)

    def put_wholes(self, wholes: Sequence[Whole], span: Span | None) -> None:
        parts: dict[RocksStore, list[Whole]] = {}
        for whole in wholes:
            parts.setdefault(self._of(whole.user.decode()), []).append(whole)
        for shard, part in parts.items():
            shard.put_wholes(part, span)

    def adopt(self, lineage: Lineage) -> None:
        check_adoption(self.lineage, lineage)
        if lineage != self.lineage:
            self.shards[0].generations.write(lineage)

    def write_kept(self, user_id: str, blob: bytes) -> None:
        self._of(user_id).write_kept(user_id, blob)

    def read_kept(self, user_id: str, sequence: int) -> bytes | None:
        return self._of(user_id).read_kept(user_id, sequence)

    def refresh(self) -> None:
        """Let a reading store see what the writing processes have written since."""
        for shard in self.shards:
            shard.refresh()

    def close(self) -> None:
        close_all(self.shards)

    def _of(self, user_id: str) -> RocksStore:
        return self.shards[partition_of(user_id.encode(), self._partitions) % len(self.shards)]


def is_there(path: Path) -> bool:
    """Whether a store has been made at this place; raises StoreUnavailable where Redis does not say."""
    url = redis_url(path)
    if url is not None:
        from uic.store.redis_store import exists

        return exists(url)
    return is_sharded(path) or (path / "CURRENT").exists()


def open_to_read(path: Path) -> ReadableStore:
    """Whichever store is at this place: in one RocksDB, in several, or in Redis."""
    url = redis_url(path)
    if url is not None:
        from uic.store.redis_store import RedisStore  # its library is another extra's

        return RedisStore.open_to_read(url)
    return ShardedStore.open_to_read(path) if is_sharded(path) else RocksStore.open_to_read(path)


def parts_of(store: OnlineStore) -> "Sequence[FollowingStore]":
    """The parts of a store, each of which knows how far the topic is applied to it."""
    return store.shards if isinstance(store, ShardedStore) else [cast("FollowingStore", store)]


def open_to_write(
    path: Path,
    identity: StoreIdentity,
    *,
    zone: str | None = None,
    kept: int = 7,
    shrink: Shrink | None = None,
    wait_s: float = 30,
) -> WritableStore:
    """The store at this place for writing, as it was made; where there is none, one RocksDB or one in Redis."""
    url = redis_url(path)
    if url is not None:
        from uic.store.redis_store import RedisStore

        return RedisStore.create_or_open(url, identity, zone=zone, kept=kept, shrink=shrink)
    if not is_sharded(path):
        return RocksStore.create_or_open(path, identity, zone=zone, kept=kept, shrink=shrink, wait_s=wait_s)
    made = read(path)
    return ShardedStore.create_or_open(
        path, identity, shards=made.shards, partitions=made.partitions, zone=zone, kept=kept, shrink=shrink, wait_s=wait_s
    )


def open_shard(
    path: Path,
    identity: StoreIdentity,
    number: int,
    *,
    zone: str | None = None,
    kept: int = 7,
    generation: int | None = None,
    shrink: Shrink | None = None,
    wait_s: float = 30,
) -> RocksStore:
    """Open one shard for writing, of a store that is made."""
    shard = read(path)._replace(number=number)
    assert number < shard.shards
    return RocksStore.create_or_open(
        folder(path, number), identity, zone=zone, kept=kept, generation=generation, shrink=shrink, wait_s=wait_s, shard=shard
    )


def folder(path: Path, number: int) -> Path:
    return path / f"shard-{number}"


def is_sharded(path: Path) -> bool:
    return (path / FILE).is_file()


def make(path: Path, *, shards: int, partitions: int) -> None:
    """Say what the store in this folder is like, or check that it was said so; several processes may do that at once."""
    if not 1 <= shards <= partitions:
        raise BadInput(f"{path}: expected 1 to {partitions} shards, as many as the topic has partitions; got {shards}")
    wanted = Shard(number=0, shards=shards, partitions=partitions)
    if not is_sharded(path):
        is_foreign = path.exists() and (not path.is_dir() or any(not each.name.startswith(FILE) for each in path.iterdir()))
        if is_foreign and not is_sharded(path):  # another process may just have made it
            raise BadInput(f"{path}: expected a store of {shards} shards or an empty folder, found something else")
        path.mkdir(parents=True, exist_ok=True)
        content = {"format": _FORMAT, "partitioner": _PARTITIONER, "shards": shards, "partitions": partitions}
        with tempfile.NamedTemporaryFile("w", dir=path, prefix=f"{FILE}.") as file:
            json.dump(content, file)
            file.flush()
            with suppress(FileExistsError):
                os.link(file.name, path / FILE)
    found = read(path)
    if found != wanted:
        raise StoreMismatch(
            f"{path}: the store has {found.shards} shards for a topic of {found.partitions} partitions, asked were "
            f"{shards} for {partitions}. Use it as it was made, or follow the topic into another folder"
        )


def read(path: Path) -> Shard:
    """What was said when the store was made, as its first shard."""
    try:
        content = json.loads((path / FILE).read_text())
        kind = content["format"], content["partitioner"]
        found = Shard(number=0, shards=int(content["shards"]), partitions=int(content["partitions"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path / FILE}: cannot be read: {error!r}") from error
    if kind != (_FORMAT, _PARTITIONER):
        raise StoreError(
            f"{path / FILE}: this release reads format {_FORMAT} with {_PARTITIONER}, got {kind[0]} with {kind[1]}"
        )
    return found


def close_all(stores: Sequence[RocksStore]) -> None:
    for store in stores:
        store.close()
