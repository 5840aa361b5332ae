"""The bytes of one user's memory, the same in keyed state, snapshots, the online store and exported files.

Format 1. All numbers are little-endian.

    offset      size  field
    0              4  magic: 55 49 43 4D ("UICM")
    4              2  format number: 1
    6              2  number of float tensors, n
    8              8  layout id, unsigned (hash of the sizes and the variant, `MemoryLayout.layout_id`)
    16             8  bundle version, unsigned
    24             4  generation, unsigned
    28             4  fingerprints kept, K
    32             8  sequence: events applied, unsigned
    40             8  time of the last event, ms since 1970, signed; -2^63 where there was none yet
    48             8  log time of the last event applied, ms since 1970, signed; -2^63 where there was none yet
    56            8n  one entry a tensor: dtype (1 byte; 1 = float32), rank (1), two zero bytes, dimensions (2 x 2 bytes;
                      the second is 1 for rank 1)
    56 + 8n       4F  the tensors one after the other in the order of the entries, row-major
    ...          16K  the fingerprint ring: K times (content, event id), 8 bytes each; zero = none
    end - 4        4  CRC-32C (Castagnoli) over every byte before it, unsigned

A second reader needs nothing else but the tensors' names, which the bundle's manifest lists in the same order. Format 2 is for
published copies in small numbers alone (uic/small.py). Other formats may come; a reader refuses the ones it does not know.
Nothing here is ever pickled.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

import google_crc32c
import numpy as np

from uic.errors import ChecksumMismatch, LayoutMismatch, NotAMemory, TruncatedMemory, UnknownFormat
from uic.memory import Float32, MemoryLayout, Numbers, UserMemory

MAGIC = b"UICM"
FORMAT = 1
SMALL_FORMAT = 2
FLOAT32 = 1
HEADER = struct.Struct("<4sHHQQIIQqq")
ENTRY = struct.Struct("<BBHHH")
CRC = struct.Struct("<I")
NO_TIME = -(1 << 63)
_LAYOUT_END = 16
_RING_SIZE_AT = 28


class Header(NamedTuple):
    """What can be read of a blob without knowing its layout."""

    magic: bytes
    format: int
    tensors: int
    layout_id: int
    bundle_version: int
    generation: int
    ring_size: int
    sequence: int
    last_time_ms: int
    log_time_ms: int

    @property
    def version(self) -> tuple[int, int]:
        """(generation, sequence): of two memories of one user, the store keeps the one where this is larger."""
        return self.generation, self.sequence

    def memory(self, state_F: Float32, fingerprints: bytes, numbers: Numbers = "float32") -> UserMemory:
        """The memory that this is the header of."""
        return UserMemory(
            state_F=state_F,
            fingerprints=fingerprints,
            sequence=self.sequence,
            last_time_ms=None if self.last_time_ms == NO_TIME else self.last_time_ms,
            log_time_ms=None if self.log_time_ms == NO_TIME else self.log_time_ms,
            generation=self.generation,
            bundle_version=self.bundle_version,
            numbers=numbers,
        )


def read_header(data: bytes) -> Header:
    """The header of a blob; raises TruncatedMemory, NotAMemory or UnknownFormat. The CRC is not checked here."""
    if len(data) < HEADER.size:
        raise TruncatedMemory(f"memory: a header needs {HEADER.size} bytes, got {len(data)}")
    header = Header._make(HEADER.unpack_from(data))
    if header.magic != MAGIC:
        raise NotAMemory(f"memory: expected magic {MAGIC!r}, got {header.magic!r}")
    if header.format not in (FORMAT, SMALL_FORMAT):
        raise UnknownFormat(f"memory: this release reads formats {FORMAT} and {SMALL_FORMAT}, got format {header.format}")
    return header


def check_layout(header: Header, layout: MemoryLayout) -> None:
    """Raise LayoutMismatch unless it is the header of a memory of this layout."""
    if header.layout_id != layout.layout_id:
        raise LayoutMismatch(
            f"memory: expected layout {layout.layout_name}, got {header.layout_id:016x}; "
            "it was written for other sizes or another variant of the model"
        )


def check_crc(data: bytes) -> None:
    """Raise ChecksumMismatch unless the last four bytes are the CRC-32C of those before them."""
    expected = CRC.unpack_from(data, len(data) - CRC.size)[0]
    computed = google_crc32c.value(data[: -CRC.size])
    if computed != expected:
        raise ChecksumMismatch(f"memory: CRC-32C of {len(data) - 4} bytes is {computed:08x}, the blob says {expected:08x}")


class Columns(NamedTuple):
    """Many memories of one layout, column by column; times are NO_TIME where there was none yet."""

    states_BF: Float32
    rings: list[bytes]
    sequences: list[int]
    last_times_ms: list[int]
    log_times_ms: list[int]
    generations: list[int]


class Codec:
    """Encodes and decodes the memories of one layout."""

    def __init__(self, layout: MemoryLayout) -> None:
        self.layout = layout
        self._table = b"".join(
            ENTRY.pack(FLOAT32, len(spec.shape), 0, spec.shape[0], spec.shape[1] if len(spec.shape) > 1 else 1)
            for spec in layout.tensors
        )
        self._tensors_at = HEADER.size + len(self._table)
        self._ring_at = self._tensors_at + 4 * layout.size_F
        self._crc_at = self._ring_at + 16 * layout.ring_size
        self.size = self._crc_at + CRC.size
        self._rows = np.dtype(
            [
                ("fixed", f"V{_LAYOUT_END}"),  # magic, format, number of tensors, layout id
                ("bundle_version", "<u8"),
                ("generation", "<u4"),
                ("ring_size", "<u4"),
                ("sequence", "<u8"),
                ("last_time_ms", "<i8"),
                ("log_time_ms", "<i8"),
                ("table", f"V{len(self._table)}"),
                ("state", "<f4", (layout.size_F,)),
                ("ring", f"V{16 * layout.ring_size}"),
                ("crc", "<u4"),
            ]
        )
        assert self._rows.itemsize == self.size
        same = HEADER.pack(MAGIC, FORMAT, len(layout.tensors), layout.layout_id, 0, 0, layout.ring_size, 0, 0, 0)
        self._fixed, self._ring_size = same[:_LAYOUT_END], same[_RING_SIZE_AT : _RING_SIZE_AT + 4]

    def encode(self, memory: UserMemory) -> bytes:
        """The blob of `memory`; its size depends on the layout alone."""
        layout = self.layout
        assert memory.state_F.shape == (layout.size_F,)
        assert memory.state_F.dtype == np.float32
        assert len(memory.fingerprints) == 16 * layout.ring_size
        body = b"".join(
            (
                HEADER.pack(
                    MAGIC,
                    FORMAT,
                    len(layout.tensors),
                    layout.layout_id,
                    memory.bundle_version,
                    memory.generation,
                    layout.ring_size,
                    memory.sequence,
                    NO_TIME if memory.last_time_ms is None else memory.last_time_ms,
                    NO_TIME if memory.log_time_ms is None else memory.log_time_ms,
                ),
                self._table,
                memory.state_F.astype("<f4", copy=False).tobytes(),
                memory.fingerprints,
            )
        )
        return body + CRC.pack(google_crc32c.value(body))

    def has_form(self, data: bytes) -> bool:
        """Whether the size is right, and all that is the same in every memory of the layout; the CRC is not looked at."""
        return (
            len(data) == self.size
            and data.startswith(self._fixed)
            and data.startswith(self._ring_size, _RING_SIZE_AT)
            and data.startswith(self._table, HEADER.size)
        )

    def decode(self, data: bytes) -> UserMemory:
        """The memory in `data`; raises the branch of CorruptMemory that says how the bytes are wrong.

        `state_F` of the result is a read-only view of `data`.
        """
        header = read_header(data)
        if header.format != FORMAT:
            raise UnknownFormat(
                f"memory: a state is of format {FORMAT}, got format {header.format}: a copy in small numbers, "
                "which is for readers alone"
            )
        check_layout(header, self.layout)
        if len(data) != self.size:
            raise TruncatedMemory(f"memory: layout {self.layout.layout_name} needs {self.size} bytes, got {len(data)}")
        check_crc(data)
        if not self.has_form(data):
            raise LayoutMismatch(f"memory: the tensor table does not fit layout {self.layout.layout_name}")
        state_F = np.frombuffer(data, dtype="<f4", count=self.layout.size_F, offset=self._tensors_at)
        return header.memory(state_F, data[self._ring_at : self._crc_at])

    def decode_many(self, blobs: Sequence[bytes]) -> Columns:
        """What `decode` gives for each of the blobs, in a fraction of its time; raises what it raises for the first bad one."""
        for blob in blobs:
            if len(blob) != self.size:
                for each in blobs:
                    self.decode(each)
        return self.decode_packed(memoryview(b"".join(blobs)))

    def decode_packed(self, data: memoryview) -> Columns:
        """The same for blobs that lie one after the other, each of this layout's size; `states_BF` is a view of `data`."""
        starts = range(0, len(data), self.size)
        rows = np.frombuffer(data, dtype=self._rows)
        is_good = (
            rows["fixed"].tobytes() == self._fixed * len(rows)
            and rows["table"].tobytes() == self._table * len(rows)
            and bool((rows["ring_size"] == self.layout.ring_size).all())
            and self._crcs(data) == rows["crc"].tolist()
        )
        if not is_good:
            for start in starts:
                self.decode(bytes(data[start : start + self.size]))
            raise AssertionError("blobs that are good one by one must be good together")
        return Columns(
            states_BF=rows["state"],
            rings=[bytes(data[start + self._ring_at : start + self._crc_at]) for start in starts],
            sequences=rows["sequence"].tolist(),
            last_times_ms=rows["last_time_ms"].tolist(),
            log_times_ms=rows["log_time_ms"].tolist(),
            generations=rows["generation"].tolist(),
        )

    def encode_many(self, columns: Columns, *, bundle_version: int) -> list[bytes]:
        """What `encode` gives for each memory of the columns."""
        data = self.encode_packed(columns, bundle_version=bundle_version)
        return [bytes(data[start : start + self.size]) for start in range(0, len(data), self.size)]

    def encode_packed(self, columns: Columns, *, bundle_version: int, into: memoryview | None = None) -> memoryview:
        """The same, one after the other: in memory of its own, or from the beginning of `into` on."""
        count = len(columns.rings)
        rows = np.empty(count, dtype=self._rows) if into is None else np.frombuffer(into, dtype=self._rows, count=count)
        rows["fixed"] = np.void(self._fixed)
        rows["bundle_version"] = bundle_version
        rows["generation"] = columns.generations
        rows["ring_size"] = self.layout.ring_size
        rows["sequence"] = columns.sequences
        rows["last_time_ms"] = columns.last_times_ms
        rows["log_time_ms"] = columns.log_times_ms
        rows["table"] = np.void(self._table)
        rows["state"] = columns.states_BF
        if self.layout.ring_size > 0:
            rows["ring"] = np.frombuffer(b"".join(columns.rings), dtype=self._rows["ring"])
        data = rows.view(np.uint8).data
        rows["crc"] = self._crcs(data)
        return data

    def _crcs(self, data: memoryview) -> list[int]:
        # The library takes nothing but bytes.
        value, crc_at = google_crc32c.value, self._crc_at
        return [value(bytes(data[start : start + crc_at])) for start in range(0, len(data), self.size)]


def with_generation(data: bytes, generation: int) -> bytes:
    """The same blob stamped with another generation, its CRC made anew: what publishing does.

    Raises ChecksumMismatch first, since a new CRC would make wrong bytes look right.
    """
    if read_header(data).generation == generation:
        return data
    check_crc(data)
    body = data[:24] + struct.pack("<I", generation) + data[28 : -CRC.size]
    return body + CRC.pack(google_crc32c.value(body))
