"""Memories found in the bytes of any file: a blob says by itself what it is, how long it is, and whether it was changed.

The first 16 bytes (magic, format, layout id) and the tensor table are the same in every blob of a layout. Where one of the two
stands without the other, a head was damaged; no single wrong bit can hide both.
"""

import mmap
import struct
from collections.abc import Iterator
from typing import NamedTuple

import google_crc32c

from uic.codec import MAGIC, read_header
from uic.errors import CorruptMemory

_HEAD = 56
_PREFIX = 16
_ENTRY = struct.Struct("<BBHHH")
_CRC = struct.Struct("<I")
_MOST_TENSORS = 64
_MOST_RING = 4096


class BlobForm(NamedTuple):
    """What all blobs of one layout have in common."""

    prefix: bytes
    table: bytes
    size: int
    layout: str

    @classmethod
    def read(cls, data: bytes) -> "BlobForm | None":
        """The form of the blob with which `data` begins, None where it begins with none (the CRC is not looked at)."""
        try:
            header = read_header(data[:_HEAD])
        except CorruptMemory:
            return None
        table_end = _HEAD + _ENTRY.size * header.tensors
        if not 1 <= header.tensors <= _MOST_TENSORS or header.ring_size > _MOST_RING or len(data) < table_end:
            return None
        floats = 0
        for dtype, rank, zeros, rows, columns in _ENTRY.iter_unpack(data[_HEAD:table_end]):
            if dtype != 1 or rank not in (1, 2) or zeros or not rows or not columns or (rank == 1 and columns != 1):
                return None
            floats += rows * columns
        size = table_end + 4 * floats + 16 * header.ring_size + _CRC.size
        return cls(data[:_PREFIX], data[_HEAD:table_end], size, f"{header.layout_id:016x}")


class Found(NamedTuple):
    """A memory at `offset`; `why` says what is wrong with it, None where its CRC is right."""

    offset: int
    why: str | None


def find(data: bytes | mmap.mmap, form: BlobForm | None) -> Iterator[Found]:
    """Every memory in `data`, whole or damaged. Without a form, the first whole memory tells it (`guess_form`).

    A memory of another layout than `form` is reported as wrong. The magic alone, by chance within floats, is not a memory.
    """
    form = guess_form(data) if form is None else form
    if form is None:
        return
    at = 0
    while True:
        start = data.find(form.prefix, at)
        end = len(data) if start < 0 else start
        if end - at >= form.size // 2:
            yield from _others(data, at, end, form)
        if start < 0:
            return
        why = _why(data, start, form)
        yield Found(start, why)
        # After a damaged one the next is looked for within it: its length may be what is wrong.
        at = start + (form.size if why is None else _PREFIX)


def guess_form(data: bytes | mmap.mmap) -> BlobForm | None:
    """The form of the first whole memory in `data`, None where there is none."""
    at = -1
    while (at := data.find(MAGIC, at + 1)) >= 0:
        form = _guess(data, at)
        if form is not None and _why(data, at, form) is None:
            return form
    return None


def _why(data: bytes | mmap.mmap, start: int, form: BlobForm) -> str | None:
    blob = data[start : start + form.size]
    if len(blob) < form.size:
        return f"cut off: {len(blob)} of {form.size} bytes are there"
    said = _CRC.unpack_from(blob, form.size - _CRC.size)[0]
    computed = google_crc32c.value(blob[: -_CRC.size])
    return None if computed == said else f"CRC-32C of {form.size - _CRC.size} bytes is {computed:08x}, the blob says {said:08x}"


def _others(data: bytes | mmap.mmap, begin: int, end: int, form: BlobForm) -> Iterator[Found]:
    """Memories between two offsets whose first 16 bytes are not those of the form: a damaged head, or another layout."""
    seen = set()
    at = begin
    while (table := data.find(form.table, at, end)) >= 0:
        start = table - _HEAD
        if start >= begin:
            seen.add(start)
            head = data[start : start + _PREFIX]
            damaged = f"its first {_PREFIX} bytes are {head.hex()}, expected {form.prefix.hex()}"
            yield Found(start, _why_other(data, start, form) or damaged)
        at = table + len(form.table)
    at = begin
    while (start := data.find(MAGIC, at, end)) >= 0:
        if start not in seen and (other := _why_other(data, start, form)) is not None:
            yield Found(start, other)
        at = start + len(MAGIC)


def _why_other(data: bytes | mmap.mmap, start: int, form: BlobForm) -> str | None:
    """What is wrong with a whole memory that is of another layout; None where there is none."""
    guess = _guess(data, start)
    if guess is None or _why(data, start, guess) is not None:
        return None
    return f"its layout is {guess.layout}, expected {form.layout}"


def _guess(data: bytes | mmap.mmap, start: int) -> BlobForm | None:
    return BlobForm.read(data[start : start + _HEAD + _ENTRY.size * _MOST_TENSORS])
