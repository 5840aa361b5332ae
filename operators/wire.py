"""One event between the reader or Kafka and the update operator: where it stood in the log, when the log took it in, its bytes.

Little-endian: offset (8 bytes, signed), log time in ms (8, signed), flags (1; bit 0: to be applied even if it is late), length
of the source (2), the source, the payload.
RecordReader.java writes the same for records of Kafka.
"""

import struct
from typing import NamedTuple

_HEAD = struct.Struct("<qqBH")


class Wire(NamedTuple):
    """`source` and `offset` tell an event's place in the log ("a.jsonl" and a byte, "events-3" and an offset)."""

    source: str
    offset: int
    log_time_ms: int
    accepts_late: bool
    payload: bytes


def pack(file: str, offset: int, log_time_ms: int, payload: bytes) -> bytes:
    """The bytes of a `Wire`; `file` may be a name that is not UTF-8."""
    source = printable(file).encode()
    return _HEAD.pack(offset, log_time_ms, 0, len(source)) + source + payload


def unpack(data: bytes) -> Wire:
    offset, log_time_ms, flags, length = _HEAD.unpack_from(data)
    cut = _HEAD.size + length
    return Wire(data[_HEAD.size : cut].decode(), offset, log_time_ms, bool(flags), data[cut:])


def printable(file: str) -> str:
    r"""A file name as text that UTF-8 can write; Linux allows any bytes.

    >>> printable("a\udcff.jsonl")
    'a\\udcff.jsonl'
    """
    return file.encode("utf-8", "backslashreplace").decode()
