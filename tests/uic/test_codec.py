"""The bytes of a user memory (uic/codec.py): the round trip, format 1 bit by bit, and every way the bytes can be wrong."""

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import SMALL, layouts, memories, switches, variants
from hypothesis import given
from hypothesis import strategies as st

from uic.codec import Codec, read_header, with_generation
from uic.errors import ChecksumMismatch, CorruptMemory, LayoutMismatch, NotAMemory, TruncatedMemory, UnknownFormat
from uic.memory import MemoryLayout, UserMemory
from uic.variant import Variant, preset

GOLDEN = Path(__file__).parent / "golden" / "memory_v1.bin"
LAYOUT = MemoryLayout(Variant(**SMALL), ring_size=2)
MEMORY = UserMemory(
    state_F=(np.arange(LAYOUT.size_F) / 8 - 2).astype(np.float32),
    fingerprints=bytes(range(1, 33)),
    sequence=0x0102030405060708,
    last_time_ms=1_700_000_000_123,
    log_time_ms=1_700_000_000_456,
    generation=0x0A0B0C0D,
    bundle_version=1_699_999_999_999,
)


def equal(one: UserMemory, other: UserMemory) -> bool:
    return one.state_F.tobytes() == other.state_F.tobytes() and replace(one, state_F=other.state_F) == other


@given(st.data())
def test_what_is_encoded_is_decoded_bit_for_bit(data: st.DataObject) -> None:
    layout = data.draw(layouts)
    memory = data.draw(memories(layout))
    codec = Codec(layout)
    blob = codec.encode(memory)
    assert equal(codec.decode(blob), memory)
    assert codec.encode(codec.decode(blob)) == blob


@given(st.data())
def test_the_size_depends_on_the_layout_and_never_on_the_history(data: st.DataObject) -> None:
    layout = data.draw(layouts)
    codec = Codec(layout)
    assert len(codec.encode(data.draw(memories(layout)))) == codec.size
    assert codec.size == 56 + 8 * len(layout.tensors) + 4 * layout.size_F + 16 * layout.ring_size + 4


def test_a_decoded_memory_cannot_change_the_blob_it_views() -> None:
    state_F = Codec(LAYOUT).decode(Codec(LAYOUT).encode(MEMORY)).state_F
    with pytest.raises(ValueError, match="read-only"):
        state_F[0] = 1.0


def test_format_1_is_these_very_bytes() -> None:
    blob = Codec(LAYOUT).encode(MEMORY)
    assert GOLDEN.read_bytes() == blob, "format 1 changed: give the format another number, with a golden file of its own"


def test_a_reader_written_from_the_documented_table_alone_reads_every_field() -> None:
    data = GOLDEN.read_bytes()
    assert data[0:4] == b"\x55\x49\x43\x4d"
    assert struct.unpack_from("<H", data, 4) == (1,)
    (tensors,) = struct.unpack_from("<H", data, 6)
    assert tensors == len(LAYOUT.tensors) == 8
    assert struct.unpack_from("<Q", data, 8) == (LAYOUT.layout_id,)
    assert struct.unpack_from("<Q", data, 16) == (1_699_999_999_999,)
    assert struct.unpack_from("<I", data, 24) == (0x0A0B0C0D,)
    (kept,) = struct.unpack_from("<I", data, 28)
    assert kept == 2
    assert struct.unpack_from("<Q", data, 32) == (0x0102030405060708,)
    assert struct.unpack_from("<q", data, 40) == (1_700_000_000_123,)
    assert struct.unpack_from("<q", data, 48) == (1_700_000_000_456,)
    shapes = []
    for number in range(tensors):
        dtype, rank, zero, first, second = struct.unpack_from("<BBHHH", data, 56 + 8 * number)
        assert (dtype, zero) == (1, 0)
        assert rank == 2 or second == 1
        shapes.append((first, second)[:rank])
    # h, r, M, g, sum or mean of add vectors and events, n, S: sizes of SMALL
    assert shapes == [(3,), (2,), (3, 2), (3,), (2,), (4,), (1,), (3, 2)]
    floats = 3 + 2 + 6 + 3 + 2 + 4 + 1 + 6
    at = 56 + 8 * tensors
    assert struct.unpack_from(f"<{floats}f", data, at) == tuple(number / 8 - 2 for number in range(floats))
    at += 4 * floats
    assert data[at : at + 16 * kept] == bytes(range(1, 33))
    at += 16 * kept
    assert struct.unpack_from("<I", data, at) == (_crc32c(data[:at]),)
    assert len(data) == at + 4


