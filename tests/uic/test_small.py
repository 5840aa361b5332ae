"""A memory in small numbers (uic/small.py): how near it stays, format 2 bit by bit, and every way the bytes can be wrong."""

import struct
from dataclasses import replace
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from drawn import SMALL, layouts
from hypothesis import given
from hypothesis import strategies as st

from uic.codec import Codec, read_header, with_generation
from uic.errors import (
    ChecksumMismatch,
    CorruptMemory,
    LayoutMismatch,
    NotFinite,
    StoreMismatch,
    TruncatedMemory,
    UnknownFormat,
)
from uic.memory import Float32, MemoryLayout, Numbers, UserMemory
from uic.models import Delta, Gru4Rec, Mlp, Rum, Sdim
from uic.small import Published, Shrink, SmallCodec, numbers_of
from uic.tolerance import memory_excess
from uic.variant import Variant, preset

GOLDEN = Path(__file__).parent / "golden"
LAYOUT = MemoryLayout(Variant(**SMALL), ring_size=2)
BOTH: tuple[Numbers, ...] = ("float16", "int8")
MEMORY = UserMemory(
    state_F=(np.arange(LAYOUT.size_F) / 8 - 2).astype(np.float32),
    fingerprints=bytes(range(1, 33)),
    sequence=0x0102030405060708,
    last_time_ms=1_700_000_000_123,
    log_time_ms=1_700_000_000_456,
    generation=0x0A0B0C0D,
    bundle_version=1_699_999_999_999,
)
MAGNITUDES = st.sampled_from([0.0, 1e-45, 1e-42, 1e-38, 1e-6, 1.0, 300.0, 65504.0, 65520.0, 1e9, 3.4028234663852886e38])
SHARES = st.sampled_from([-1.0, -0.5, 0.0, 0.3, 1.0]) | st.floats(-1, 1)


def shrunk(memory: UserMemory, numbers: Numbers, layout: MemoryLayout = LAYOUT) -> bytes:
    return Shrink(numbers, layout)([Codec(layout).encode(memory)])[0]


def decoded(blob: bytes, layout: MemoryLayout = LAYOUT) -> UserMemory:
    return Published(Codec(layout)).decode(blob)


@st.composite
def finite_states(draw: st.DrawFn, layout: MemoryLayout) -> Float32:
    """States whose tensors are each of a magnitude of its own: zero, denormal, ordinary or as large as float32 goes."""
    parts = []
    for spec in layout.tensors:
        largest = draw(MAGNITUDES)
        shares = draw(st.lists(SHARES, min_size=spec.size, max_size=spec.size))
        parts.append((np.array(shares) * largest).astype(np.float32))
    return np.concatenate(parts)


@given(st.data())
def test_a_small_number_is_as_near_as_its_type_allows_and_counts_and_sums_are_exact(data: st.DataObject) -> None:
    layout = data.draw(layouts)
    state_F = data.draw(finite_states(layout))
    memory = replace(MEMORY, state_F=state_F, fingerprints=bytes(16 * layout.ring_size))
    for numbers in BOTH:
        found_F = decoded(shrunk(memory, numbers, layout), layout).state_F
        assert np.isfinite(found_F).all()
        found, expected = layout.split(found_F.astype(np.float64)), layout.split(state_F.astype(np.float64))
        for name, tensor in expected.items():
            if name not in layout.shrinkable:
                assert np.array_equal(found[name], tensor)
                continue
            largest = np.abs(tensor).max(initial=0.0)
            if numbers == "int8":
                allowed = np.full(tensor.shape, largest / 127 / 2)
            else:
                scale = max(1.0, largest / 65504)
                allowed = np.maximum(np.abs(tensor) * 2**-11, scale * 2**-25)
            # What float32 itself rounds, in the scale and in the product.
            allowed = allowed + np.abs(tensor) * 2**-22 + 2.0**-149
            assert (np.abs(found[name] - tensor) <= allowed).all(), name


@given(st.data())
def test_the_same_state_gives_the_same_bytes_whatever_is_shrunk_beside_it(data: st.DataObject) -> None:
    layout = data.draw(layouts)
    states = data.draw(st.lists(finite_states(layout), min_size=1, max_size=4))
    ring = bytes(16 * layout.ring_size)
    blobs = [
        Codec(layout).encode(replace(MEMORY, state_F=each, fingerprints=ring, sequence=n)) for n, each in enumerate(states)
    ]
    for numbers in BOTH:
        together = Shrink(numbers, layout)(blobs)
        assert together == [Shrink(numbers, layout)([blob])[0] for blob in blobs]
        assert Shrink(numbers, layout)(together) == together
        assert Shrink(numbers)(together) == together


