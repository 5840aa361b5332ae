"""A folder of JSON-lines files as one ordered sequence of lines, readable from any position on. No Flink in here.

The order is (file name, line). A position is a file, an offset in it and a CRC of the bytes just before that offset: whoever
continues from it notices when the file is not the one that was read. Lines end with LF or CR LF; empty lines are skipped; the
last line of a file needs no end of line once it is certain that none will come.
"""

import json
import os
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

from uic.errors import JobError
from uic.event import MAX_EVENT_BYTES

SUFFIX = ".jsonl"
BLOCK_BYTES = 1 << 16
_MARK_BYTES = 256
_FORMAT = 1


class Line(NamedTuple):
    """One line without its end. `size` is its true length; `payload` is cut where that is above MAX_EVENT_BYTES."""

    offset: int
    payload: bytes
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """Where reading continues: `file` is "" before the first one. `bytes_read` counts all that was read, in every file."""

    file: str = ""
    offset: int = 0
    mark: int = 0
    bytes_read: int = 0
    lines: int = 0
    events: int = 0

    def to_json(self) -> bytes:
        return json.dumps({"format": _FORMAT, **asdict(self)}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Position":
        content = json.loads(data)
        if content.pop("format") != _FORMAT:
            raise JobError(f"saved position: this release reads format {_FORMAT}, got {data!r}")
        return cls(**content)


class Chunk(NamedTuple):
    """Lines of one file and the position after them. `finished`: that file's name and size, where it is done with."""

    lines: list[Line]
    position: Position
    has_more: bool
    finished: tuple[str, int] | None = None


class Surprise(NamedTuple):
    """Bytes that stand before the position and were never read: a file that came late, or grew after it was finished."""

    file: str
    read: int
    size: int


def surprises(sizes: dict[str, int], finished: dict[str, int], at: Position) -> list[Surprise]:
    """What the files before the position hold beyond what was read of them. Finished files may be deleted.

    >>> surprises({"a": 5, "b": 9, "c": 1}, {"a": 5}, Position(file="c"))
    [Surprise(file='b', read=0, size=9)]
    """
    before = ((name, finished.get(name, 0), size) for name, size in sorted(sizes.items()) if name < at.file)
    return [Surprise(name, read, size) for name, read, size in before if size != read]


class EventFolder:
    """The files of a folder, read chunk by chunk.

    `waits`: a last line without its end is left until the end comes or a later file stands beside it (watching); otherwise it
    counts as a line.
    """

    def __init__(self, path: Path, *, waits: bool = False, block_bytes: int = BLOCK_BYTES) -> None:
        self._path = path
        self._waits = waits
        self._block_bytes = block_bytes
        self._open: tuple[str, BinaryIO] | None = None
        self._unfinished: tuple[str, int] | None = None

    def names(self) -> list[str]:
        """The event files there are, in reading order."""
        try:
            entries = list(os.scandir(self._path))
        except OSError as error:
            raise JobError(f"{self._path}: the folder of events cannot be read: {error}") from error
        return sorted(entry.name for entry in entries if entry.name.endswith(SUFFIX) and entry.is_file())

    def sizes(self) -> dict[str, int]:
        """Size of every event file there is."""
        sizes = {}
        for name in self.names():
            try:
                sizes[name] = (self._path / name).stat().st_size
            except FileNotFoundError:
                continue
        return sizes

    def chunk(self, at: Position, *, max_lines: int) -> Chunk:
        """Up to `max_lines` lines from `at` on; none and not `has_more` where there is nothing to read now."""
        if at.file == "":
            return self._enter_next(at)
        file = self._file(at)
        size = os.fstat(file.fileno()).st_size
        if size < at.offset:
            raise JobError(
                f"{self._path / at.file}: {at.offset} bytes of it were read, now it has {size}; "
                "an event file may only grow. Put the whole file back, then run again"
            )
        block = os.pread(file.fileno(), self._block_bytes, at.offset)
        lines, used = _split(block, at.offset, max_lines)
        if used > 0:
            return Chunk(lines, self._after(at, file, used, len(lines)), True)
        # No end of line in this block: a long line, the end of the file, or both.
        line, used, is_ended = _long_line(file, at.offset, len(block))
        if is_ended:
            lines = [line] if line.size > 0 else []
            return Chunk(lines, self._after(at, file, used, len(lines)), True)
        following = self._enter_next(at)
        if used > 0 and self._must_wait(at.file, at.offset + used, is_last=following.position is at):
            return Chunk([], at, False)
        rest = [line] if line.size > 0 else []
        after = self._after(at, file, used, len(rest)) if used > 0 else at
        if following.position is at:
            return Chunk(rest, after, used > 0)
        entered = replace(after, file=following.position.file, offset=0, mark=0)
        return Chunk(rest, entered, True, (at.file, after.offset))

    def close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def _enter_next(self, at: Position) -> Chunk:
        later = [name for name in self.names() if name > at.file]
        return Chunk([], replace(at, file=later[0], offset=0, mark=0), True) if later else Chunk([], at, False)

    def _must_wait(self, name: str, size: int, *, is_last: bool) -> bool:
        """Whether bytes without an end of line may still be growing. Where a later file is there, one more look is enough."""
        if not self._waits:
            return False
        seen, self._unfinished = self._unfinished, (name, size)
        return is_last or seen != (name, size)

    def _after(self, at: Position, file: BinaryIO, used: int, lines: int) -> Position:
        offset = at.offset + used
        return replace(at, offset=offset, mark=_mark(file, offset), bytes_read=at.bytes_read + used, lines=at.lines + lines)

    def _file(self, at: Position) -> BinaryIO:
        if self._open is not None and self._open[0] == at.file:
            return self._open[1]
        self.close()
        try:
            file = (self._path / at.file).open("rb", buffering=0)
        except OSError as error:
            raise JobError(
                f"{self._path / at.file}: {at.offset} bytes of it were read, now it cannot be opened: {error.strerror}. "
                "Put the file back, then run again"
            ) from error
        if os.fstat(file.fileno()).st_size >= at.offset and _mark(file, at.offset) != at.mark:
            file.close()
            raise JobError(
                f"{self._path / at.file}: the {min(_MARK_BYTES, at.offset)} bytes before offset {at.offset} are not those "
                "that were read; an event file may only grow. Put the old file back, or give the new one a later name"
            )
        self._open = (at.file, file)
        return file


def _split(block: bytes, start: int, max_lines: int) -> tuple[list[Line], int]:
    """The whole lines in a block that begins at offset `start`, empty ones left out, and how many bytes they take."""
    lines: list[Line] = []
    at = 0
    while len(lines) < max_lines and (end := block.find(b"\n", at)) >= 0:
        payload = block[at:end].removesuffix(b"\r")
        if payload:
            lines.append(Line(start + at, payload, len(payload)))
        at = end + 1
    return lines, at


def _long_line(file: BinaryIO, start: int, known: int) -> tuple[Line, int, bool]:
    """The line at `start`, whose first `known` bytes hold no end; the bytes it takes; whether it has an end.

    Reads on without keeping what lies beyond MAX_EVENT_BYTES: a line may be larger than the memory.
    """
    size = known
    while block := os.pread(file.fileno(), BLOCK_BYTES, start + size):
        end = block.find(b"\n")
        if end >= 0:
            size += end
            break
        size += len(block)
    is_ended = bool(block)
    head = os.pread(file.fileno(), min(size, MAX_EVENT_BYTES + 1), start)
    has_return = size > 0 and os.pread(file.fileno(), 1, start + size - 1) == b"\r"
    length = size - 1 if has_return else size
    return Line(start, head[:length], length), size + int(is_ended), is_ended


def _mark(file: BinaryIO, offset: int) -> int:
    count = min(_MARK_BYTES, offset)
    return zlib.crc32(os.pread(file.fileno(), count, offset - count))
