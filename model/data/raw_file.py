"""Reading a raw file that is larger than memory: plain, gzip or the one file in a zip, told by its first bytes."""

import gzip
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from uic.errors import BadInput

_BUFFER = 1 << 20
_BLOCK = 1 << 22  # as lines and columns a block takes ten times as much; larger ones are no quicker
_SHOWN = 3


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The bytes of the file, unpacked; what goes wrong while they are read, such as a download cut short, is BadInput."""
    try:
        with path.open("rb", buffering=_BUFFER) as file:
            start = file.read(4)
            file.seek(0)
            if start[:2] == b"\x1f\x8b":
                with gzip.open(file, "rb") as unpacked:
                    yield cast(BinaryIO, unpacked)
            elif start == b"PK\x03\x04":
                with zipfile.ZipFile(file) as archive, archive.open(_only_member(archive, path)) as member:
                    yield cast(BinaryIO, member)
            else:
                yield file
    except (
        zipfile.BadZipFile,
        gzip.BadGzipFile,
        zlib.error,
        EOFError,
        OSError,
        RuntimeError,
    ) as error:  # RuntimeError: encrypted
        raise BadInput(f"{path}: the file cannot be read to its end ({error}); fetch it again") from None


def blocks(stream: BinaryIO) -> Iterator[bytes]:
    """The stream in blocks of whole lines; the last line may lack its end."""
    rest = b""
    while block := stream.read(_BLOCK):
        whole, end, rest = (rest + block).rpartition(b"\n")
        if end:
            yield whole + end
    if rest:
        yield rest


def _only_member(archive: zipfile.ZipFile, path: Path) -> str:
    names = [info.filename for info in archive.infolist() if not info.is_dir() and not info.filename.startswith("__MACOSX")]
    if len(names) != 1:
        raise BadInput(f"{path}: expected one file in the zip, got {', '.join(names[:5]) or 'none'}")
    return names[0]


class BadLines:
    """The lines of a raw file that cannot be used: refused at once with their text, or counted and left out."""

    def __init__(self, path: Path, expected: str, *, drop_invalid: bool) -> None:
        self.count = 0
        self._path, self._expected, self._drop_invalid = path, expected, drop_invalid

    def add(self, lines: Sequence[tuple[int, str]]) -> None:
        """Line numbers (from 1) and what is there."""
        self.count += len(lines)
        if not lines or self._drop_invalid:
            return
        came = "; ".join(f"line {number}: {_shortened(text)}" for number, text in lines[:_SHOWN])
        more = f"; and {len(lines) - _SHOWN} more soon after" if len(lines) > _SHOWN else ""
        raise BadInput(
            f"{self._path}: expected {self._expected}; got {came}{more}\nmend them, or pass --drop-invalid to leave them out"
        )


def _shortened(text: str) -> str:
    return repr(text) if len(text) <= 80 else f"{text[:70]!r}... ({len(text)} characters)"