@pytest.mark.parametrize("numbers", BOTH)
def test_header_and_version_stay_and_the_fingerprints_go(numbers: Numbers) -> None:
    blob = shrunk(MEMORY, numbers)
    before, after = read_header(Codec(LAYOUT).encode(MEMORY)), read_header(blob)
    assert after == before._replace(format=2, ring_size=0)
    assert after.version == before.version
    memory = decoded(blob)
    assert replace(memory, state_F=MEMORY.state_F) == replace(MEMORY, fingerprints=b"", numbers=numbers)
    assert numbers_of(blob) == numbers
    assert with_generation(blob, 7) == shrunk(replace(MEMORY, generation=7), numbers)


def test_in_float32_a_memory_is_the_state_itself() -> None:
    blob = Codec(LAYOUT).encode(MEMORY)
    assert Shrink("float32", LAYOUT)([blob]) == Shrink("float32")([blob]) == [blob]
    assert numbers_of(blob) == "float32"


@pytest.mark.parametrize("numbers", BOTH)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, LAYOUT.size_F - 1, 11])
def test_what_is_infinite_or_no_number_has_no_copy(numbers: Numbers, value: float, place: int) -> None:
    state_F = MEMORY.state_F.copy()
    state_F[place] = value
    good = Codec(LAYOUT).encode(MEMORY)
    with pytest.raises(NotFinite, match=f"after {MEMORY.sequence} events"):
        Shrink(numbers, LAYOUT)([good, Codec(LAYOUT).encode(replace(MEMORY, state_F=state_F)), good])


@pytest.mark.parametrize("numbers", BOTH)
def test_format_2_is_these_very_bytes(numbers: Numbers) -> None:
    golden = (GOLDEN / f"memory_v2_{numbers}.bin").read_bytes()
    assert golden == shrunk(MEMORY, numbers), "format 2 changed: give the format another number, with golden files of its own"


@pytest.mark.parametrize(("numbers", "dtype", "letter", "top"), [("float16", 2, "e", None), ("int8", 3, "b", 127)])
def test_a_reader_written_from_the_documented_table_alone_reads_every_field(
    numbers: Numbers, dtype: int, letter: str, top: int | None
) -> None:
    data = (GOLDEN / f"memory_v2_{numbers}.bin").read_bytes()
    assert struct.unpack_from("<4sHH", data) == (b"UICM", 2, 8)
    assert struct.unpack_from("<QQIIQqq", data, 8) == (
        LAYOUT.layout_id, 1_699_999_999_999, 0x0A0B0C0D, 0, 0x0102030405060708, 1_700_000_000_123, 1_700_000_000_456,
    )  # fmt: skip
    at, number = 56 + 8 * 8, 0
    # h, r, M, g, mean of add vectors and events, n, S: sizes of SMALL; g and n count
    sizes, exact = (3, 2, 6, 3, 2, 4, 1, 6), (3, 6)
    for place, size in enumerate(sizes):
        found = struct.unpack_from("<BBHHH", data, 56 + 8 * place)
        expected = [each / 8 - 2 for each in range(number, number + size)]
        number += size
        assert found[0] == (1 if place in exact else dtype)
        if place in exact:
            assert struct.unpack_from(f"<{size}f", data, at) == tuple(expected)
            at += 4 * size
            continue
        (scale,) = struct.unpack_from("<f", data, at)
        numbers_read = struct.unpack_from(f"<{size}{letter}", data, at + 4)
        assert [scale * each for each in numbers_read] == pytest.approx(expected, abs=scale / 2 if top else 0)
        assert scale == (1.0 if top is None else pytest.approx(max(map(abs, expected)) / top, rel=1e-6))
        at += 4 + struct.calcsize(f"<{size}{letter}")
    assert struct.unpack_from("<I", data, at) == (google_crc32c.value(data[:at]),)
    assert len(data) == at + 4


