"""A memory in small numbers, as a store may keep it for readers: format 2. States are of format 1 (uic/codec.py) always.

    offset      size  field
    0             56  the header of format 1, with format number 2; no fingerprints are kept, so K = 0
    56            8n  one entry a tensor, as in format 1; dtype 1 = float32, 2 = float16, 3 = int8 (two's complement)
    56 + 8n        .  the tensors one after the other in the order of the entries, row-major, without gaps.
                      dtype 1: 4 bytes a number. dtype 2 or 3: a scale (4 bytes, float32), then 2 bytes or 1 byte a number
    end - 4        4  CRC-32C over every byte before it

A number q of a tensor with a scale stands for scale * q, multiplied in float32. The scale is that of the tensor's largest
magnitude: for int8 the largest / 127; for float16 it is 1, unless the largest is above 65504, what float16 can hold: then the
largest / 65504. It is rounded towards zero, so that nothing grows beyond what float32 holds; among numbers so small that this
could make q too large, away from it. q is the nearest to x / scale, of two the even one. So int8 is off by half a scale at
most, float16 by the rounding of half precision, and the same state always gives the same bytes.

Which tensors may be small is said in one place, `MemoryLayout.shrinkable`: counts, utilization and sums stay float32. What is
infinite or no number has no such copy: NotFinite.
"""

from collections.abc import Sequence
from typing import NamedTuple

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from uic.codec import (
    CRC,
    ENTRY,
    FLOAT32,
    HEADER,
    MAGIC,
    SMALL_FORMAT,
    Codec,
    Header,
    check_crc,
    check_layout,
    read_header,
)
from uic.errors import LayoutMismatch, NotFinite, StoreMismatch, TruncatedMemory
from uic.memory import Float32, MemoryLayout, Numbers, UserMemory

_PREFIX = 16
_SMALL = SMALL_FORMAT.to_bytes(2, "little")
_ASK_BUNDLE = "name the bundle that they were made with (--bundle), which says what of them may be small"


class Kind(NamedTuple):
    """A type of small numbers: its number in an entry, how numpy calls it, and the largest that is used of it."""

    dtype: int
    numpy: str
    largest: float


_KINDS: dict[Numbers, Kind] = {"float16": Kind(2, "<f2", 65504.0), "int8": Kind(3, "i1", 127.0)}
_NUMBERS: dict[int, Numbers] = {FLOAT32: "float32", **{kind.dtype: numbers for numbers, kind in _KINDS.items()}}


class _Place(NamedTuple):
    """Where a tensor is: in the packed state, and in the bytes. `is_small`: a scale stands in front of it."""

    name: str
    first: int
    end: int
    offset: int
    is_small: bool