def _crc32c(data: bytes) -> int:
    """CRC-32C bit by bit, from its definition: reflected polynomial 0x82F63B78."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize("number", [0, 1])
def test_every_field_reaches_over_its_whole_range(number: int) -> None:
    numbers = {"sequence": 2**64 - 1, "bundle_version": 2**64 - 1, "generation": 2**32 - 1, "last_time_ms": 2**63 - 1}
    memory = replace(MEMORY, **{name: number * limit for name, limit in numbers.items()})  # type: ignore[arg-type]  # integers
    assert equal(Codec(LAYOUT).decode(Codec(LAYOUT).encode(memory)), memory)


def test_a_time_that_was_never_set_is_the_lowest_number() -> None:
    blob = Codec(LAYOUT).encode(replace(MEMORY, last_time_ms=None, log_time_ms=None))
    assert struct.unpack_from("<qq", blob, 40) == (-(2**63), -(2**63))
    assert struct.unpack_from("<qq", Codec(LAYOUT).encode(replace(MEMORY, last_time_ms=0, log_time_ms=0)), 40) == (0, 0)


def test_any_single_flipped_bit_anywhere_is_refused() -> None:
    codec = Codec(LAYOUT)
    blob = codec.encode(MEMORY)
    for bit in range(8 * len(blob)):
        altered = bytearray(blob)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptMemory):
            codec.decode(bytes(altered))


def test_any_truncation_or_extension_is_refused() -> None:
    codec = Codec(LAYOUT)
    blob = codec.encode(MEMORY)
    for size in range(len(blob)):
        with pytest.raises(TruncatedMemory, match=f"got {size}$"):
            codec.decode(blob[:size])
    for extra in (1, 4, 16, len(blob)):
        with pytest.raises(TruncatedMemory, match=f"needs {len(blob)} bytes, got {len(blob) + extra}$"):
            codec.decode(blob + bytes(extra))


@given(st.binary(max_size=400))
def test_bytes_that_are_no_memory_raise_nothing_but_corrupt_memory(data: bytes) -> None:
    with pytest.raises(CorruptMemory):
        Codec(LAYOUT).decode(data)


def _wrong_bytes() -> Iterator[Any]:
    blob = Codec(LAYOUT).encode(MEMORY)
    other = MemoryLayout(Variant(**{**SMALL, "slots": 4}), ring_size=2)
    with_crc = lambda body: body + struct.pack("<I", _crc32c(body))  # noqa: E731
    yield pytest.param(b"", TruncatedMemory, "needs 56 bytes, got 0", id="empty")
    yield pytest.param(b"PARQ" + blob[4:], NotAMemory, r"expected magic b'UICM', got b'PARQ'", id="magic")
    yield pytest.param(
        with_crc(blob[:4] + b"\x02\x00" + blob[6:-4]), UnknownFormat, "a state is of format 1, got format 2", id="format"
    )
    yield pytest.param(
        Codec(other).encode(UserMemory(state_F=np.zeros(other.size_F, np.float32), fingerprints=bytes(32))),
        LayoutMismatch,
        f"expected layout {LAYOUT.layout_name}, got {other.layout_name}",
        id="layout",
    )
    yield pytest.param(
        blob[:60] + bytes([blob[60] ^ 1]) + blob[61:],
        ChecksumMismatch,
        rf"CRC-32C of {len(blob) - 4} bytes is [0-9a-f]{{8}}, the blob says {struct.unpack('<I', blob[-4:])[0]:08x}",
        id="checksum",
    )
    # A right CRC over a wrong table: made by a program that is wrong, not by a disk.
    yield pytest.param(
        with_crc(blob[:56] + b"\x02" + blob[57:-4]),
        LayoutMismatch,
        f"table does not fit layout {LAYOUT.layout_name}",
        id="table",
    )
    yield pytest.param(
        with_crc(blob[:28] + b"\x01" + blob[29:-4]), LayoutMismatch, f"does not fit layout {LAYOUT.layout_name}", id="ring"
    )


@pytest.mark.parametrize(("data", "error", "message"), list(_wrong_bytes()))
def test_each_way_of_being_wrong_has_its_own_error_with_numbers(data: bytes, error: type[CorruptMemory], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        Codec(LAYOUT).decode(data)
    assert raised.type is error


def test_a_memory_of_another_layout_is_refused_with_both_ids() -> None:
    there, here = (MemoryLayout(preset(name)) for name in ("official", "default"))
    blob = Codec(there).encode(UserMemory(state_F=np.ones(there.size_F, np.float32), fingerprints=bytes(256)))
    with pytest.raises(LayoutMismatch, match=f"expected layout {here.layout_name}, got {there.layout_name}"):
        Codec(here).decode(blob)


@given(st.integers(0, 2**32 - 1))
def test_another_generation_changes_the_generation_and_nothing_else(generation: int) -> None:
    codec = Codec(LAYOUT)
    stamped = with_generation(codec.encode(MEMORY), generation)
    assert equal(codec.decode(stamped), replace(MEMORY, generation=generation))
    assert stamped == codec.encode(replace(MEMORY, generation=generation))


def test_stamping_a_generation_never_makes_wrong_bytes_look_right() -> None:
    blob = bytearray(Codec(LAYOUT).encode(MEMORY))
    blob[200] ^= 1
    with pytest.raises(ChecksumMismatch):
        with_generation(bytes(blob), MEMORY.generation + 1)
    with pytest.raises(CorruptMemory):
        with_generation(bytes(blob[:-30]), MEMORY.generation + 1)


def test_a_version_is_ordered_by_generation_before_sequence() -> None:
    blob = Codec(LAYOUT).encode(MEMORY)
    assert read_header(blob).version == (0x0A0B0C0D, 0x0102030405060708)
    older = Codec(LAYOUT).encode(replace(MEMORY, generation=1, sequence=10**9))
    newer = Codec(LAYOUT).encode(replace(MEMORY, generation=2, sequence=1))
    assert read_header(newer).version > read_header(older).version


@given(variants, variants)
def test_two_variants_share_a_layout_only_when_they_are_one(one: Variant, other: Variant) -> None:
    same = replace(one, preset="x") == replace(other, preset="x")
    assert (MemoryLayout(one).layout_id == MemoryLayout(other).layout_id) == same


@pytest.mark.parametrize("field", [*SMALL, *switches, "top_channels"])
def test_each_single_field_of_a_variant_makes_another_layout(field: str) -> None:
    plain = Variant(**SMALL)
    value = getattr(plain, field)
    if isinstance(value, bool):
        changed: Any = not value
    elif isinstance(value, int):
        changed = value + 1
    else:
        changed = {"shift": "none", "share": "raw", "before": "after", "state": "last_output", "mean": "sum"}[value]
    assert MemoryLayout(replace(plain, **{field: changed})).layout_id != MemoryLayout(plain).layout_id


def test_the_layouts_of_presets_rings_and_ablations_all_differ() -> None:
    variants = [
        preset(name, **changes) for name in ("official", "paper", "default") for changes in ({}, {"miu": False}, {"slots": 4})
    ]
    ids = {MemoryLayout(variant, ring_size=ring).layout_id for variant in variants for ring in (0, 16)}
    assert len(ids) == 18


def test_the_name_of_a_preset_makes_no_difference_to_the_layout() -> None:
    assert MemoryLayout(replace(preset("default"), preset="mine")).layout_id == MemoryLayout(preset("default")).layout_id


@given(st.data())
def test_splitting_a_packed_state_and_packing_it_again_changes_nothing(data: st.DataObject) -> None:
    layout = data.draw(layouts)
    batch = data.draw(st.integers(0, 3))
    state_BF = np.random.default_rng(1).normal(size=(batch, layout.size_F)).astype(np.float32)
    tensors = layout.split(state_BF)
    assert [(name, tensor.shape) for name, tensor in tensors.items()] == [(s.name, (batch, *s.shape)) for s in layout.tensors]
    assert np.array_equal(layout.pack(tensors), state_BF)