@pytest.mark.parametrize("numbers", BOTH)
def test_any_single_flipped_bit_anywhere_is_refused(numbers: Numbers) -> None:
    published, blob = Published(Codec(LAYOUT)), shrunk(MEMORY, numbers)
    for bit in range(8 * len(blob)):
        altered = bytearray(blob)
        altered[bit // 8] ^= 1 << bit % 8
        for read in (published.decode, published.check):
            with pytest.raises(CorruptMemory):
                read(bytes(altered))


@pytest.mark.parametrize("numbers", BOTH)
def test_any_truncation_or_extension_is_refused(numbers: Numbers) -> None:
    blob = shrunk(MEMORY, numbers)
    for size in [*range(len(blob)), len(blob) + 1, 2 * len(blob)]:
        with pytest.raises(CorruptMemory) as raised:
            decoded((2 * blob)[:size] if size > len(blob) else blob[:size])
        assert size < 6 or raised.type is TruncatedMemory


@given(st.binary(max_size=200), st.sampled_from(BOTH))
def test_bytes_that_are_no_memory_raise_nothing_but_corrupt_memory(data: bytes, numbers: Numbers) -> None:
    for start in (b"", b"UICM\x02\x00", shrunk(MEMORY, numbers)[:64]):
        with pytest.raises(CorruptMemory):
            decoded(start + data)


def test_wrong_bytes_have_the_errors_of_format_1() -> None:
    blob = shrunk(MEMORY, "int8")
    with pytest.raises(ChecksumMismatch):
        decoded(blob[:150] + bytes([blob[150] ^ 1]) + blob[151:])
    with pytest.raises(LayoutMismatch, match="expected layout"):
        decoded(blob, MemoryLayout(Variant(**{**SMALL, "slots": 4})))
    body = blob[:57] + b"\x07" + blob[58:-4]
    with pytest.raises(LayoutMismatch, match="tensor table"):
        decoded(body + struct.pack("<I", google_crc32c.value(body)))
    with pytest.raises(UnknownFormat, match="got format 3"):
        decoded(blob[:4] + b"\x03" + blob[5:])


def test_a_state_is_never_read_from_a_small_copy() -> None:
    with pytest.raises(UnknownFormat, match="format 1, got format 2"):
        Codec(LAYOUT).decode(shrunk(MEMORY, "int8"))
    with pytest.raises(UnknownFormat):
        Codec(LAYOUT).decode_many([shrunk(MEMORY, "int8")])


def test_what_was_rounded_away_is_not_had_again() -> None:
    small = shrunk(MEMORY, "int8")
    for numbers in ("float32", "float16"):
        with pytest.raises(StoreMismatch, match=f"int8 come, the store keeps {numbers}"):
            Shrink(numbers, LAYOUT)([small])  # type: ignore[arg-type]  # one of the three
    with pytest.raises(StoreMismatch, match="--bundle"):
        Shrink("int8")([Codec(LAYOUT).encode(MEMORY)])


def test_shrinking_never_makes_wrong_bytes_look_right() -> None:
    blob = bytearray(Codec(LAYOUT).encode(MEMORY))
    blob[200] ^= 1
    with pytest.raises(ChecksumMismatch):
        Shrink("int8", LAYOUT)([bytes(blob)])


@pytest.mark.parametrize(
    ("layout", "exact"),
    [
        (MemoryLayout(preset("default")), {"utilization", "applied"}),
        (MemoryLayout(preset("official")), {"utilization", "applied", "add_pool", "event_pool", "last_channels"}),
        (MemoryLayout(Rum()), {"applied"}),
        (MemoryLayout(Sdim(pooling="sum")), {"applied", "buckets", "event_pool"}),
        (MemoryLayout(Sdim()), {"applied", "buckets"}),
        (MemoryLayout(Delta()), {"applied"}),
        (MemoryLayout(Gru4Rec()), {"applied"}),
        (MemoryLayout(Mlp(pooling="sum")), {"applied", "event_pool"}),
    ],
)
def test_counts_utilization_and_sums_stay_float32(layout: MemoryLayout, exact: set[str]) -> None:
    assert {spec.name for spec in layout.tensors} - layout.shrinkable == exact
    state_F = np.random.default_rng(3).normal(size=layout.size_F).astype(np.float32)
    memory = UserMemory(state_F=state_F, fingerprints=bytes(16 * layout.ring_size))
    for numbers in BOTH:
        blob = shrunk(memory, numbers, layout)
        assert len(blob) < len(Codec(layout).encode(memory))
        found = layout.split(decoded(blob, layout).state_F)
        assert all(np.array_equal(found[name], layout.split(state_F)[name]) for name in exact)


@pytest.mark.parametrize("numbers", BOTH)
def test_a_copy_equals_its_state_within_what_its_numbers_round(numbers: Numbers) -> None:
    layout = MemoryLayout(preset("default"))
    state_F = np.random.default_rng(5).normal(size=layout.size_F).astype(np.float32)
    memory = UserMemory(state_F=state_F, fingerprints=bytes(16 * layout.ring_size))
    found_BF = decoded(shrunk(memory, numbers, layout), layout).state_F[None]
    worst = memory_excess(layout, found_BF, state_F[None], numbers)
    assert max(value[0] for value in worst.values()) <= 1
    assert max(value[0] for value in memory_excess(layout, found_BF, state_F[None]).values()) > 1
    for spec in layout.tensors:
        moved_F = state_F.copy()
        layout.split(moved_F)[spec.name].reshape(-1)[0] += np.float32(0.1)
        assert memory_excess(layout, found_BF, moved_F[None], numbers)[spec.name][0] > 1


def test_a_decoded_copy_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        decoded(shrunk(MEMORY, "int8")).state_F[0] = 1.0


def test_a_small_codec_says_how_many_bytes_a_memory_takes() -> None:
    layout = MemoryLayout(preset("default"))
    assert {numbers: SmallCodec(layout, numbers).size for numbers in BOTH} == {"float16": 1464, "int8": 824}
