"""Users and memories are read back from the bytes of a savepoint (jobs/store/in_savepoint.py), whatever a user is called."""

import struct
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[1] / "uic"))

from drawn import SMALL, USER_IDS

from jobs.blobs import BlobForm
from jobs.rollback.in_savepoint import _end_of_key
from jobs.store.in_savepoint import memories_by_user
from uic.codec import Codec
from uic.memory import MemoryLayout, UserMemory
from uic.variant import Variant

LAYOUT = MemoryLayout(Variant(**SMALL), ring_size=1)
CODEC = Codec(LAYOUT)
EMPTY = UserMemory(state_F=np.zeros(LAYOUT.size_F, np.float32), fingerprints=bytes(16))


def entry(user: str, blob: bytes, group: int) -> bytes:
    """One of keyed state as Flink writes it."""
    key = bytes([group]) + _end_of_key(user)
    return struct.pack(">i", len(key)) + key + struct.pack(">ii", 4 + len(blob), len(blob)) + blob


@given(st.lists(USER_IDS | st.text("\0\1\2\3\x7f\x80", min_size=1, max_size=9), unique=True, min_size=1, max_size=6), st.data())
def test_every_user_is_found_with_their_own_memory(tmp_path_factory, users: list[str], data: st.DataObject) -> None:  # type: ignore[no-untyped-def]  # pytest's
    folder = tmp_path_factory.mktemp("savepoint")
    blobs = {user: CODEC.encode(replace(EMPTY, sequence=number)) for number, user in enumerate(users)}
    groups = st.integers(0, 127)
    between = st.binary(max_size=5)
    parts = [part for user, blob in blobs.items() for part in (data.draw(between), entry(user, blob, data.draw(groups)))]
    (folder / "one").write_bytes(b"".join(parts))
    form = BlobForm.read(CODEC.encode(EMPTY))
    assert form is not None
    assert dict(memories_by_user(folder, form)) == blobs


def test_a_memory_that_was_changed_is_told_with_its_user(tmp_path: Path) -> None:
    blob = bytearray(CODEC.encode(EMPTY))
    blob[-9] ^= 1
    (tmp_path / "one").write_bytes(entry("é", bytes(blob), 5) + entry("u", CODEC.encode(EMPTY), 6))
    form = BlobForm.read(CODEC.encode(EMPTY))
    assert form is not None
    assert dict(memories_by_user(tmp_path, form)) == {"é": None, "u": CODEC.encode(EMPTY)}
