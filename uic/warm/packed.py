"""A file of packed memories: what warm-up leaves, and what the online store and a savepoint are made from.

Format 1. All numbers are little-endian and unsigned.

    head     4 bytes  magic: 55 49 43 57 ("UICW")
             2        format number: 1
             2        zero
             8        layout id, that of every memory in the file (uic/memory.py)
             4        size S of a memory
             4        zero
    block    4        users in the block, n > 0
             4        bytes of their ids together, k
             2n       the length of each user's id
             k        the ids, UTF-8
             nS       the memories (uic/codec.py), in the order of the ids
             4        CRC-32C over the block up to here
    ... more blocks
    end      4        zero
             8        users in the file
             4        CRC-32C over these 12 bytes

A user is in a file once. A file without its end was cut off and is refused. Whoever reads it holds one block at a time.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import google_crc32c
import numpy as np

from uic.codec import Codec
from uic.errors import ChecksumMismatch, LayoutMismatch, NotAMemory, TruncatedMemory, UnknownFormat
from uic.warm.fold import Memories

MAGIC = b"UICW"
FORMAT = 1
_HEAD = struct.Struct("<4sHHQII")
_BLOCK = struct.Struct("<II")
_END = struct.Struct("<IQ")
_NUMBER = struct.Struct("<I")


class Block(NamedTuple):
    """Some users, as UTF-8, and their memories side by side."""

    users: list[bytes]
    packed: memoryview


class Writer:
    """Writes one file of memories; `end` completes it."""

    def __init__(self, file: BinaryIO, codec: Codec) -> None:
        self._file = file
        self.users = 0
        file.write(_HEAD.pack(MAGIC, FORMAT, 0, codec.layout.layout_id, codec.size, 0))

    def write(self, memories: Memories) -> None:
        """Add a block."""
        ids = [user.encode() for user in memories.users]
        text = b"".join(ids)
        lengths = np.array([len(each) for each in ids], dtype="<u2").tobytes()
        head = _BLOCK.pack(len(ids), len(text)) + lengths + text
        crc = google_crc32c.extend(google_crc32c.value(head), bytes(memories.packed))
        for part in (head, memories.packed, _NUMBER.pack(crc)):
            self._file.write(part)
        self.users += len(ids)

    def end(self) -> None:
        end = _END.pack(0, self.users)
        self._file.write(end + _NUMBER.pack(google_crc32c.value(end)))


def read(path: Path, codec: Codec) -> Iterator[Block]:
    """The blocks of a file; raises the branch of CorruptMemory that says how its bytes are wrong."""
    with path.open("rb") as file:
        magic, number, _, layout_id, size, _ = _HEAD.unpack(_take(file, _HEAD.size, path))
        if magic != MAGIC:
            raise NotAMemory(f"{path}: expected a file of memories, which begins with {MAGIC!r}, got {magic!r}")
        if number != FORMAT:
            raise UnknownFormat(f"{path}: this release reads files of memories of format {FORMAT}, got format {number}")
        if (layout_id, size) != (codec.layout.layout_id, codec.size):
            raise LayoutMismatch(
                f"{path}: its memories are of layout {layout_id:016x} and {size} bytes, the bundle's are of "
                f"{codec.layout.layout_name} and {codec.size}"
            )
        total = 0
        while True:
            first = _take(file, _NUMBER.size, path)
            count = _NUMBER.unpack(first)[0]
            if count == 0:
                break
            text_bytes = _take(file, _NUMBER.size, path)
            body = _take(file, 2 * count + _NUMBER.unpack(text_bytes)[0] + count * size, path)
            _check(file, first + text_bytes + body, path)
            yield _block(body, count, _NUMBER.unpack(text_bytes)[0])
            total += count
        end = first + _take(file, _END.size - _NUMBER.size, path)
        _check(file, end, path)
        if _END.unpack(end)[1] != total:
            raise TruncatedMemory(f"{path}: expected {_END.unpack(end)[1]} users, read {total}")


def _block(body: bytes, count: int, text_bytes: int) -> Block:
    ends = (2 * count + np.cumsum(np.frombuffer(body, dtype="<u2", count=count), dtype=np.int64)).tolist()
    starts = [2 * count, *ends[:-1]]
    users = [body[start:end] for start, end in zip(starts, ends, strict=True)]
    return Block(users, memoryview(body)[2 * count + text_bytes :])


def _check(file: BinaryIO, content: bytes, path: Path) -> None:
    expected = _NUMBER.unpack(_take(file, _NUMBER.size, path))[0]
    computed = google_crc32c.value(content)
    if computed != expected:
        raise ChecksumMismatch(
            f"{path}: CRC-32C of the {len(content)} bytes before byte {file.tell() - 4} is {computed:08x}, "
            f"the file says {expected:08x}"
        )


def _take(file: BinaryIO, size: int, path: Path) -> bytes:
    # Asked first: a damaged length may name more than there is memory.
    if size > path.stat().st_size - file.tell() or len(data := file.read(size)) < size:
        raise TruncatedMemory(f"{path}: it ends after {path.stat().st_size} bytes, within a block or without its end")
    return data
