"""One event between the reader and the update operator: where it stood in the input, and its original bytes."""

import struct
from typing import NamedTuple

_HEAD = struct.Struct("<qH")


class Wire(NamedTuple):
    """`source` and `offset` tell an event's place in the input, which is what a kept letter is known by."""

    source: str
    offset: int
    payload: bytes


def pack(file: str, offset: int, payload: bytes) -> bytes:
    """The bytes of a `Wire`; `file` may be a name that is not UTF-8."""
    source = printable(file).encode()
    return _HEAD.pack(offset, len(source)) + source + payload


def unpack(data: bytes) -> Wire:
    offset, length = _HEAD.unpack_from(data)
    cut = _HEAD.size + length
    return Wire(data[_HEAD.size : cut].decode(), offset, data[cut:])


def printable(file: str) -> str:
    r"""A file name as text that UTF-8 can write; Linux allows any bytes.

    >>> printable("a\udcff.jsonl")
    'a\\udcff.jsonl'
    """
    return file.encode("utf-8", "backslashreplace").decode()
