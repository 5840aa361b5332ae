"""What leaves the update operator for Kafka, as bytes, the same from both plans; Outgoing.java has the other end.

Little-endian: kind (1 byte: 0 snapshot, 1 late, 2 dead), length of the key (4; -1: none), key, length of the value (4; -1:
none), value, number of headers (1); each header: length of its name (1), name, length of its value (4), value.
"""

import struct

from uic.letters import Letter
from uic.store.apply import FORGET_HEADER, GENERATION_HEADER

SNAPSHOT, LATE, DEAD = 0, 1, 2
_KINDS = {"late": LATE, "dead": DEAD}


def snapshot(user_id: str, blob: bytes) -> bytes:
    """A published memory.

    >>> snapshot("u", b"m").hex(" ")
    '00 01 00 00 00 75 01 00 00 00 6d 00'
    """
    return b"".join((bytes([SNAPSHOT]), _sized(user_id.encode()), _sized(blob), b"\0"))


def departure(user_id: str, generation: int) -> bytes:
    """This user left, says a job of this generation: a memory carries its generation itself, where there is none a header does.

    >>> departure("u", 3).hex(" ")
    '00 01 00 00 00 75 ff ff ff ff 01 0a 67 65 6e 65 72 61 74 69 6f 6e 01 00 00 00 33'
    """
    return _deletion(user_id, GENERATION_HEADER, str(generation))


def forgotten(user_id: str, token: str, until_ms: int) -> bytes:
    """Nothing may stay of this user, of whom nothing counts up to this log time.

    >>> forgotten("u", "t", 7).hex(" ")
    '00 01 00 00 00 75 ff ff ff ff 01 06 66 6f 72 67 65 74 03 00 00 00 74 20 37'
    """
    return _deletion(user_id, FORGET_HEADER, f"{token} {until_ms}")


def letter(letter: Letter, log_time_ms: int) -> bytes | None:
    """An event that was not applied; None for a duplicate, which is counted and dropped."""
    kind = _KINDS.get(letter.kind)
    if kind is None:
        return None
    headers = {
        "reason": letter.reason,
        "detail": letter.detail,
        "source": letter.source,
        "offset": str(letter.offset),
        "log_time_ms": str(log_time_ms),
    }
    key = None if letter.user_id is None else letter.user_id.encode()
    parts = [bytes([kind]), _sized(key), _sized(letter.payload), bytes([len(headers)])]
    for name, value in headers.items():
        parts += (bytes([len(name)]), name.encode(), _sized(value.encode("utf-8", "backslashreplace")))
    return b"".join(parts)


def _deletion(user_id: str, header: str, value: str) -> bytes:
    name = header.encode()
    parts = (bytes([SNAPSHOT]), _sized(user_id.encode()), _sized(None), bytes([1, len(name)]), name, _sized(value.encode()))
    return b"".join(parts)


def _sized(data: bytes | None) -> bytes:
    return struct.pack("<i", -1) if data is None else struct.pack("<i", len(data)) + data
