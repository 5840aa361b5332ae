"""Targets: the bytes of a memory, in every decoder that reads them; and the snapshots topic, which carries them."""

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import TypeVar

import google_crc32c
import numpy as np

from benchmarks.fuzz.target import Target
from jobs import blobs
from uic.codec import CRC, NO_TIME, Codec, read_header, with_generation
from uic.errors import CorruptMemory
from uic.memory import MemoryLayout, Numbers, UserMemory
from uic.partition import partition_of
from uic.small import Published, Shrink, numbers_of
from uic.store.apply import REASONS, Applier, Snapshot
from uic.store.contract import InMemoryStore, Shard
from uic.variant import Variant

LAYOUT = MemoryLayout(Variant(event_width=4, controller_units=3, slots=3, slot_width=2, output_width=5), ring_size=2)
CODEC = Codec(LAYOUT)
SMALL: tuple[Numbers, ...] = ("float16", "int8")
_FORM = blobs.BlobForm.read(CODEC.encode(UserMemory(state_F=np.zeros(LAYOUT.size_F, np.float32), fingerprints=bytes(32))))
_PUBLISHED = Published(CODEC)
_PARTITIONS = 3
_DAY_MS = 86_400_000
Found = TypeVar("Found")


@cache
def states() -> tuple[bytes, ...]:
    """Memories as the code writes them: new, ordinary, at the ends of what the fields hold, not finite."""
    plain = UserMemory(
        state_F=(np.arange(LAYOUT.size_F) / 8 - 2).astype(np.float32),
        fingerprints=bytes(range(1, 33)),
        sequence=7,
        last_time_ms=1_700_000_000_123,
        log_time_ms=1_700_000_000_456,
        generation=1,
        bundle_version=1_699_999_999_999,
    )
    empty = UserMemory(state_F=np.zeros(LAYOUT.size_F, np.float32), fingerprints=bytes(32))
    ends = replace(plain, sequence=2**64 - 1, generation=2**32 - 1, bundle_version=2**64 - 1, last_time_ms=2**63 - 1)
    nan = replace(plain, state_F=np.full(LAYOUT.size_F, np.nan, np.float32))
    return tuple(map(CODEC.encode, (plain, empty, ends, nan)))


@cache
def copies() -> tuple[bytes, ...]:
    """Copies in small numbers of those that can be made of."""
    return tuple(copy for numbers in SMALL for copy in Shrink(numbers, LAYOUT)(states()[:3]))


def mend_crc(data: bytes, draw: random.Random) -> bytes:
    """The same with a right CRC at its end; now and then of the length that the layout asks for."""
    if draw.random() < 0.5:
        size = draw.choice([len(seed) for seed in (states()[0], copies()[0], copies()[-1])])
        data = data[:size].ljust(size, b"\0")
    body = data[: -CRC.size]
    return body + CRC.pack(google_crc32c.value(body))


def tried(decode: Callable[[], Found]) -> Found | CorruptMemory:
    """What comes out, or the documented error."""
    try:
        return decode()
    except CorruptMemory as error:
        return error


def check_memory(data: bytes) -> None:
    """All readers of a memory say the same of it, and what one of them takes is written back as it was."""
    found = tried(lambda: CODEC.decode(data))
    if isinstance(found, UserMemory):
        assert CODEC.encode(found) == data
    _check_many(data, found)
    _check_applied(data, found)
    _check_stamped(data)
    _check_published(data, found)
    whole = [each.why for each in blobs.find(data, _FORM) if each.offset == 0 and each.why is None]
    assert not isinstance(found, UserMemory) or whole, "`uic checkpoint` does not see a memory that the job reads"


def _check_many(data: bytes, found: UserMemory | Exception) -> None:
    good = states()[0]
    many = tried(lambda: CODEC.decode_many([good, data, good]))
    if isinstance(found, Exception):
        assert type(many) is type(found), f"one by one {found!r}, together {many!r}"
        assert str(many) == str(found)
        return
    assert not isinstance(many, Exception), f"one by one it is read, together {many!r}"
    assert many.states_BF[1].tobytes() == found.state_F.tobytes()
    times = (
        NO_TIME if found.last_time_ms is None else found.last_time_ms,
        NO_TIME if found.log_time_ms is None else found.log_time_ms,
    )
    assert (many.last_times_ms[1], many.log_times_ms[1]) == times
    assert (many.rings[1], many.sequences[1], many.generations[1]) == (found.fingerprints, found.sequence, found.generation)


