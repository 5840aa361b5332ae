"""The embedded online store: RocksDB, one writing process, any number of reading ones.

Keys, `user` being its UTF-8 bytes:

    "!identity"                     JSON: layout, lineage, zone, format; and numbers, where they are small (then format is 2)
    "!shard"                        JSON: number, shards, partitions; in a part of a store (uic/store/sharded.py)
    "!source"                       JSON: cluster_id, topic, topic_id, partitions; the snapshots topic that is followed
    "P" partition (4, BE)           how far that topic is applied: next offset (8, BE), when that was written in ms (8, BE)
    "L" user                        the latest memory
    "K" user 00 sequence (8, BE)    the memory kept after `sequence` events
    "D" size (1) user generation (4, BE) ends (8, BE)
                                    a daily copy: the last memory of that generation and of the day that ends at `ends`, in ms
                                    (-2^63: memories without a log time); empty: the user had left by then. `size`: of `user`
    "!days"                         JSON: first_ms, last_ms; the midnights that the store can be read as of
    "G"                             JSON: the lineage that the writer knew last (uic/store/generations.py has the truth)

The values of L, K and D are blobs (uic/codec.py), in a store of small numbers copies (uic/small.py). A write survives the
death of the process at once (it is in RocksDB's log, in the page cache); it survives the loss of power from the next flush
on. The job's replay from its checkpoint writes it again, and a follower reads it again, since how far it was is lost
together with what it wrote. The zone whose days these are stands in "!identity"; where it is missing, it is UTC, and the
store was made before there were daily copies.
"""

import json
import shutil
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rocksdict import AccessType, Rdict, WriteBatch

from uic.clock import Days
from uic.errors import BadInput, StoreError, UicError
from uic.small import Shrink
from uic.store.contract import Position, Shard, Source, StoreIdentity
from uic.store.generations import FILE as LINEAGE_FILE
from uic.store.generations import Generations
from uic.store.lineage import Cell, Lineage
from uic.store.opening import (
    SHARDS_FILE,
    check_identity,
    check_numbers,
    check_shard,
    check_zone,
    get,
    is_ours,
    open_waiting,
    read_identity,
    read_numbers,
    read_shard,
    read_zone,
    reading_options,
    write_identity,
)
from uic.store.versioned import VersionedStore
from uic.store.writing import Retention, Span, Writing

_SOURCE = b"!source"
_DAYS = b"!days"
_LINEAGE = b"G"
_POSITION = b"P"
_LATEST = b"L"
_KEPT = b"K"
_COPY = b"D"
_PARTITION_KEY = struct.Struct(">cI")
_POSITION_VALUE = struct.Struct(">qq")
_CELL = struct.Struct(">Iq")
_SEQUENCE = struct.Struct(">Q")
_BEHIND = b"\xff" * (_CELL.size + 1)
_OLD_ZONE = "UTC"


