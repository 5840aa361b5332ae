"""Who is to be forgotten, and up to when: one file that every start of a job reads, `forgotten.jsonl` in its folder.

    {"format": 1, "salt": "..."}        made once, at random
    {"user": "...", "until_ms": 1795305600000, "later": "anew", "asked_ms": 1795305600123}        the last one of a user counts

`user` is a keyed hash of the user's id: the file names nobody. Nothing of the user counts that the log took in at `until_ms` or
before: neither an event, whichever replay brings it, nor a memory, from whichever savepoint it comes. So a rollback need not
know whom it would bring back. Later events are a new user's. Without `until_ms` there is no later, and those are dropped too:
for good where `later` is "drop"; where it is "anew", until it has been found out how far the old life reached. The latest of
several times counts: what was once forgotten stays so.

Lines are only ever appended, each in one write that is on the disk before anything relies on it; one that was cut off by a
death has no end of line and does not count.
"""

import fcntl
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from uic.errors import JobError

FILE = "forgotten.jsonl"
FOREVER_MS = (1 << 63) - 1
Later = Literal["anew", "drop"]
_FORMAT = 1
_SALT_BYTES = 32
_HASH_BYTES = 16
_REMEMBERED = 1 << 17


class Entry(NamedTuple):
    """What is to become of a user: nothing counts up to `until_ms`; None: nothing at all."""

    until_ms: int | None
    later: Later
    asked_ms: int

    @property
    def is_open(self) -> bool:
        """Whether it is still to be found out how far the old life reached."""
        return self.until_ms is None and self.later == "anew"


class Forgotten:
    """Those who are to be forgotten, as the file says; `refresh` reads what was added since. No file: nobody."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._salt = b""
        self._read_to = 0
        self._entries: dict[bytes, Entry] = {}
        self._furthest_ms: dict[bytes, int] = {}
        self._look_up = lru_cache(_REMEMBERED)(self._find)
        self.refresh()

    def refresh(self) -> None:
        """Read what was appended; raises JobError where the file is not as it was written."""
        try:
            with self.path.open("rb") as file:
                self._take(file)
        except FileNotFoundError:
            if self._read_to:
                raise JobError(f"{self.path}: it was there, and is not: put it back, it keeps users from returning") from None
        except OSError as error:
            raise JobError(f"{self.path}: who is to be forgotten cannot be read: {error.strerror}") from error

    def until_ms(self, user_id: str) -> int | None:
        """Up to which log time nothing of the user counts; None: they were never forgotten."""
        # Nearly always nobody is, or not one of these: asked for every user of every batch.
        return self._look_up(user_id) if self._entries else None

    def is_gone(self, user_id: str, log_time_ms: int) -> bool:
        """Whether an event that the log took in then, or a memory that last changed then, does not count any more."""
        until_ms = self.until_ms(user_id)
        return until_ms is not None and log_time_ms <= until_ms

    def entry(self, user_id: str) -> Entry | None:
        """What the file says of the user."""
        return self._entries.get(self._hash(user_id)) if self._entries else None

    @property
    def is_empty(self) -> bool:
        return not self._entries

    def note(self, user_id: str, entry: Entry) -> None:
        """Add a line; it is on the disk when this returns."""
        if not self.path.exists():
            _make(self.path)
        with _locked(self.path) as file:
            self._take(file)
            line = {"user": self._hash(user_id).hex(), **entry._asdict()}
            # What follows the last whole line was left by a writer who died in it.
            file.truncate(self._read_to)
            file.seek(self._read_to)
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            self._take(file)

    def heed(self, user_id: str, until_ms: int) -> None:
        """Take this for said already, by whoever is about to write it down."""
        entry = self.entry(user_id)
        if entry is not None and entry.is_open:
            user = self._hash(user_id)
            self._entries[user] = entry._replace(until_ms=max(until_ms, self._furthest_ms.get(user, until_ms)))
            self._look_up.cache_clear()

    def _take(self, file: BinaryIO) -> None:
        size = os.fstat(file.fileno()).st_size
        if size < self._read_to:
            raise JobError(f"{self.path}: {self._read_to} bytes of it were read, now it has {size}; it may only grow")
        file.seek(self._read_to)
        data = file.read()
        whole = data.rfind(b"\n") + 1
        for line in data[:whole].splitlines():
            try:
                self._take_line(json.loads(line))
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise JobError(f"{self.path}: a line cannot be read, and nobody may be left out: {line[:100]!r}") from error
        self._read_to += whole
        self._look_up.cache_clear()

    def _take_line(self, content: dict[str, object]) -> None:
        if not self._salt:
            if content["format"] != _FORMAT:
                raise JobError(f"{self.path}: this release reads format {_FORMAT}, got {content['format']}")
            salt = bytes.fromhex(str(content["salt"]))
            if len(salt) != _SALT_BYTES:
                raise ValueError(f"salt: expected {_SALT_BYTES} bytes, got {len(salt)}")
            self._salt = salt
            return
        until_ms, later, asked_ms = content["until_ms"], content["later"], content["asked_ms"]
        if later not in ("anew", "drop") or not isinstance(asked_ms, int) or not isinstance(until_ms, int | None):
            raise ValueError(content)
        user = bytes.fromhex(str(content["user"]))
        if until_ms is not None:
            until_ms = self._furthest_ms[user] = max(until_ms, self._furthest_ms.get(user, until_ms))
        self._entries[user] = Entry(until_ms, later, asked_ms)

    def _find(self, user_id: str) -> int | None:
        entry = self._entries.get(self._hash(user_id))
        if entry is None:
            return None
        return FOREVER_MS if entry.until_ms is None else entry.until_ms

    def _hash(self, user_id: str) -> bytes:
        return blake2b(user_id.encode(), key=self._salt, digest_size=_HASH_BYTES).digest()


def share(path: Path, other: Path) -> None:
    """Let a second job's folder have the same file: whoever is forgotten in one of them, is so in both.

    Done before: nothing happens. Raises JobError where the two cannot share a file, or the second has one of its own.
    """
    if not path.exists():
        _make(path)
    try:
        with suppress(FileExistsError):
            os.link(path, other)
        is_one = path.samefile(other)
    except OSError as error:
        raise JobError(f"{other}: cannot be the same file as {path}, use a folder on its disk: {error.strerror}") from error
    if not is_one:
        raise JobError(f"{other}: says itself who is to be forgotten; expected the same file as {path}")


def _make(path: Path) -> None:
    """A file with a salt alone, there as a whole or not at all; of two who make one, one does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.") as file:
        file.write(json.dumps({"format": _FORMAT, "salt": secrets.token_hex(_SALT_BYTES)}) + "\n")
        file.flush()
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), 0o644)
        with suppress(FileExistsError):
            os.link(file.name, path)


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