def _check_applied(data: bytes, found: UserMemory | Exception) -> None:
    version = tried(lambda: Applier(InMemoryStore(), CODEC).version(data))
    assert isinstance(version, Exception) == isinstance(found, Exception), f"readers: {found!r}, the follower: {version!r}"


def _check_stamped(data: bytes) -> None:
    stamped = tried(lambda: with_generation(data, 9))
    if isinstance(stamped, bytes):
        before, after = (tried(lambda each=each: _PUBLISHED.decode(each)) for each in (data, stamped))  # type: ignore[misc]  # bound early
        # Of one that is cut off within its table, the CRC is a part of the table: the reason may be another one then.
        assert isinstance(before, Exception) == isinstance(after, Exception), f"before {before!r}, after stamping {after!r}"
        assert read_header(stamped).generation == 9


def _check_published(data: bytes, found: UserMemory | Exception) -> None:
    tried(lambda: numbers_of(data))
    with np.errstate(all="ignore"):
        published = tried(lambda: _PUBLISHED.decode(data))
    checked = tried(lambda: _PUBLISHED.check(data))
    assert isinstance(published, Exception) == isinstance(checked, Exception), f"decode: {published!r}, check: {checked!r}"
    if isinstance(found, UserMemory):
        assert isinstance(published, UserMemory), f"as a state it is read, as a published memory {published!r}"
        assert published.state_F.tobytes() == found.state_F.tobytes()
        for numbers in SMALL:
            kept = tried(lambda numbers=numbers: Shrink(numbers, LAYOUT)([data])[0])  # type: ignore[misc]  # bound early
            if np.isfinite(found.state_F).all():
                assert isinstance(kept, bytes), f"no copy in {numbers}: {kept!r}"
                assert np.isfinite(_PUBLISHED.decode(kept).state_F).all()
            else:
                assert isinstance(kept, CorruptMemory)
    elif isinstance(published, UserMemory):
        assert published.numbers in SMALL
        assert not published.fingerprints


def check_topic(data: bytes) -> None:
    """Two messages of one user: whatever they hold, each is counted once, and what is stored can be read.

    The first byte is the partition, the second the length of the key; the rest is the value, none where it is empty.
    """
    partition, size = (*data[:2], 0, 0)[:2]
    key, value = data[2 : 2 + size % 160], data[2 + size % 160 :]
    kept: list[str] = []
    store = InMemoryStore()
    applier = Applier(
        store,
        CODEC,
        shard=Shard(0, 1, _PARTITIONS),
        keep=lambda refused: kept.extend(each.reason for each in refused),
    )
    good = Snapshot(partition % _PARTITIONS, 0, key, states()[0])
    done = applier.apply([good, Snapshot(partition % _PARTITIONS, 1, key, value or None)], now_ms=0)
    assert done.written + done.stale + done.fenced + done.deleted + len(done.refused) == 2
    assert set(kept) <= {*REASONS.values(), "bad_key", "wrong_partition", "unknown_generation"}
    assert store.offsets == {partition % _PARTITIONS: 2}
    for user in store.users():
        for day in (None, *store.days_kept()):
            blob = store.read(user, as_of=day)
            assert blob is None or CODEC.decode(blob)


def _message(data: bytes, key: bytes) -> bytes:
    return bytes([partition_of(key, _PARTITIONS), len(key)]) + key + data


def _mend_message(data: bytes, draw: random.Random) -> bytes:
    head = data[: 2 + (data[1] % 160 if len(data) > 1 else 0)]
    return head + mend_crc(data[len(head) :], draw)


def targets() -> list[Target]:
    """Both targets."""
    words = (
        b"UICM",
        b"UICM\x01\x00",
        b"UICM\x02\x00",
        states()[0][:16],
        states()[0][56:120],
        copies()[0][56:120],
        copies()[-1][56:120],
    )
    messages = [_message(blob, key) for blob in (*states(), b"") for key in (b"u", "ü".encode())]
    return [
        Target(
            name="memory",
            law="a state or a copy is read by all its readers alike and written back as it was, or is a CorruptMemory to all",
            check=check_memory,
            seeds=[*states(), *copies()],
            mend=mend_crc,
            words=words,
            most_bytes=2048,
        ),
        Target(
            name="topic",
            law="a message of the snapshots topic is applied or refused with its reason, and all that is stored can be read",
            check=check_topic,
            seeds=messages,
            mend=_mend_message,
            words=words,
            most_bytes=2048,
        ),
    ]
