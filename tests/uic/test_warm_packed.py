"""Files of packed memories (uic/warm/packed.py): what is written is read, and whatever is changed in them is refused."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from drawn import SMALL, updater
from hypothesis import given, settings
from hypothesis import strategies as st

from uic.codec import Codec, Columns
from uic.errors import ChecksumMismatch, CorruptMemory, LayoutMismatch, NotAMemory, TruncatedMemory, UnknownFormat
from uic.memory import MemoryLayout
from uic.variant import Variant
from uic.warm.fold import Memories
from uic.warm.packed import Writer, read

CODEC = updater(ring_size=2).codec
GOLDEN = "23012768b41c9de1d9609ff190286e39509fa794bab0a22ed503e128bd8819cd"
BLOCKS = [["u1", "ü", "x" * 128], ["u2"]]


def memories(users: list[str], seed: int) -> Memories:
    size_F = CODEC.layout.size_F
    states_BF = np.random.default_rng(seed).random((len(users), size_F), dtype=np.float32)
    count = len(users)
    columns = Columns(states_BF, [bytes(32)] * count, [1] * count, [5] * count, [5] * count, [0] * count)
    return Memories(users, CODEC.encode_packed(columns, bundle_version=7))


def write(path: Path, blocks: list[list[str]]) -> list[tuple[bytes, bytes]]:
    """A file of these users; their ids and memories."""
    written = []
    with path.open("wb") as file:
        writer = Writer(file, CODEC)
        for seed, users in enumerate(blocks):
            block = memories(users, seed)
            writer.write(block)
            written += [
                (user.encode(), bytes(block.packed[number * CODEC.size : (number + 1) * CODEC.size]))
                for number, user in enumerate(users)
            ]
        writer.end()
    return written


def entries(path: Path, codec: Codec = CODEC) -> list[tuple[bytes, bytes]]:
    return [
        (user, bytes(block.packed[number * codec.size : (number + 1) * codec.size]))
        for block in read(path, codec)
        for number, user in enumerate(block.users)
    ]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packed") / "part.memories"


def test_what_is_written_is_read(path: Path) -> None:
    written = write(path, BLOCKS)
    assert entries(path) == written


def test_a_file_of_nobody_is_a_file(path: Path) -> None:
    write(path, [])
    assert entries(path) == []


def test_the_format_is_what_it_was(path: Path) -> None:
    """Changes only together with the format number: Java reads it too."""
    write(path, BLOCKS)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == GOLDEN


@given(st.integers(min_value=0), st.integers(0, 7))
@settings(max_examples=300)
def test_any_flipped_bit_is_noticed(path: Path, place: int, bit: int) -> None:
    write(path, BLOCKS)
    content = bytearray(path.read_bytes())
    place %= len(content)
    if place in (6, 7, 20, 21, 22, 23):
        return  # zeros that nobody looks at
    content[place] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(CorruptMemory):
        entries(path)


@given(st.integers(min_value=0))
def test_a_file_cut_off_anywhere_is_refused(path: Path, size: int) -> None:
    write(path, BLOCKS)
    content = path.read_bytes()
    path.write_bytes(content[: size % len(content)])
    with pytest.raises(TruncatedMemory):
        entries(path)


def test_what_is_no_such_file_is_named(path: Path) -> None:
    write(path, BLOCKS)
    content = path.read_bytes()
    for wrong, error in ((b"XXXX" + content[4:], NotAMemory), (content[:4] + b"\x02\x00" + content[6:], UnknownFormat)):
        path.write_bytes(wrong)
        with pytest.raises(error, match=str(path)):
            entries(path)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ChecksumMismatch, match=str(path)):
        entries(path)
    path.write_bytes(content)
    with pytest.raises(LayoutMismatch, match=CODEC.layout.layout_name):
        entries(path, Codec(MemoryLayout(Variant(**SMALL), ring_size=3)))
