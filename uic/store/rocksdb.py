"""The embedded online store: RocksDB, one writing process, any number of reading ones.

Keys, `user` being its UTF-8 bytes:

    "!identity"                     JSON: format, layout, lineage
    "!shard"                        JSON: number, shards, partitions; in a part of a store (uic/store/sharded.py)
    "!source"                       JSON: cluster_id, topic, topic_id, partitions; the snapshots topic that is followed
    "P" partition (4, BE)           how far that topic is applied: next offset (8, BE), when that was written in ms (8, BE)
    "L" user                        the latest memory
    "K" user 00 sequence (8, BE)    the memory kept after `sequence` events
    "D" ...                         daily copies: reserved
    "G" ...                         lineage of generations: reserved

The values of L, K and D are blobs (uic/codec.py). A write survives the death of the process at once (it is in RocksDB's log,
in the page cache); it survives the loss of power from the next flush on. The job's replay from its checkpoint writes it again,
and a follower reads it again, since how far it was is lost together with what it wrote.
"""

import json
import shutil
import struct
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rocksdict import AccessType, Rdict, WriteBatch

from uic.codec import read_header, with_generation
from uic.errors import BadInput, StoreError
from uic.store.contract import Shard, Source, StoreIdentity
from uic.store.opening import (
    SHARDS_FILE,
    check_identity,
    check_shard,
    get,
    is_ours,
    open_waiting,
    options,
    read_identity,
    read_shard,
    write_identity,
)

_SOURCE = b"!source"
_POSITION = b"P"
_LATEST = b"L"
_KEPT = b"K"
_MOST_VERSIONS = 100_000
_PARTITION_KEY = struct.Struct(">cI")
_POSITION_VALUE = struct.Struct(">qq")


class Position(NamedTuple):
    """The next offset to apply of one partition, and when the store was told so."""

    offset: int
    written_ms: int


