"""The users of a run: their histories, the memories that the step makes of these, and requests for their scores.

One fold gives each user's memory after every length asked for, so DIEN's histories and our memories are of the same events.
A history lies in a store as memories do: the header of uic/codec.py, then int32 embedding rows of all items, then of all
categories, then the CRC-32C. Rows, not ids: DIEN's server is spared the look-up.
"""

import dataclasses
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.load import CATEGORIES, ITEMS
from serving.wire import Asked, Candidate, ScoreRequest
from uic.bundle import Bundle
from uic.codec import check_crc, read_header
from uic.memory import Float32
from uic.runtime import OnnxStep
from uic.store.rocksdb import RocksStore

CANDIDATES = 100
LENGTHS = (50, 100, 200, 500, 1000, 5000)
_MOST_USERS = 1_000_000
_HEADER_BYTES = 56
_CRC = struct.Struct("<I")
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]


class Histories(NamedTuple):
    """Embedding rows of the events of each user, [U, T]."""

    item_UT: Int64
    category_UT: Int64

    @classmethod
    def draw(cls, bundle: Bundle, users: int, length: int, *, seed: int = 5) -> "Histories":
        items_UT = np.random.default_rng(seed).zipf(1.2, (users, length)) % ITEMS + 1
        return cls(bundle.items.rows(items_UT), bundle.categories.rows(items_UT % CATEGORIES + 1))


def users_of(length: int, count: int) -> Int64:
    """The numbers of the users with histories of this length; benchmarks/load.py calls a user `u` and the number."""
    return length * _MOST_USERS + np.arange(count)


def name(number: int) -> str:
    return f"u{number}"


def fold(bundle: Bundle, histories: Histories, lengths: Sequence[int]) -> dict[int, Float32]:
    """The states [U, F] of all users after each of these lengths: every event goes through the step."""
    step, states_UF = OnnxStep(bundle), np.tile(bundle.initial.state_F, (len(histories.item_UT), 1))
    states: dict[int, Float32] = {}
    for t in range(max(lengths)):
        states_UF = step(
            states_UF, np.ascontiguousarray(histories.item_UT[:, t]), np.ascontiguousarray(histories.category_UT[:, t])
        )
        if t + 1 in lengths:
            states[t + 1] = states_UF
    return states


def memories(bundle: Bundle, length: int, states_UF: Float32) -> dict[str, bytes]:
    """The blob of each of the users with histories of this length."""
    now_ms = time.time_ns() // 1_000_000
    first = dataclasses.replace(
        bundle.initial,
        sequence=length,
        last_time_ms=now_ms,
        log_time_ms=now_ms,
        bundle_version=bundle.manifest.version,
    )
    return {
        name(number): bundle.codec.encode(dataclasses.replace(first, state_F=state_F))
        for number, state_F in zip(users_of(length, len(states_UF)).tolist(), states_UF, strict=True)
    }


def write_memories(path: Path, bundle: Bundle, states: dict[int, Float32]) -> None:
    store = RocksStore.create_or_open(path, bundle.identity)
    for length, states_UF in states.items():
        assert all(store.write_many(list(memories(bundle, length, states_UF).items())))
    store.close()


def write_histories(path: Path, bundle: Bundle, histories: Histories, lengths: Sequence[int]) -> None:
    store = RocksStore.create_or_open(path, bundle.identity)
    for length in lengths:
        header = bundle.codec.encode(dataclasses.replace(bundle.initial, sequence=length))[:_HEADER_BYTES]
        for place, number in enumerate(users_of(length, len(histories.item_UT)).tolist()):
            rows = [rows_UT[place, :length].astype("<i4").tobytes() for rows_UT in histories]
            body = b"".join((header, *rows))
            assert store.write(name(number), body + _CRC.pack(google_crc32c.value(body)))
    store.close()


def read_history(blob: bytes) -> tuple[Int32, Int32]:
    """Rows of items and of categories, views of the blob."""
    read_header(blob)
    check_crc(blob)
    rows = np.frombuffer(blob, dtype="<i4", offset=_HEADER_BYTES, count=(len(blob) - _HEADER_BYTES - _CRC.size) // 4)
    return rows[: len(rows) // 2], rows[len(rows) // 2 :]


def bodies(users: Int64, count: int, *, candidates: int = CANDIDATES, seed: int = 7) -> list[bytes]:
    """Whole HTTP requests, each for the scores of one of the users."""
    rng = np.random.default_rng(seed)
    made = []
    for number in rng.permutation(np.resize(users, count)).tolist():
        items = rng.integers(1, ITEMS + 1, candidates).tolist()
        asked = Asked(name(number), [Candidate(item, item % CATEGORIES + 1) for item in items])
        made.append(http(msgspec.json.encode(ScoreRequest([asked]))))
    return made


def http(body: bytes, path: str = "/v1/score") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body
