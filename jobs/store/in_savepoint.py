"""Every memory in a canonical savepoint with its user, read from the savepoint's files without Flink.

jobs/rollback/in_savepoint.py says how an entry of keyed state is written. Here it is read backwards from its memory: the key in
front of it has a length of its own before it, and must be a user from its first byte to its last.
"""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

from jobs import blobs
from jobs.blobs import BlobForm
from uic.event import MAX_TEXT_BYTES

_INT = struct.Struct(">i")
# Key group, mask, text of one byte, namespace; and the longest: three bytes for each UTF-16 unit of a user.
_SHORTEST, _LONGEST = 4, 1 + 1 + 2 + 3 * MAX_TEXT_BYTES + 1


def memories_by_user(savepoint: Path, form: BlobForm) -> Iterator[tuple[str, bytes | None]]:
    """Each user and their memory; None in the place of one that is not as it was written. Raises nothing for other bytes."""
    lengths = _INT.pack(_INT.size + form.size) + _INT.pack(form.size)
    for path in sorted(each for each in savepoint.iterdir() if each.is_file() and each.stat().st_size):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for memory in blobs.find(data, form):
                ends = memory.offset - len(lengths)
                if ends < 0 or data[ends : memory.offset] != lengths:
                    continue
                user = _user_before(data[max(0, ends - _LONGEST - 4) : ends])
                if user is not None:
                    yield user, None if memory.why is not None else data[memory.offset : memory.offset + form.size]


def _user_before(data: bytes) -> str | None:
    """The user whose key ends here.

    >>> _user_before(bytes.fromhex("ffff 00000006 2a 00 03 7531 00"))
    'u1'
    """
    for size in range(_SHORTEST, min(_LONGEST, len(data) - 4) + 1):
        begin = len(data) - size
        if _INT.unpack_from(data, begin - 4)[0] == size and (user := _parse(data[begin + 1 :])) is not None:
            return user
    return None


def _parse(key: bytes) -> str | None:
    """A row of one text and no namespace; None where it is none."""
    if key[:1] != b"\0" or key[-1:] != b"\0":
        return None
    numbers, value, shift = [], 0, 0
    for byte in key[1:-1]:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(value)
            value = shift = 0
    if shift or not numbers or numbers[0] != len(numbers) or any(unit > 0xFFFF for unit in numbers):
        return None
    try:
        return struct.pack(f"<{len(numbers) - 1}H", *numbers[1:]).decode("utf-16-le")
    except UnicodeDecodeError:
        return None
