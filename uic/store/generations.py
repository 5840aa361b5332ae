"""The file that says which generations a store has begun: `lineage.json` in its folder, one over all shards.

    {"format": 1, "cuts": [{"generation": 1, "cut_ms": 1795305600000}]}

It is the truth, for readers and writers of every process. A reader looks before each read, a writer before each batch, whether
it was replaced; that is one `stat`. Beginning a generation is one atomic rename: all users, all shards and all processes at
once.

No writer needs to be asked first. A memory carries its generation and log time, and every read compares both with the cuts; so
what a writer that has not looked yet may still store of an older generation is invisible. It cannot spoil what is visible
either: the first memory of a later day leaves the last one before the cut behind, and copies that a read as of the cut returns
are not removed.

What a zombie can do, a job of an older generation that goes on publishing: memories taken in from the cut on are refused
(counted as fenced); those from before the cut are taken where they are newer than what is there of before the cut, which is
what the new generation began with. A deletion names its job's generation and is refused likewise; one of an earlier release,
which does not, is taken: the user is absent until their next memory.

Each RocksDB notes in key "G" the lineage that its writer last knew, so that a store whose file was lost is not read as if
nothing had happened.
"""

import os
from pathlib import Path

from uic.artefact import write_atomically
from uic.errors import StoreError
from uic.store.lineage import Lineage

FILE = "lineage.json"


class Generations:
    """The file, read again whenever it was replaced."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._name = str(path)
        self._seen: tuple[int, int, int] | None = None
        self._lineage = Lineage()

    @property
    def lineage(self) -> Lineage:
        try:
            found = os.stat(self._name)  # noqa: PTH116  # before every read: a third of what Path.stat takes
        except FileNotFoundError:
            if self._seen is not None:
                raise StoreError(
                    f"{self.path}: it was there, and is gone: which memories count is not known. Restore it"
                ) from None
            return self._lineage
        seen = found.st_ino, found.st_mtime_ns, found.st_size
        if seen != self._seen:
            self._lineage = Lineage.from_json(self.path.read_bytes(), self.path)
            self._seen = seen
        return self._lineage

    def check(self, noted: Lineage) -> None:
        """Raise StoreError where the file lacks a generation that a writer has known."""
        if self.lineage.cuts[: len(noted.cuts)] != noted.cuts:
            raise StoreError(
                f"{self.path}: expected the generations that the store was written in, {list(map(tuple, noted.cuts))}, "
                f"found {list(map(tuple, self.lineage.cuts))}. Restore it: without it memories that were cut off would count"
            )

    def write(self, lineage: Lineage) -> None:
        write_atomically(self.path, lineage.to_json())
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
