"""Which files a checkpoint consists of, read from its `_metadata`.

Flink has no reader of it for others; what is read here is what stays the same over its versions: the head, and how a handle to
stored bytes is written. Numbers are big-endian; a text is its length (2 bytes) and UTF-8.

    4960672D, version (4 bytes), number of the checkpoint (8), ...
    in a file              02, size (8 bytes), text: its URI
    in a file beside it    06, text: its name, size (8)
    within _metadata       01, text: a name, size (4), the bytes

Before a file of RocksDB's stands its name there, as a text: `000016.sst`, `MANIFEST-000005`.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

FILE = "_metadata"
MAGIC = bytes.fromhex("4960672d")
_NUMBER_AT = 8
_UUID = rb"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"
_HANDLE = re.compile(
    rb"(?:\x00[\x07-\x3f](?P<local>[0-9]+\.sst|(?:MANIFEST|OPTIONS)-[0-9]+|CURRENT))?"
    rb"(?:\x02(?P<size>\x00\x00.{6})(?P<length>[\x00-\x0f].)(?=[a-z0-9]+:)"
    # Where 05 or 0B stands 8 bytes before, this 06 ends the number of the checkpoint in an incremental handle.
    rb"|(?<![\x05\x0b].{7})\x06\x00\x24(?P<beside>" + _UUID + rb")(?P<beside_size>\x00\x00.{6})"
    rb"|\x01(?P<inline_length>[\x00-\x0f].)(?=[a-z0-9]+:|" + _UUID + rb"))",
    re.DOTALL,
)


class Piece(NamedTuple):
    """Bytes of a checkpoint: in the file `path`, or in `_metadata` from `inline_at` on. `local`: RocksDB's name for them."""

    size: int
    path: Path | None
    inline_at: int | None
    local: str


def pieces(metadata: bytes, folder: Path) -> Iterator[Piece]:
    """What a `_metadata` in `folder` refers to. Files that are elsewhere than on a mounted disk are passed over."""
    at = 0
    while (match := _HANDLE.search(metadata, at)) is not None:
        at = match.end()
        local = (match["local"] or b"").decode()
        if match["size"] is not None:
            uri = metadata[at : at + _number(match["length"])].decode(errors="replace")
            at += len(uri)
            path = _path(uri)
            if path is not None:
                yield Piece(_number(match["size"]), path, None, local)
        elif match["beside"] is not None:
            yield Piece(_number(match["beside_size"]), folder / match["beside"].decode(), None, local)
        else:
            start = at + _number(match["inline_length"]) + 4
            size = _number(metadata[start - 4 : start])
            if start + size <= len(metadata):
                yield Piece(size, None, start, local)


def number(folder: Path) -> int | None:
    """The number of the checkpoint in `folder`, which savepoints have as well; None where `_metadata` does not say it."""
    try:
        with (folder / FILE).open("rb") as file:
            head = file.read(_NUMBER_AT + 8)
    except OSError:
        return None
    return _number(head[_NUMBER_AT:]) if head.startswith(MAGIC) and len(head) == _NUMBER_AT + 8 else None


def why_incomplete(folder: Path) -> str | None:
    """Why there is no complete checkpoint in `folder`, None where there is one: `_metadata` is written last."""
    try:
        with (folder / FILE).open("rb") as file:
            head = file.read(len(MAGIC))
    except OSError:
        return f"this checkpoint was not completed (no {FILE})"
    return None if head == MAGIC else f"this checkpoint is damaged ({FILE} begins with {head.hex() or 'nothing'})"


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _path(uri: str) -> Path | None:
    """The file that a URI of Flink's names.

    >>> str(_path("file:/srv/job/a b")), _path("s3://bucket/a")
    ('/srv/job/a b', None)
    """
    if not uri.startswith("file:"):
        return None
    text = "/" + uri.removeprefix("file:").lstrip("/")
    # Path.exists raises where a name is longer than the file system's names are; this one says that there is no such file.
    return Path(text) if os.path.exists(text) else Path(unquote(text))  # noqa: PTH110  # see above
