"""The folder of daily checkpoints: entries that are there whole or not at all, whatever is killed whenever.

    ID/entry.json      what it is (jobs/daily/entry.py)            ID/savepoint/   Flink's files
    .taking-ID/        one in the making; who makes it holds a lock on the folder itself
    .removed-ID/       one on its way out
    lock               held by whoever changes anything, for a moment

An entry appears by one rename of its folder and goes by another, so its files go with it. What a killed process has left, the
next change sweeps away: a folder in the making whose lock is free belongs to nobody.
"""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import NamedTuple

from jobs.daily.entry import Entry, File, id_of
from jobs.daily.keeping import newest_first
from uic import artefact
from uic.errors import BadInput, JobError

KIND = "daily-checkpoints"
ENTRY, SAVEPOINT = "entry.json", "savepoint"
_TAKING, _REMOVED = ".taking-", ".removed-"
_CHUNK = 1 << 20


class Contents(NamedTuple):
    """The entries, newest first, and the folders in which there should be one that can be read, with what is wrong."""

    entries: list[Entry]
    unreadable: dict[Path, str]


class Catalogue:
    """A catalogue at `path`, made where there is none."""

    def __init__(self, path: Path, *, make: bool = True) -> None:
        self.path = path.absolute()
        if make:
            artefact.check_may_write(self.path, KIND, replace=True)
            self.path.mkdir(parents=True, exist_ok=True)
            if artefact.kind_of(self.path) is None:
                artefact.mark(self.path, KIND)
        artefact.check_is(self.path, KIND)

    def contents(self) -> Contents:
        entries, unreadable = [], {}
        for folder in sorted(self.path.iterdir()):
            if folder.name.startswith(".") or not folder.is_dir():
                continue
            try:
                entries.append(Entry.from_json((folder / ENTRY).read_text(encoding="utf-8"), str(folder / ENTRY)))
            except FileNotFoundError as error:
                if folder.exists():  # else it was removed meanwhile
                    unreadable[folder] = f"{folder / ENTRY}: {error.strerror}"
            except (OSError, UnicodeDecodeError, JobError) as error:
                unreadable[folder] = str(error)
        return Contents(newest_first(entries), unreadable)

    def entries(self) -> list[Entry]:
        """Those that can be read, newest first."""
        return self.contents().entries

    def find(self, name: str) -> Entry:
        """The entry of this id, or the best of this day: good before sealed before taken, then the newest. Raises BadInput."""
        entries = self.entries()
        found = [entry for entry in entries if name in (entry.id, entry.day.isoformat())]
        if not found:
            there = ", ".join(sorted({entry.day.isoformat() for entry in entries})) or "none"
            raise BadInput(f"{self.path}: no daily checkpoint {name}; there are {there}. `uic checkpoint list` shows them")
        return max(found, key=lambda entry: (entry.is_good, entry.tainted is None, entry.taken_ms))

    def savepoint(self, entry: Entry) -> Path:
        """Where Flink can go on from."""
        return self.path / entry.id / SAVEPOINT

    @contextmanager
    def changing(self, wait_s: float = 60.0) -> Iterator[None]:
        """Be the only one who changes the catalogue; raises JobError where another does for so long. Not to be nested."""
        with (self.path / "lock").open("a") as file:
            give_up_at = time.monotonic() + wait_s
            while not _try_lock(file.fileno()):
                if time.monotonic() > give_up_at:
                    raise JobError(f"{self.path}: another process has been changing this catalogue for the last {wait_s:.0f} s")
                time.sleep(0.05)
            self._sweep()
            yield

    @contextmanager
    def taking(self) -> Iterator[Path]:
        """A folder for a savepoint in the making; goes with all that is in it unless `add` is called for it."""
        folder = self.path / f"{_TAKING}{id_of(time.time_ns() // 1_000_000)}-{os.getpid()}-{time.monotonic_ns()}"
        with self.changing():
            folder.mkdir()
            descriptor = os.open(folder, os.O_RDONLY)
            _try_lock(descriptor)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)

    def add(self, folder: Path, entry: Entry) -> Entry:
        """Make an entry of a folder from `taking`, with a savepoint in it; returns it under the id that was free."""
        with self.changing():
            number = 1
            while (self.path / entry.id).exists():
                number += 1
                entry = replace(entry, id=f"{entry.id.partition('.')[0]}.{number}")
            _write(folder / ENTRY, entry)
            folder.rename(self.path / entry.id)
            _flush_entry(self.path)
        return entry

    def change(self, entry: Entry, change: Callable[[Entry], Entry]) -> Entry:
        """Rewrite an entry as it is now; raises BadInput where it has gone."""
        with self.changing():
            changed = change(self._now(entry))
            assert changed.id == entry.id
            _write(self.path / entry.id / ENTRY, changed)
        return changed

    def pin(self, entry: Entry, who: str) -> Entry:
        """Keep it for ever, as far as `who` is concerned."""
        return self.change(entry, lambda now: replace(now, pins=tuple(sorted({*now.pins, who}))))

    def unpin(self, entry: Entry, who: str | None) -> Entry:
        """Take back the pin of `who`, or all of them."""
        return self.change(entry, lambda now: replace(now, pins=() if who is None else tuple({*now.pins} - {who})))

    def taint_after(self, day: date, why: str) -> list[Entry]:
        """Mark every entry of a later day as not to be gone on with; returns them. Those that are tainted stay as they are."""
        later = [entry for entry in self.entries() if entry.day > day and entry.tainted is None]
        return [self.change(entry, lambda now: replace(now, tainted=why)) for entry in later]

    def remove(self, entry: Entry) -> None:
        """Remove it with its files; raises BadInput where it is pinned or the last one."""
        with self.changing():
            now = self._now(entry)
            if now.pins:
                raise BadInput(f"{entry.id}: pinned ({'; '.join(now.pins)}); `uic checkpoint unpin {entry.id}` comes first")
            if len(self.entries()) <= 1:
                raise BadInput(f"{entry.id}: the last daily checkpoint there is; it stays until there is another")
            aside = self.path / f"{_REMOVED}{entry.id}"
            (self.path / entry.id).rename(aside)
            _flush_entry(self.path)
            shutil.rmtree(aside, ignore_errors=True)

    def wrong_files(self, entry: Entry, advance: Callable[[int], None] = lambda _: None) -> list[str]:
        """Every file that is not as it was taken, with what is wrong; read anew from the disk."""
        now = digests(self.savepoint(entry), advance)
        wrong = []
        for name in sorted({*now, *entry.files}):
            expected, found = entry.files.get(name), now.get(name)
            path = self.savepoint(entry) / name
            if found is None:
                wrong.append(f"{path}: missing")
            elif expected is None:
                wrong.append(f"{path}: not there when the savepoint was taken")
            elif found.bytes != expected.bytes:
                wrong.append(f"{path}: {found.bytes} bytes are there of {expected.bytes}")
            elif found != expected:
                wrong.append(f"{path}: its SHA-256 is {found.sha256[:16]}..., expected {expected.sha256[:16]}...")
        return wrong

    def _now(self, entry: Entry) -> Entry:
        path = self.path / entry.id / ENTRY
        try:
            return Entry.from_json(path.read_text(encoding="utf-8"), str(path))
        except FileNotFoundError as error:
            raise BadInput(f"{path}: this daily checkpoint has gone meanwhile") from error

    def _sweep(self) -> None:
        """Remove what dead processes have left; called with the lock held, so nothing is between two steps of the living."""
        for folder in self.path.iterdir():
            if folder.name.startswith(_REMOVED) or (folder.name.startswith(_TAKING) and _is_free(folder)):
                shutil.rmtree(folder, ignore_errors=True)
            elif not folder.name.startswith(".") and folder.is_dir():
                for partial in folder.glob(f".{ENTRY}.*"):
                    partial.unlink(missing_ok=True)


def digests(savepoint: Path, advance: Callable[[int], None] = lambda _: None) -> Mapping[str, File]:
    """Size and SHA-256 of every file, which is on the disk then; `advance` is called with the bytes read."""
    found = {}
    for path in sorted(each for each in savepoint.rglob("*") if each.is_file()):
        digest, size = hashlib.sha256(), 0
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
                advance(len(chunk))
            os.fsync(file.fileno())
        found[str(path.relative_to(savepoint))] = File(size, digest.hexdigest())
    return found


def _write(path: Path, entry: Entry) -> None:
    artefact.write_atomically(path, json.dumps(entry.to_json(), indent=1) + "\n")
    _flush_entry(path.parent)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_free(folder: Path) -> bool:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _flush_entry(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