class SmallCodec:
    """Makes and reads the copies of one layout in one type of small numbers."""

    def __init__(self, layout: MemoryLayout, numbers: Numbers) -> None:
        self.layout = layout
        self.numbers = numbers
        self._kind = _KINDS[numbers]
        self._codec = Codec(layout)
        self._table = b"".join(
            ENTRY.pack(
                self._kind.dtype if spec.name in layout.shrinkable else FLOAT32, len(spec.shape), 0, *(*spec.shape, 1)[:2]
            )
            for spec in layout.tensors
        )
        self._tensors_at = HEADER.size + len(self._table)
        self._places = list(self._lay_out())
        self._fixed = HEADER.pack(MAGIC, SMALL_FORMAT, len(layout.tensors), layout.layout_id, 0, 0, 0, 0, 0, 0)[:_PREFIX]
        names = ["fixed", "versions", "ring_size", "times", "table", "crc"]
        formats: list[object] = [f"V{_PREFIX}", "V12", "<u4", "V24", f"V{len(self._table)}", "<u4"]
        offsets = [0, _PREFIX, 28, 32, HEADER.size, self.size - CRC.size]
        for place in self._places:
            if place.is_small:
                names.append(f"{place.name} scale")
                formats.append("<f4")
                offsets.append(place.offset - 4)
            names.append(place.name)
            formats.append((self._kind.numpy if place.is_small else "<f4", (place.end - place.first,)))
            offsets.append(place.offset)
        self._rows = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": self.size})

    def _lay_out(self) -> list[_Place]:
        places, first, at = [], 0, self._tensors_at
        width = np.dtype(self._kind.numpy).itemsize
        for spec in self.layout.tensors:
            is_small = spec.name in self.layout.shrinkable
            at += 4 if is_small else 0
            places.append(_Place(spec.name, first, first + spec.size, at, is_small))
            first += spec.size
            at += (width if is_small else 4) * spec.size
        self.size = at + CRC.size
        return places

    def shrink(self, blobs: Sequence[bytes]) -> list[bytes]:
        """The copies of states (format 1). Raises what `Codec.decode` does for the first bad one, and NotFinite."""
        if not blobs:
            return []
        states_BF = self._codec.decode_many(blobs).states_BF
        finite_B = np.isfinite(states_BF).all(axis=1)
        if not finite_B.all():
            check_finite(self._codec.decode(blobs[int(np.argmin(finite_B))]), self.layout)
        rows = np.zeros(len(blobs), dtype=self._rows)
        heads = np.frombuffer(b"".join(blob[: HEADER.size] for blob in blobs), dtype=f"V{_PREFIX}, V12, <u4, V24")
        rows["fixed"] = np.void(self._fixed)
        rows["versions"] = heads["f1"]
        rows["times"] = heads["f3"]
        rows["table"] = np.void(self._table)
        for name, first, end, _, is_small in self._places:
            values_BV = states_BF[:, first:end]
            if not is_small:
                rows[name] = values_BV
                continue
            scales_B = _scales(values_BV, self._kind, self.numbers)
            rows[f"{name} scale"] = scales_B
            rows[name] = _quotients(values_BV, scales_B, self.numbers)
        data = rows.tobytes()
        crc_at = self.size - CRC.size
        bodies = [data[start : start + crc_at] for start in range(0, len(data), self.size)]
        return [body + CRC.pack(google_crc32c.value(body)) for body in bodies]

    def check(self, data: bytes) -> Header:
        """Raise what `decode` does."""
        header = read_header(data)
        check_layout(header, self.layout)
        if len(data) != self.size:
            raise TruncatedMemory(
                f"memory: layout {self.layout.layout_name} in {self.numbers} needs {self.size} bytes, got {len(data)}"
            )
        check_crc(data)
        if not data.startswith(self._fixed) or data[HEADER.size : self._tensors_at] != self._table or header.ring_size != 0:
            raise LayoutMismatch(f"memory: the tensor table does not fit layout {self.layout.layout_name} in {self.numbers}")
        return header

    def decode(self, data: bytes) -> UserMemory:
        """The memory that a copy stands for, in float32; raises the branch of CorruptMemory that says what is wrong."""
        header = self.check(data)
        state_F: Float32 = np.empty(self.layout.size_F, dtype=np.float32)
        for _, first, end, offset, is_small in self._places:
            count = end - first
            if is_small:
                numbers_V = np.frombuffer(data, self._kind.numpy, count, offset)
                scale = np.frombuffer(data, "<f4", 1, offset - 4)
                np.multiply(numbers_V, scale, out=state_F[first:end], dtype=np.float32)
            else:
                state_F[first:end] = np.frombuffer(data, "<f4", count, offset)
        state_F.setflags(write=False)
        return header.memory(state_F, b"", self.numbers)


def _scales(values_BV: Float32, kind: Kind, numbers: Numbers) -> Float32:
    largest_B = np.abs(values_BV).max(axis=1).astype(np.float64)
    scales_B: Float32 = (largest_B / kind.largest).astype(np.float32)
    above_B = scales_B.astype(np.float64) * kind.largest > largest_B
    scales_B[above_B] = np.nextafter(scales_B[above_B], np.float32(0))
    # So small that the steps of float32 show: the quotient would be more than the type holds.
    below_B = largest_B > (kind.largest + 0.25) * scales_B.astype(np.float64)
    scales_B[below_B] = np.nextafter(scales_B[below_B], np.float32(np.inf))
    if numbers == "float16":
        scales_B[scales_B < 1] = 1
    return scales_B