class RocksStore:
    """An `OnlineStore` in a folder. Open it with `create_or_open` to write and with `open_to_read` to read."""

    def __init__(
        self, db: Rdict, path: Path, identity: StoreIdentity, *, generation: int = 0, view: Path | None = None
    ) -> None:
        self._db = db
        self._path = path
        self.identity = identity
        self.shard = read_shard(db)
        self._generation = generation
        self._view = view
        # Reading the version and writing the larger one are one operation; the writing process may have several threads.
        self._turn = threading.Lock()
        self._versions: dict[str, tuple[int, int]] = {}

    @classmethod
    def create_or_open(
        cls, path: Path, identity: StoreIdentity, *, generation: int = 0, wait_s: float = 30, shard: Shard | None = None
    ) -> "RocksStore":
        """Open for writing, making the store if there is none; `shard` says that it is that part of one.

        Waits up to `wait_s` for a dying predecessor to let go. Raises StoreLocked after that, StoreMismatch where the store
        holds memories of another layout or lineage, BadInput where the folder holds something else.
        """
        if (path / SHARDS_FILE).exists():
            raise BadInput(f"{path}: a store of several shards is written by `uic store follow`; a job wants another folder")
        if path.exists() and not is_ours(path):
            raise BadInput(f"{path}: expected an online store or an empty folder, found something else; it is left as it is")
        path.parent.mkdir(parents=True, exist_ok=True)
        db = open_waiting(path, wait_s)
        try:
            found = read_identity(db, path)
            if found is not None:
                check_identity(found, identity, path)
                check_shard(read_shard(db), shard, path)
            elif next(iter(db.keys()), None) is not None:
                raise BadInput(f"{path}: expected an online store, found another RocksDB; it is left as it is")
            else:
                write_identity(db, identity, shard)
        except BaseException:
            db.close()
            raise
        return cls(db, path, identity, generation=generation)

    @classmethod
    def open_to_read(cls, path: Path) -> "RocksStore":
        """Open for reading, also while a job writes; `refresh` shows what was written since."""
        if not (path / "CURRENT").exists():
            raise BadInput(f"{path}: expected an online store, but there is none; `uic job run` makes it")
        # A secondary instance wants a folder for its own log files.
        view = Path(tempfile.mkdtemp(prefix="uic-store-view-"))
        try:
            db = Rdict(str(path), options(), access_type=AccessType.secondary(str(view)))
            db.try_catch_up_with_primary()
            identity = read_identity(db, path)
        except BaseException as error:
            shutil.rmtree(view, ignore_errors=True)
            if isinstance(error, StoreError) or not isinstance(error, Exception):
                raise
            raise StoreError(f"{path}: the store cannot be opened: {error}") from error
        if identity is None:
            raise StoreError(f"{path}: the store has no identity yet; its job stopped while making it. Run the job again")
        return cls(db, path, identity, view=view)

    def write(self, user_id: str, blob: bytes) -> bool:
        key = _LATEST + user_id.encode()
        stamped = with_generation(blob, self._generation)
        version = read_header(stamped).version
        with self._turn:
            # Only this process writes, so what it wrote last of a user need not be read again.
            written = self._versions.get(user_id)
            if written is None and (old := get(self._db, key)) is not None:
                written = read_header(old).version
            if written is not None and version < written:
                return False
            self._db[key] = stamped
            if len(self._versions) >= _MOST_VERSIONS:
                self._versions.clear()
            self._versions[user_id] = version
        return True

    def read(self, user_id: str) -> bytes | None:
        return get(self._db, _LATEST + user_id.encode())

    def delete(self, user_id: str) -> None:
        with self._turn:
            self._versions.pop(user_id, None)
            self._db.delete(_LATEST + user_id.encode())

    def users(self) -> Iterator[str]:
        for key in self._db.keys(from_key=_LATEST):
            assert isinstance(key, bytes)  # raw mode has no other keys
            if not key.startswith(_LATEST):
                break
            yield key[len(_LATEST) :].decode()

    def write_kept(self, user_id: str, blob: bytes) -> None:
        stamped = with_generation(blob, self._generation)
        self._db[_kept_key(user_id, read_header(stamped).sequence)] = stamped

    def read_kept(self, user_id: str, sequence: int) -> bytes | None:
        return get(self._db, _kept_key(user_id, sequence))

    def read_many(self, users: Sequence[bytes]) -> list[bytes | None]:
        """The latest memories of several users, named by their UTF-8 bytes."""
        values = self._db.get([_LATEST + user for user in users])
        assert isinstance(values, list)  # as the keys are
        return values

    @property
    def source(self) -> Source | None:
        """The topic that is applied here, None if there has been none."""
        raw = get(self._db, _SOURCE)
        return None if raw is None else Source(**json.loads(raw))

    def positions(self) -> dict[int, Position]:
        """How far each partition of the source is applied; one of which nothing is known is not in it."""
        positions: dict[int, Position] = {}
        for key, value in self._db.items(from_key=_POSITION):
            assert isinstance(key, bytes)  # raw mode has no others
            assert isinstance(value, bytes)
            if not key.startswith(_POSITION):
                break
            positions[_PARTITION_KEY.unpack(key)[1]] = Position._make(_POSITION_VALUE.unpack(value))
        return positions

    def follow(self, source: Source) -> None:
        """From now on this topic is applied, from its beginning: what was known of another one's offsets is forgotten."""
        batch = WriteBatch(raw_mode=True)
        for partition in self.positions():
            batch.delete(_PARTITION_KEY.pack(_POSITION, partition))
        batch.put(_SOURCE, json.dumps(source._asdict()).encode())
        self._db.write(batch)

    def apply(self, changes: Mapping[bytes, bytes | None], offsets: Mapping[int, int], *, now_ms: int) -> None:
        """Set and delete (None) latest memories as they are, and say how far the source is applied: in one atomic write.

        Nothing is compared or stamped here: the caller has done that (uic/store/apply.py).
        """
        batch = WriteBatch(raw_mode=True)
        for user, blob in changes.items():
            if blob is None:
                batch.delete(_LATEST + user)
            else:
                batch.put(_LATEST + user, blob)
        for partition, offset in offsets.items():
            batch.put(_PARTITION_KEY.pack(_POSITION, partition), _POSITION_VALUE.pack(offset, now_ms))
        with self._turn:
            self._db.write(batch)
            self._versions.clear()

    def refresh(self) -> None:
        """Let a reading store see what the writing process has written since."""
        self._db.try_catch_up_with_primary()

    def close(self) -> None:
        self._db.close()
        if self._view is not None:
            shutil.rmtree(self._view, ignore_errors=True)


def _kept_key(user_id: str, sequence: int) -> bytes:
    return _KEPT + user_id.encode() + b"\0" + struct.pack(">Q", sequence)
