"""Is a checkpoint as it was written? Flink restores a flipped bit silently, so every memory in it is looked at before.

What is seen: any change within a memory; any change within RocksDB's uncompressed files and its manifest; a file that is
missing or shorter than it was. What is not: the user ids between the memories of a hashmap checkpoint or a canonical savepoint,
timers and positions beside them, and most of `_metadata`, since nothing there has a checksum.
"""

import mmap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from jobs import blobs, flink_metadata, sst
from jobs.blobs import BlobForm

_MOST_BAD = 1000


@dataclass(frozen=True)
class BadMemory:
    """Bytes that are not what was written: a memory, or a block of RocksDB's with memories in it."""

    file: Path
    offset: int
    why: str

    def __str__(self) -> str:
        return f"{self.file} at byte {self.offset}: {self.why}"


@dataclass
class Inspection:
    """What was found in one checkpoint. `memories` counts the damaged ones too, and in RocksDB's files old versions.

    `unseen` names files in which memories cannot be seen, since they are compressed or of an unknown format.
    """

    memories: int = 0
    bad: list[BadMemory] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    bytes: int = 0

    @property
    def is_intact(self) -> bool:
        return not self.bad and not self.missing

    def why(self) -> str:
        """The first thing that is wrong, and how many more."""
        wrong = [*self.missing, *map(str, self.bad)]
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        return f"{wrong[0]}{more}" if wrong else "intact"


def inspect(checkpoint: Path, form: BlobForm | None = None, *, advance: Callable[[int], None] | None = None) -> Inspection:
    """Look at every memory of a complete checkpoint or savepoint.

    `form` is what its memories should be like (`form_of`); without it the first whole one tells. `advance` is called with the
    bytes done.
    """
    found = Inspection()
    metadata = (checkpoint / flink_metadata.FILE).read_bytes()
    names = {path: "" for path in sorted(checkpoint.iterdir()) if path.is_file()}
    inline: list[flink_metadata.Piece] = []
    for piece in flink_metadata.pieces(metadata, checkpoint):
        if piece.path is None:
            inline.append(piece)
        elif (missing := _why_missing(piece.path, piece.size)) is None:
            names[piece.path] = piece.local or names.get(piece.path, "")
        elif missing not in found.missing:
            found.missing.append(missing)
    for piece in inline:
        assert piece.inline_at is not None  # what is in no file is in `_metadata`
        content = memoryview(metadata)[piece.inline_at : piece.inline_at + piece.size]
        wrong, _ = _look_at_rocks(content, piece.local)
        found.bad += [BadMemory(checkpoint / flink_metadata.FILE, piece.inline_at + each.offset, each.why) for each in wrong]
    form = form or _guess_form(names)
    for path, local in names.items():
        with _mapped(path) as data:
            _look_at(found, path, data, local, form)
            found.bytes += len(data)
            if advance is not None:
                advance(len(data))
        if len(found.bad) >= _MOST_BAD:
            break
    return found


def memories_of(savepoint: Path, form: BlobForm) -> Iterator[bytes]:
    """Every whole memory in a canonical savepoint, which holds each user's once; in no order, and without the user."""
    for path in sorted(each for each in savepoint.iterdir() if each.is_file()):
        with _mapped(path) as data:
            for memory in blobs.find(data, form):
                if memory.why is None:
                    yield data[memory.offset : memory.offset + form.size]


def form_of(bundle: Path) -> BlobForm | None:
    """What the memories of a bundle are like, told by its initial one; None where the bundle is gone."""
    try:
        return BlobForm.read((bundle / "initial.bin").read_bytes())
    except OSError:
        return None


def size_of(checkpoint: Path) -> int:
    """The bytes of all files that a complete checkpoint consists of."""
    metadata = (checkpoint / flink_metadata.FILE).read_bytes()
    sizes = {piece.path: piece.size for piece in flink_metadata.pieces(metadata, checkpoint) if piece.path is not None}
    return len(metadata) + sum(sizes.values())


def _guess_form(names: Mapping[Path, str]) -> BlobForm | None:
    for path, local in names.items():
        with _mapped(path) as data:
            if not local.startswith("MANIFEST") and (form := blobs.guess_form(data)) is not None:
                return form
    return None


def _look_at(found: Inspection, path: Path, data: bytes | mmap.mmap, local: str, form: BlobForm | None) -> None:
    """Add what is in one file."""
    with memoryview(data) as view:
        wrong, unseen = _look_at_rocks(view, local)
    if unseen is not None:
        found.unseen.append(f"{path}: {unseen}")
    else:
        bad = []
        for memory in () if form is None else blobs.find(data, form):
            found.memories += 1
            if memory.why is not None:
                bad.append(memory.offset)
                found.bad.append(BadMemory(path, memory.offset, memory.why))
                if len(found.bad) >= _MOST_BAD:
                    break
        # A memory is said more exactly than the block around it.
        wrong = [each for each in wrong if not any(each.offset <= offset < each.offset + each.size for offset in bad)]
    found.bad += [BadMemory(path, each.offset, each.why) for each in wrong]


def _look_at_rocks(data: memoryview, local: str) -> tuple[list[sst.Wrong], str | None]:
    """What is wrong in a file of RocksDB's, and why memories cannot be seen in it; nothing for any other file."""
    if local.startswith("MANIFEST"):
        return list(sst.check_manifest(data)), None
    if not sst.is_sst(data):
        return [sst.Wrong(0, len(data), f"{local} does not end as RocksDB's files do")] if local.endswith(".sst") else [], None
    try:
        file = sst.Sst(data)
        wrong = list(file.wrong())
        if file.is_compressed():
            return wrong, "compressed; RocksDB's checksums were looked at, not those of the memories"
    except sst.Unreadable as error:
        return [], str(error)
    except IndexError:
        return [sst.Wrong(0, len(data), "its index leads beyond the end of the file")], None
    return wrong, None


def _why_missing(path: Path, size: int) -> str | None:
    try:
        there = path.stat().st_size
    except OSError as error:
        return f"{path}: {error.strerror}"
    except ValueError as error:
        return f"{path}: {error}"
    return None if there == size else f"{path}: {there} bytes are there of {size}"


@contextmanager
def _mapped(path: Path) -> Iterator[bytes | mmap.mmap]:
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data
