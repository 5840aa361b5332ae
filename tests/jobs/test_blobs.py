"""Memories found in any bytes (jobs/blobs.py): each of them, nothing else, and every wrong bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.blobs import BlobForm, Found, find, guess_form
from uic.codec import MAGIC, Codec
from uic.memory import MemoryLayout, UserMemory
from uic.variant import Variant

SIZES = {"event_width": 4, "controller_units": 4, "slots": 4, "slot_width": 4, "output_width": 4}
CODEC = Codec(MemoryLayout(Variant(**SIZES)))  # type: ignore[arg-type]  # all of them are sizes
OTHER = Codec(MemoryLayout(Variant(**{**SIZES, "slots": 5})))  # type: ignore[arg-type]
SAME_SIZES = Codec(MemoryLayout(Variant(**SIZES, mur="none")))  # type: ignore[arg-type]
# Keys and framing between memories: short, and now and then the magic by chance.
gaps = st.one_of(st.binary(max_size=40), st.just(b"UICM"), st.just(b"u" * 700))


def blob(seed: int, codec: Codec = CODEC) -> bytes:
    draw = np.random.default_rng(seed)
    layout = codec.layout
    state_F = draw.normal(size=layout.size_F).astype(np.float32)
    return codec.encode(UserMemory(state_F=state_F, fingerprints=draw.bytes(16 * layout.ring_size), sequence=seed))


FORM = BlobForm.read(blob(0))


def laid_out(parts: list[bytes], blobs: list[bytes]) -> tuple[bytes, list[int]]:
    """The blobs between the parts, and where each begins."""
    data, offsets = parts[0], []
    for part, each in zip(parts[1:], blobs, strict=True):
        offsets.append(len(data))
        data += each + part
    return data, offsets


def test_the_form_of_a_layout_is_told_by_any_of_its_blobs() -> None:
    assert FORM is not None
    assert (FORM.size, FORM.layout) == (CODEC.size, CODEC.layout.layout_name)
    assert {BlobForm.read(blob(seed)) for seed in range(5)} == {FORM}
    assert BlobForm.read(blob(0, OTHER)) != FORM


@pytest.mark.parametrize("data", [b"", b"UICM", b"UICM" + bytes(100), b"x" + blob(0), blob(0)[:60]])
def test_what_is_no_blob_has_no_form(data: bytes) -> None:
    assert BlobForm.read(data) is None


@given(st.lists(gaps, min_size=1, max_size=6), st.booleans())
def test_every_memory_is_found_and_nothing_else(parts: list[bytes], is_known: bool) -> None:
    data, offsets = laid_out(parts, [blob(seed) for seed in range(len(parts) - 1)])
    found = list(find(data, FORM if is_known else None))
    assert [(each.offset, each.why) for each in found] == [(offset, None) for offset in offsets]


@given(st.lists(gaps, min_size=3, max_size=6), st.data())
def test_any_wrong_bit_in_a_memory_is_found_where_it_is(parts: list[bytes], data: st.DataObject) -> None:
    content, offsets = laid_out(parts, [blob(seed) for seed in range(len(parts) - 1)])
    which = data.draw(st.integers(0, len(offsets) - 1))
    bit = data.draw(st.integers(0, 8 * CODEC.size - 1))
    flipped = bytearray(content)
    flipped[offsets[which] + bit // 8] ^= 1 << bit % 8
    found = list(find(bytes(flipped), FORM))
    assert [each.offset for each in found if each.why is not None] == [offsets[which]]
    assert sorted(each.offset for each in found) == offsets


def test_without_a_known_form_the_first_whole_memory_tells_it_also_for_those_before() -> None:
    broken = bytearray(blob(0))
    broken[100] ^= 1
    data = bytes(broken) + blob(1)
    assert guess_form(data) == FORM
    assert [each.why is None for each in find(data, None)] == [False, True]
    assert list(find(bytes(broken), None)) == []


def test_a_memory_that_is_cut_off_is_named_with_its_bytes() -> None:
    data = blob(0) + blob(1)[:-7]
    assert [each.why for each in find(data, FORM)] == [None, f"cut off: {CODEC.size - 7} of {CODEC.size} bytes are there"]


@pytest.mark.parametrize("codec", [OTHER, SAME_SIZES], ids=["other sizes", "same sizes"])
def test_a_memory_of_another_layout_is_named_by_it(codec: Codec) -> None:
    (found,) = find(blob(0, codec), FORM)
    assert found.why == f"its layout is {codec.layout.layout_name}, expected {CODEC.layout.layout_name}"


def test_the_magic_within_floats_is_no_memory() -> None:
    state_F = np.frombuffer(MAGIC * CODEC.layout.size_F, np.float32)
    data = CODEC.encode(UserMemory(state_F=state_F, fingerprints=MAGIC * 4 * CODEC.layout.ring_size))
    assert FORM is not None
    assert list(find(data, FORM)) == [Found(0, None)]
    damaged = bytearray(data)
    damaged[-1] ^= 1
    assert [each.offset for each in find(bytes(damaged), FORM)] == [0]
