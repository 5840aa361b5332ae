"""Lines that a program has written one like the other, as columns: no line is looked at by itself, and none is taken on trust.

The first line says how all are written: which fields, in which order, with or without blanks. Then bytes are compared in all
lines at once: each has as many quotes, and between two values the very same text. What is between is the values; a number is
digits alone, and no escape or control character is anywhere. Lines for which any of that does not hold are not ours to read:
they are asked of the decoder, which takes three times as long and knows all of JSON.
"""

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from uic.warm.history import Int64

_FIELD = re.compile(rb'([{,] ?)"([a-z_]+)":( ?)(?:("[^"]*")|\d+)')
_NUMBERS = ("item_id", "category_id", "time_ms")
_NEEDED = {"user_id", "behaviour", *_NUMBERS}
_KNOWN = {*_NEEDED, "event_id", "source"}
_QUOTE, _BACKSLASH, _BLANK, _ZERO = b'"\\ 0'
_MOST_BYTES = (1 << 31) - 1  # of texts that Arrow finds by 32 bits
_MOST_DIGITS = 19
# In each of eight bytes: the digit 0; what takes a byte that is no digit's value to 128 or beyond; that bit.
_ZEROS, _TOO_FAR, _TOPS = (np.uint64(int.from_bytes(bytes([each] * 8), "little")) for each in (_ZERO, 0x80 - 10, 0x80))
Bytes = NDArray[np.uint8]
Words = NDArray[np.uint64]


class _Field(NamedTuple):
    """One field of all lines. `before`: the text from the end of the value before it (or the line's begin) to its own."""

    name: str
    before: bytes
    is_text: bool


def columns_of(block: bytes, starts_N: Int64, ends_N: Int64) -> dict[str, pa.Array] | None:
    """The fields of these lines of a block, numbers as int64 and the rest as text; None where they are not alike.

    >>> lines = [b'{"user_id":"u%d","item_id":%d,"category_id":2,"behaviour":"pv","time_ms":7}' % (n, n) for n in (8, 9)]
    >>> ends_N = np.cumsum([len(line) + 1 for line in lines]) - 1
    >>> found = columns_of(b"\\n".join(lines) + b"\\n", np.array([0, ends_N[0] + 1]), ends_N)
    >>> found["user_id"].to_pylist(), found["item_id"].to_pylist()
    (['u8', 'u9'], [8, 9])
    """
    fields = _fields(block[starts_N[0] : ends_N[0]])
    if fields is None:
        return None
    begin, end = int(starts_N[0]), int(ends_N[-1])
    if end - begin > _MOST_BYTES:
        return None
    bytes_N = np.frombuffer(block, dtype=np.uint8)
    here = bytes_N[begin:end]
    between = len(here) - int((ends_N - starts_N).sum())  # ends of lines, and nothing else
    if np.count_nonzero(here < _BLANK) != between or (here == _BACKSLASH).any() or not _is_utf8(block[begin:end]):
        return None
    quotes_N = begin + np.flatnonzero(here == _QUOTE)
    each = sum(4 if field.is_text else 2 for field in fields)
    if len(quotes_N) != each * len(starts_N):
        return None
    quotes_QL = np.ascontiguousarray(quotes_N.reshape(-1, each).T)
    if (quotes_QL[0] < starts_N).any() or (quotes_QL[-1] >= ends_N).any():
        return None
    edges = _edges(fields, quotes_QL, starts_N, ends_N)
    after = starts_N
    found: dict[str, pa.Array] = {}
    for field, (value_L, end_L) in zip(fields, edges, strict=True):
        if not _is_everywhere(bytes_N, field.before, after, value_L):
            return None
        if field.is_text:
            found[field.name] = _texts(memoryview(block)[begin:end], value_L - begin, end_L - begin)
        elif (numbers_L := _numbers(bytes_N, value_L, end_L)) is not None:
            found[field.name] = pa.array(numbers_L)
        else:
            return None
        after = end_L
    is_closed = (bytes_N[ends_N - 1] == ord("}")) & (after + fields[-1].is_text == ends_N - 1)
    return found if is_closed.all() else None


def _fields(line: bytes) -> list[_Field] | None:
    """How a line is written; None where it is not one of ours."""
    fields: list[_Field] = []
    at = 0
    quote = b""
    while (match := _FIELD.match(line, at)) is not None:
        opening, name, blank, text = match.groups()
        is_text = text is not None
        before = quote + opening + b'"' + name + b'":' + blank + (b'"' if is_text else b"")
        fields.append(_Field(name.decode(), before, is_text))
        at, quote = match.end(), b'"' if is_text else b""
    names = [field.name for field in fields]
    is_one = line[at:] == b"}" and [field.before.lstrip(b'"')[:1] for field in fields] == [b"{", *[b","] * (len(fields) - 1)]
    is_ours = is_one and len(set(names)) == len(names) and _NEEDED <= {*names} <= _KNOWN
    is_typed = all(field.is_text is (field.name not in _NUMBERS) for field in fields)
    return fields if is_ours and is_typed else None


