"""The embedded online store: RocksDB, one writing process, any number of reading ones.

Keys, `user` being its UTF-8 bytes:

    "!identity"                     JSON: format, layout, lineage
    "L" user                        the latest memory
    "K" user 00 sequence (8, BE)    the memory kept after `sequence` events
    "D" ...                         daily copies: reserved
    "G" ...                         lineage of generations: reserved

The values are blobs (uic/codec.py). A write survives the death of the process at once (it is in RocksDB's log, in the page
cache); it survives the loss of power from the next flush on. The job's replay from its checkpoint writes it again.
"""

import json
import re
import shutil
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from rocksdict import AccessType, DBCompressionType, Options, Rdict

from uic.codec import read_header, with_generation
from uic.errors import BadInput, StoreError, StoreLocked, StoreMismatch
from uic.store.contract import StoreIdentity

_IDENTITY = b"!identity"
_LATEST = b"L"
_KEPT = b"K"
_FORMAT = 1
_MOST_VERSIONS = 100_000
# What RocksDB makes in a new folder before CURRENT, and so before any data.
_BEFORE_CURRENT = re.compile(r"rocksdict-config\.json|LOCK|LOG(\.old\.\d+)?|IDENTITY|MANIFEST-\d+|\d+\.dbtmp")


class RocksStore:
    """An `OnlineStore` in a folder. Open it with `create_or_open` to write and with `open_to_read` to read."""

    def __init__(
        self, db: Rdict, path: Path, identity: StoreIdentity, *, generation: int = 0, view: Path | None = None
    ) -> None:
        self._db = db
        self._path = path
        self.identity = identity
        self._generation = generation
        self._view = view
        # Reading the version and writing the larger one are one operation; the writing process may have several threads.
        self._turn = threading.Lock()
        self._versions: dict[str, tuple[int, int]] = {}

    @classmethod
    def create_or_open(cls, path: Path, identity: StoreIdentity, *, generation: int = 0, wait_s: float = 30) -> "RocksStore":
        """Open for writing, making the store if there is none.

        Waits up to `wait_s` for a dying predecessor to let go. Raises StoreLocked after that, StoreMismatch where the store
        holds memories of another layout or lineage, BadInput where the folder holds something else.
        """
        if path.exists() and not _is_ours(path):
            raise BadInput(f"{path}: expected an online store or an empty folder, found something else; it is left as it is")
        path.parent.mkdir(parents=True, exist_ok=True)
        db = _open_waiting(path, wait_s)
        try:
            found = _identity(db, path)
            if found is not None:
                check_identity(found, identity, path)
            elif next(iter(db.keys()), None) is not None:
                raise BadInput(f"{path}: expected an online store, found another RocksDB; it is left as it is")
            else:
                db[_IDENTITY] = json.dumps({"format": _FORMAT, **identity._asdict()}).encode()
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
            db = Rdict(str(path), _options(), access_type=AccessType.secondary(str(view)))
            db.try_catch_up_with_primary()
            identity = _identity(db, path)
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
            if written is None and (old := _get(self._db, key)) is not None:
                written = read_header(old).version
            if written is not None and version < written:
                return False
            self._db[key] = stamped
            if len(self._versions) >= _MOST_VERSIONS:
                self._versions.clear()
            self._versions[user_id] = version
        return True

    def read(self, user_id: str) -> bytes | None:
        return _get(self._db, _LATEST + user_id.encode())

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
        return _get(self._db, _kept_key(user_id, sequence))

    def refresh(self) -> None:
        """Let a reading store see what the writing process has written since."""
        self._db.try_catch_up_with_primary()

    def close(self) -> None:
        self._db.close()
        if self._view is not None:
            shutil.rmtree(self._view, ignore_errors=True)


def check_identity(found: StoreIdentity, expected: StoreIdentity, path: Path) -> None:
    """Raise StoreMismatch unless the store's memories can be used with a bundle of this layout and lineage."""
    if found.layout != expected.layout:
        raise StoreMismatch(
            f"{path}: the store holds memories of layout {found.layout}, the bundle makes {expected.layout}. "
            "Use the bundle they were made with, or another store and replay the log into it"
        )
    if found.lineage != expected.lineage:
        raise StoreMismatch(
            f"{path}: the store holds memories of lineage {found.lineage}, the bundle is of {expected.lineage}: same sizes, "
            "but another memory space. Use a bundle trained on from theirs, or another store and replay the log into it"
        )


def _is_ours(path: Path) -> bool:
    """Whether a store may be opened or made here: an empty folder, a store, or one whose maker was killed half-way."""
    if not path.is_dir():
        return False
    names = [each.name for each in path.iterdir()]
    if "CURRENT" not in names:
        return all(_BEFORE_CURRENT.fullmatch(name) for name in names)
    try:
        # Opening would rewrite this file and leave a store of another program unreadable to it.
        return bool(json.loads((path / "rocksdict-config.json").read_text()).get("raw_mode", True))
    except (OSError, ValueError, AttributeError):
        return True  # cut off by a kill, or not made by rocksdict: the keys will tell


def _kept_key(user_id: str, sequence: int) -> bytes:
    return _KEPT + user_id.encode() + b"\0" + struct.pack(">Q", sequence)


def _get(db: Rdict, key: bytes) -> bytes | None:
    value = db.get(key)
    assert value is None or isinstance(value, bytes)  # raw mode has no other values
    return value


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_max_open_files(-1)  # what a secondary instance needs to keep reading files that the primary drops
    options.set_compression_type(DBCompressionType.lz4())
    options.set_keep_log_file_num(2)
    return options


def _open_waiting(path: Path, wait_s: float) -> Rdict:
    give_up_at = time.monotonic() + wait_s
    while True:
        try:
            return Rdict(str(path), _options())
        except Exception as error:  # rocksdict raises plain Exception for everything
            if "lock" not in str(error).lower():
                raise StoreError(f"{path}: the store cannot be opened: {error}") from error
            if time.monotonic() > give_up_at:
                raise StoreLocked(
                    f"{path}: another process has written to this store for the last {wait_s:.0f} s: {error}"
                ) from error
        time.sleep(0.1)


def _identity(db: Rdict, path: Path) -> StoreIdentity | None:
    raw = _get(db, _IDENTITY)
    if raw is None:
        return None
    content = json.loads(raw)
    if content.get("format") != _FORMAT:
        raise StoreError(f"{path}: this release reads store format {_FORMAT}, got {content.get('format')}")
    return StoreIdentity(layout=content["layout"], lineage=content["lineage"])
