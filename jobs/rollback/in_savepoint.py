"""The memories of some users in a canonical savepoint, read from its files without Flink.

An entry of keyed state is there, whichever backend wrote it, as (numbers big-endian)

    length of the key (4 bytes), key group (1), a row's mask (1), text: the user, a namespace (1: nothing)
    length of the value (4 bytes), length of the blob (4), the blob

A text of Flink's is its length in UTF-16 units plus one, then the units, each number in 7 bits a byte, the lowest first.
"""

import mmap
import struct
from collections.abc import Collection
from pathlib import Path

from jobs import blobs
from jobs.blobs import BlobForm
from operators import contract

_INT = struct.Struct(">i")
# Flink writes the key group in one byte up to 128 of them.
assert contract.MAX_PARALLELISM <= 128
_GROUP = 1


def memories_of_users(savepoint: Path, form: BlobForm, users: Collection[str]) -> dict[str, bytes]:
    """The memory of each of these users who has one there and whose bytes are as they were written."""
    ends = {_end_of_key(user): user for user in users}
    sizes = sorted({len(end) for end in ends})
    lengths = _INT.pack(_INT.size + form.size) + _INT.pack(form.size)
    found: dict[str, bytes] = {}
    for path in sorted(each for each in savepoint.iterdir() if each.is_file() and each.stat().st_size):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for memory in blobs.find(data, form):
                key_ends = memory.offset - len(lengths)
                if memory.why is not None or data[key_ends : memory.offset] != lengths:
                    continue
                for size in sizes:
                    begin = key_ends - size
                    user = ends.get(data[begin:key_ends])
                    if user is not None and data[begin - _GROUP - 4 : begin - _GROUP] == _INT.pack(_GROUP + size):
                        found[user] = data[memory.offset : memory.offset + form.size]
    return found


def _end_of_key(user: str) -> bytes:
    """The key as it is written, without its group.

    >>> _end_of_key("u1").hex(" ")
    '00 03 75 31 00'
    """
    units = struct.unpack(f"<{len(user.encode('utf-16-le')) // 2}H", user.encode("utf-16-le"))
    return b"\0" + b"".join(map(_number, (len(units) + 1, *units))) + b"\0"


def _number(value: int) -> bytes:
    written = bytearray()
    while value >= 0x80:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*written, value))
