"""Bytes made of other bytes, from a seed: cut, joined, with numbers and words put in, and then mended half of the time."""

import random
import struct
from collections.abc import Callable, Iterator, Sequence

from benchmarks.fuzz.target import Target

_NUMBERS = [0, 1, 2, 3, 4, 127, 128, 255, 256, 65535, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
_FLOATS = [float("nan"), float("inf"), -float("inf"), 3.4028234663852886e38, 1e-45, -0.0]
_BYTES = [0x00, 0x01, 0x0A, 0x20, 0x22, 0x30, 0x5B, 0x5C, 0x5D, 0x7B, 0x7D, 0x7F, 0x80, 0xC3, 0xED, 0xFF]


def mutated(target: Target, data: bytes, draw: random.Random) -> bytes:
    """The bytes after one to four changes, mended in half of the cases."""
    for _ in range(draw.randint(1, 4)):
        data = draw.choice(_CHANGES)(data, target, draw)[: target.most_bytes]
    return target.mend(data, draw) if draw.random() < 0.5 else data


def stream(target: Target, count: int, seed: int) -> Iterator[bytes]:
    """The target's seeds, and `count` altered ones: always the same for a seed."""
    yield from target.seeds
    draw = random.Random(seed)
    for _ in range(count):
        yield mutated(target, draw.choice(target.seeds), draw)


def _flip(data: bytes, target: Target, draw: random.Random) -> bytes:
    if not data:
        return data
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]


def _byte(data: bytes, target: Target, draw: random.Random) -> bytes:
    at = draw.randrange(len(data) + 1)
    return data[:at] + bytes([draw.choice(_BYTES)]) + data[at + draw.randrange(2) :]


def _number(data: bytes, target: Target, draw: random.Random) -> bytes:
    packed = struct.pack("<Q", draw.choice(_NUMBERS))[: draw.choice([2, 4, 8])]
    if draw.random() < 0.3:
        packed = struct.pack("<f", draw.choice(_FLOATS))
    # Fields of bytes stand at even places.
    at = draw.randrange(len(data) // 2 + 1) * 2
    return data[:at] + packed[:: draw.choice([1, -1])] + data[at + len(packed) :]


def _digits(data: bytes, target: Target, draw: random.Random) -> bytes:
    at = draw.randrange(len(data) + 1)
    text = draw.choice(
        [str(draw.choice(_NUMBERS) - draw.randrange(3)), "9" * draw.choice([20, 130, 300, 4301]), "1e999", "-1", "0.5"]
    )
    return data[:at] + text.encode() + data[at:]


def _cut(data: bytes, target: Target, draw: random.Random) -> bytes:
    start = draw.randrange(len(data) + 1)
    return data[:start] + data[draw.randint(start, len(data)) :]


def _double(data: bytes, target: Target, draw: random.Random) -> bytes:
    start = draw.randrange(len(data) + 1)
    end = draw.randint(start, min(len(data), start + 64))
    return data[:end] + data[start:end] * draw.choice([1, 1, 2, 50]) + data[end:]


def _nested(data: bytes, target: Target, draw: random.Random) -> bytes:
    at = draw.randrange(len(data) + 1)
    return data[:at] + draw.choice([b"[", b'{"a":']) * draw.choice([2, 700, 3000]) + data[at:]


def _word(data: bytes, target: Target, draw: random.Random) -> bytes:
    if not target.words:
        return _flip(data, target, draw)
    at = draw.randrange(len(data) + 1)
    word = draw.choice(target.words)
    return data[:at] + word + data[at + draw.choice([0, len(word)]) :]


def _join(data: bytes, target: Target, draw: random.Random) -> bytes:
    other = draw.choice(target.seeds)
    return data[: draw.randrange(len(data) + 1)] + other[draw.randrange(len(other) + 1) :]


_Change = Callable[[bytes, Target, random.Random], bytes]
_CHANGES: Sequence[_Change] = (_flip, _flip, _byte, _number, _number, _digits, _cut, _double, _nested, _word, _word, _join)