class RocksStore(VersionedStore):
    """An `OnlineStore` in a folder. Open it with `create_or_open` to write and with `open_to_read` to read."""

    def __init__(
        self,
        db: Rdict,
        path: Path,
        identity: StoreIdentity,
        *,
        kept: int = 7,
        generation: int | None = None,
        shrink: Shrink | None = None,
        view: Path | None = None,
    ) -> None:
        zone, numbers = read_zone(db), read_numbers(db, path)
        retention = Retention(Days(zone or _OLD_ZONE), kept, is_whole=zone is not None)
        super().__init__(retention, generation, shrink or Shrink(numbers))
        self._db = db
        self._path = path
        self.identity = identity
        self.shard = read_shard(db)
        self.generations = Generations((path if self.shard is None else path.parent) / LINEAGE_FILE)
        self._view = view
        self._written_by = _writer_of(path)
        # What only the writing process changes, it need not read again.
        self._span = self._read_span()
        self._noted = self._read_noted()
        self.generations.check(self._noted)

    @classmethod
    def create_or_open(
        cls,
        path: Path,
        identity: StoreIdentity,
        *,
        zone: str | None = None,
        kept: int = 7,
        generation: int | None = None,
        shrink: Shrink | None = None,
        wait_s: float = 30,
        shard: Shard | None = None,
    ) -> "RocksStore":
        """Open for writing, making the store if there is none; `shard` says that it is that part of one.

        `kept` days of `zone` (None: the store's own, UTC for a new one) can be read as of. `generation` is stamped on what
        `write` is given; None: it comes stamped. `shrink`: what is kept of memories (None: the store's numbers, float32 for a
        new one). Waits up to `wait_s` for a dying predecessor to let go. Raises StoreLocked after that, StoreMismatch where the
        store holds memories of another layout, lineage or zone, or in other numbers, BadInput where the folder holds something
        else.
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
                check_zone(read_zone(db) or _OLD_ZONE, zone, path)
                check_numbers(read_numbers(db, path), shrink, path)
                check_shard(read_shard(db), shard, path)
            elif next(iter(db.keys()), None) is not None:
                raise BadInput(f"{path}: expected an online store, found another RocksDB; it is left as it is")
            else:
                numbers = "float32" if shrink is None else shrink.numbers
                write_identity(db, identity, Days(zone or _OLD_ZONE).zone, numbers, shard)
            return cls(db, path, identity, kept=kept, generation=generation, shrink=shrink)
        except BaseException:
            db.close()
            raise

    @classmethod
    def open_to_read(cls, path: Path) -> "RocksStore":
        """Open for reading, also while a job writes; `refresh` shows what was written since."""
        if not (path / "CURRENT").exists():
            raise BadInput(f"{path}: expected an online store, but there is none; `uic job run` makes it")
        # A secondary instance wants a folder for its own log files.
        view, db = Path(tempfile.mkdtemp(prefix="uic-store-view-")), None
        try:
            db = Rdict(str(path), reading_options(), access_type=AccessType.secondary(str(view)))
            db.try_catch_up_with_primary()
            identity = read_identity(db, path)
            if identity is None:
                raise StoreError(f"{path}: the store has no identity yet; its job stopped while making it. Run the job again")
            return cls(db, path, identity, view=view)
        except BaseException as error:
            # Whoever waits for a store asks again and again: nothing of a try may stay.
            if db is not None:
                db.close()
            shutil.rmtree(view, ignore_errors=True)
            if isinstance(error, UicError) or not isinstance(error, Exception):
                raise
            raise StoreError(f"{path}: the store cannot be opened: {error}") from error

    @property
    def lineage(self) -> Lineage:
        return self.generations.lineage

    @property
    def span(self) -> Span | None:
        return self._span if self._view is None else self._read_span()

    def latest(self, user: bytes) -> bytes | None:
        return get(self._db, _LATEST + user)

    def read_many(self, users: Sequence[bytes]) -> list[bytes | None]:
        """The latest memories of several users as stored."""
        values = self._db.get([_LATEST + user for user in users])
        assert isinstance(values, list)  # as the keys are
        return values

    def copies(self, user: bytes) -> dict[Cell, bytes]:
        prefix = _copies_of(user)
        return {Cell._make(_CELL.unpack(key[len(prefix) :])): value for key, value in self._under(prefix)}

    def _commit(self, writing: Writing, offsets: Mapping[int, int] | None, *, now_ms: int) -> None:
        batch = WriteBatch(raw_mode=True)
        for user in writing.forgotten:
            for prefix, size in ((_copies_of(user), _CELL.size), (_kept_of(user), _SEQUENCE.size)):
                for key, _ in self._under(prefix):
                    if len(key) == len(prefix) + size:
                        batch.delete(key)
        for user, blob in writing.latest.items():
            if blob is None:
                batch.delete(_LATEST + user)
            else:
                batch.put(_LATEST + user, blob)
        for user, copies in writing.copies.items():
            prefix = _copies_of(user)
            for cell, value in copies.items():
                if value is None:
                    batch.delete(prefix + _CELL.pack(*cell))
                else:
                    batch.put(prefix + _CELL.pack(*cell), value)
        if writing.span is not None and writing.span != self._span:
            batch.put(_DAYS, json.dumps(writing.span._asdict()).encode())
        if writing.lineage != self._noted:
            batch.put(_LINEAGE, writing.lineage.to_json().encode())
        for partition, offset in (offsets or {}).items():
            batch.put(_PARTITION_KEY.pack(_POSITION, partition), _POSITION_VALUE.pack(offset, now_ms))
        with self._turn:
            self._db.write(batch)
            self._span, self._noted = writing.span, writing.lineage
            if offsets is not None:
                self._versions.clear()

    def begin_generation(self, generation: int, cut_ms: int) -> None:
        self.refresh()
        super().begin_generation(generation, cut_ms)

    def _write_lineage(self, lineage: Lineage) -> None:
        if self.shard is not None:
            raise BadInput(f"{self._path}: this is a shard; a generation is begun in the store, {self._path.parent}")
        self.generations.write(lineage)

    def _users_with_latest(self) -> Iterator[bytes]:
        for key in self._db.keys(from_key=_LATEST):
            assert isinstance(key, bytes)  # raw mode has no other keys
            if not key.startswith(_LATEST):
                break
            yield key[len(_LATEST) :]

    def _users_with_copies(self, after: bytes | None = None) -> Iterator[bytes]:
        found = self._db.iter()
        found.seek(_COPY if after is None else _copies_of(after) + _BEHIND)
        while found.valid():
            key = found.key()
            assert isinstance(key, bytes)
            if not key.startswith(_COPY):
                break
            user = key[2 : 2 + key[1]]
            yield user
            found.seek(_copies_of(user) + _BEHIND)

    def _under(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        found = self._db.iter()
        found.seek(prefix)
        while found.valid():
            key, value = found.key(), found.value()
            assert isinstance(key, bytes)
            assert isinstance(value, bytes)
            if not key.startswith(prefix):
                break
            yield key, value
            found.next()

    def _read_span(self) -> Span | None:
        raw = get(self._db, _DAYS)
        return None if raw is None else Span(**json.loads(raw))

    def _read_noted(self) -> Lineage:
        raw = get(self._db, _LINEAGE)
        return Lineage() if raw is None else Lineage.from_json(raw, self._path)

    def kept_of(self, user: bytes) -> dict[int, bytes]:
        prefix = _kept_of(user)
        whole = len(prefix) + _SEQUENCE.size
        return {_SEQUENCE.unpack(key[len(prefix) :])[0]: blob for key, blob in self._under(prefix) if len(key) == whole}

    def _put_kept(self, user: bytes, sequence: int, blob: bytes) -> None:
        self._db[_kept_of(user) + _SEQUENCE.pack(sequence)] = blob

    def read_kept(self, user_id: str, sequence: int) -> bytes | None:
        return get(self._db, _kept_of(user_id.encode()) + _SEQUENCE.pack(sequence))

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

    def refresh(self) -> None:
        """Let a reading store see what the writing process has written since."""
        if self._view is None:
            return
        written_by = _writer_of(self._path)
        if written_by != self._written_by:
            # The writer was opened anew. RocksDB's secondary does not follow it from one list of files to the next. The one
            # before is let go of by its last read.
            folder = Path(tempfile.mkdtemp(dir=self._view))
            self._db = Rdict(str(self._path), reading_options(), access_type=AccessType.secondary(str(folder)))
            self._written_by = written_by
        self._db.try_catch_up_with_primary()

    def close(self) -> None:
        self._db.close()
        if self._view is not None:
            shutil.rmtree(self._view, ignore_errors=True)


def _writer_of(path: Path) -> str:
    """The name of the list of files that the writing process has begun; each opening begins one."""
    try:
        return (path / "CURRENT").read_text()
    except OSError:  # being replaced, or not made yet
        return ""


def _kept_of(user: bytes) -> bytes:
    return _KEPT + user + b"\0"


def _copies_of(user: bytes) -> bytes:
    return _COPY + bytes([len(user)]) + user