def _edges(fields: Sequence[_Field], quotes_QL: Int64, starts_N: Int64, ends_N: Int64) -> list[tuple[Int64, Int64]]:
    """Where the values of each field begin and end, as far as the quotes say."""
    # Of each field's name, by its place among the quotes.
    opens = [0, *accumulate(4 if field.is_text else 2 for field in fields)]
    edges = []
    for number, field in enumerate(fields):
        at = opens[number]
        if field.is_text:
            edges.append((quotes_QL[at + 2] + 1, quotes_QL[at + 3]))
            continue
        blank = field.before.endswith(b" ")
        start_L = quotes_QL[at + 1] + 2 + blank
        if number + 1 < len(fields):
            edges.append((start_L, quotes_QL[opens[number + 1]] - fields[number + 1].before.index(b'"')))
        else:
            edges.append((start_L, ends_N - 1))
    return edges


def _is_everywhere(bytes_N: Bytes, text: bytes, from_L: Int64, to_L: Int64) -> bool:
    """Whether this very text, and nothing else, stands from the one place to the other in all lines."""
    if not (to_L - from_L == len(text)).all():
        return False
    # Eight bytes at a time, from whichever place they begin at; the last ones overlap those before.
    width = max(size for size in (1, 2, 4, 8) if size <= len(text))
    words = _words(bytes_N, width)
    for at in {*range(0, len(text) - width, width), len(text) - width}:
        if not (words[from_L + at] == int.from_bytes(text[at : at + width], "little")).all():
            return False
    return True


def _words(bytes_N: Bytes, width: int) -> NDArray[np.unsignedinteger[Any]]:  # Any: of whichever width
    """The bytes from each place on, `width` of them as one number, the first the lowest."""
    return np.ndarray((len(bytes_N) - width + 1,), np.dtype(f"<u{width}"), bytes_N, strides=(1,))


def _texts(data: memoryview, starts_L: Int64, ends_L: Int64) -> pa.Array:
    """The text from each place to the other: every second one of those that all these places cut the bytes into."""
    offsets = np.empty(2 * len(starts_L) + 1, dtype=np.int32)
    offsets[0:-1:2], offsets[1::2], offsets[-1] = starts_L, ends_L, ends_L[-1]
    cut = pa.StringArray.from_buffers(2 * len(starts_L), pa.py_buffer(offsets), pa.py_buffer(data))
    return cut.take(pa.array(np.arange(0, 2 * len(starts_L), 2)))


def _numbers(bytes_N: Bytes, starts_L: Int64, ends_L: Int64) -> Int64 | None:
    """Numbers as JSON writes those that are not negative; None where one is something else or too large.

    Before each is a name: what is read of before it is within the bytes, and counts as nothing.

    >>> line = np.frombuffer(b'{"item_id":7,"time_ms":1234567890123}', np.uint8)
    >>> _numbers(line, np.array([11, 23]), np.array([12, 36])).tolist()
    [7, 1234567890123]
    """
    sizes_L = ends_L - starts_L
    if sizes_L.min() < 1 or sizes_L.max() > _MOST_DIGITS or ((bytes_N[starts_L] == _ZERO) & (sizes_L > 1)).any():
        return None
    words = _words(bytes_N, 8)
    found_L: Words = np.zeros(len(sizes_L), dtype=np.uint64)
    for number in range(-(-int(sizes_L.max()) // 8)):
        # Eight digits at a time, the last ones first; what stands before the first digit counts as zeros.
        before_L = np.clip(8 * (8 - sizes_L + 8 * number), 0, 64).astype(np.uint64)
        digits_L = ((words[ends_L - 8 * (number + 1)] ^ _ZEROS) >> before_L) << before_L
        if (((digits_L + _TOO_FAR) | digits_L) & _TOPS).any():
            return None
        found_L += _eight(digits_L) * np.uint64(10 ** (8 * number))
    return None if (found_L >= np.uint64(1 << 63)).any() else found_L.astype(np.int64)


def _eight(digits_L: Words) -> Words:
    """The numbers that eight digits each say, one a byte, the first the lowest: twos, fours and eights of them are added up."""
    twos_L = (digits_L * np.uint64(10 * (1 << 8) + 1) >> np.uint64(8)) & np.uint64(0x00FF_00FF_00FF_00FF)
    fours_L = (twos_L * np.uint64(100 * (1 << 16) + 1) >> np.uint64(16)) & np.uint64(0x0000_FFFF_0000_FFFF)
    return fours_L * np.uint64(10_000 * (1 << 32) + 1) >> np.uint64(32)


def _is_utf8(block: bytes) -> bool:
    try:
        return block.isascii() or bool(block.decode())
    except UnicodeError:
        return False