def _quotients(values_BV: Float32, scales_B: Float32, numbers: Numbers) -> NDArray[np.float64]:
    scales_B1 = np.where(scales_B > 0, scales_B, 1).astype(np.float64)[:, None]
    quotients_BV: NDArray[np.float64] = values_BV / scales_B1
    return np.rint(quotients_BV) if numbers == "int8" else quotients_BV


def check_finite(memory: UserMemory, layout: MemoryLayout) -> None:
    """Raise NotFinite where a memory cannot be kept in small numbers."""
    if np.isfinite(memory.state_F).all():
        return
    name = next(name for name, tensor in layout.split(memory.state_F).items() if not np.isfinite(tensor).all())
    raise NotFinite(
        f"memory: {name} has a value that is infinite or no number after {memory.sequence} events; small numbers cannot hold it"
    )


def numbers_of(data: bytes) -> Numbers:
    """In which numbers a memory is, as its tensor table says; raises what `read_header` does."""
    header = read_header(data)
    if header.format != SMALL_FORMAT:
        return "float32"
    dtypes = data[HEADER.size : HEADER.size + ENTRY.size * header.tensors : ENTRY.size]
    found = _NUMBERS.get(max(dtypes, default=FLOAT32))
    if found is None:
        raise LayoutMismatch(f"memory: expected tensors of dtype 1 to 3, got {max(dtypes)}")
    return found


class Shrink:
    """What a store does with the memories that it is given: they are kept in these numbers.

    Without a layout only those are taken that are in them already: nothing says which tensors may be small.
    """

    def __init__(self, numbers: Numbers, layout: MemoryLayout | None = None) -> None:
        self.numbers = numbers
        self._layout = layout
        self._small = None if numbers == "float32" or layout is None else SmallCodec(layout, numbers)

    def __call__(self, blobs: Sequence[bytes]) -> list[bytes]:
        """What is kept: copies, or the memories themselves where they are in these numbers already.

        Raises what `SmallCodec.shrink` does, and StoreMismatch where that is not to be had of them.
        """
        kept = list(blobs)
        states = [place for place, blob in enumerate(kept) if blob[4:6] != _SMALL or not self._is_in_them(blob)]
        if self.numbers == "float32" or not states:
            return kept
        if self._small is None:
            raise StoreMismatch(f"memories in float32 come, the store keeps {self.numbers}: {_ASK_BUNDLE}")
        for place, copy in zip(states, self._small.shrink([kept[place] for place in states]), strict=True):
            kept[place] = copy
        return kept

    def _is_in_them(self, blob: bytes) -> bool:
        found = numbers_of(blob)
        # Where all tensors are counts and sums, the copy is the same whatever the small numbers are.
        if found != self.numbers and (found != "float32" or self.numbers == "float32"):
            raise StoreMismatch(
                f"memories in {found} come, the store keeps {self.numbers}: what was rounded away is not to be had again"
            )
        return True


class Published:
    """Reads the memories of a layout from a store, whichever their numbers."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._small = {numbers: SmallCodec(codec.layout, numbers) for numbers in _KINDS}

    def decode(self, data: bytes) -> UserMemory:
        """The memory, in float32; raises the branch of CorruptMemory that says how the bytes are wrong."""
        small = self._of(data)
        return self._codec.decode(data) if small is None else small.decode(data)

    def check(self, data: bytes) -> None:
        """Raise what `decode` does."""
        small = self._of(data)
        if small is None:
            self._codec.decode(data)
        else:
            small.check(data)

    def _of(self, data: bytes) -> SmallCodec | None:
        if data[4:6] != _SMALL or data[:4] != MAGIC:
            return None
        numbers = numbers_of(data)
        return self._small["int8" if numbers == "float32" else numbers]
