"""The snapshots topic applied to one shard, exactly: whatever comes twice, late, in between or broken.

What a memory does to those that are there is decided in uic/store/writing.py. A user who left and came back begins at sequence
1 again: the deletion between the two lives usually tells, but compaction drops it as soon as there is a later memory, and then
the log time does. Daily copies are made of what the topic still has: it must not be compacted before a follower has read it.

A job that starts again from a checkpoint publishes everything after it again, up to where it was and further. So what a user's
last snapshot in the topic says is what the store says in the end, however often and from wherever the topic is read.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from uic.codec import Codec, check_crc
from uic.errors import (
    ChecksumMismatch,
    CorruptMemory,
    LayoutMismatch,
    NotAMemory,
    NotFinite,
    TruncatedMemory,
    UnknownFormat,
)
from uic.event import MAX_TEXT_BYTES
from uic.memory import Numbers
from uic.partition import partition_of
from uic.small import Published, check_finite
from uic.store.contract import Position, Shard, Source
from uic.store.lineage import Lineage
from uic.store.writing import Outcome, Span, Version, Writing, version_of

REASONS: dict[type[CorruptMemory], str] = {
    TruncatedMemory: "truncated",
    NotAMemory: "not_a_memory",
    UnknownFormat: "unknown_format",
    LayoutMismatch: "other_layout",
    ChecksumMismatch: "checksum",
    NotFinite: "not_finite",
}
# A part of the header of a blob (uic/codec.py), read fifty thousand times a second: from the generation on.
_VERSION = struct.Struct("<IIQqq")
_VERSION_AT = 24
# Headers of a deletion in Kafka: of one who left, the generation of the job that says so, in decimal; that nothing may stay of
# the user.
GENERATION_HEADER = "generation"
FORGET_HEADER = "forget"


class Snapshot(NamedTuple):
    """One message of the topic. `value` None: this user left, and where `is_forgotten`, nothing may stay of them.

    `generation`: that of the job which says so. None, as jobs of earlier releases left it: it is taken for the one that is
    written now, so that a user who left stays away; only a job that was not ended by its rollback could say so wrongly.
    Memories carry theirs.
    """

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    generation: int | None = None
    is_forgotten: bool = False


class Refusal(NamedTuple):
    """A snapshot that was not applied, since it cannot be right."""

    snapshot: Snapshot
    reason: str
    detail: str


@dataclass
class Applied:
    """What became of some snapshots; the five counts are all of them.

    `written` counts those that took over, also where a later one of the same batch did so again: only that one is stored, and
    where a day lies between them the last one of each day. `fenced` are those of a job whose generation is over.
    `log_times_ms` are those of memories that the store did not have yet.
    """

    written: int = 0
    stale: int = 0
    fenced: int = 0
    deleted: int = 0
    refused: list[Refusal] = field(default_factory=list)
    log_times_ms: list[int] = field(default_factory=list)


class SnapshotStore(Protocol):
    """What is asked of the store underneath."""

    @property
    def numbers(self) -> Numbers: ...

    def read_many(self, users: Sequence[bytes]) -> list[bytes | None]: ...

    def writing(self) -> Writing: ...

    def commit(self, writing: Writing, offsets: Mapping[int, int], *, now_ms: int) -> None: ...


class FollowingStore(SnapshotStore, Protocol):
    """A store, or a part of one, that knows the topic which is applied to it, and how far."""

    shard: Shard | None

    @property
    def span(self) -> Span | None: ...

    @property
    def source(self) -> Source | None: ...

    @property
    def lineage(self) -> Lineage: ...

    def adopt(self, lineage: Lineage) -> None: ...

    def positions(self) -> dict[int, Position]: ...

    def follow(self, source: Source) -> None: ...

    def sweep(self, most: int = 1000) -> bool: ...

    def close(self) -> None: ...


class Applier:
    """Applies batches of snapshots to one store or shard, whose only writer it is; `keep` takes what it refuses."""

    def __init__(
        self,
        store: SnapshotStore,
        codec: Codec,
        *,
        shard: Shard | None = None,
        keep: Callable[[Sequence[Refusal]], None] = lambda _: None,
        remembered: int = 500_000,
    ) -> None:
        self._store = store
        self._codec = codec
        self._published = Published(codec)
        self._is_small = store.numbers != "float32"
        self._shard = shard
        self._keep = keep
        self._versions = _Recent(remembered)

    def apply(self, snapshots: Sequence[Snapshot], *, now_ms: int) -> Applied:
        """Apply snapshots in the order of their partitions, and say in the same atomic write how far that went."""
        applied = Applied()
        latest = self._latest([snapshot.key for snapshot in snapshots if snapshot.key is not None])
        # Looked up after the snapshots were read: whoever publishes in a generation has begun it before.
        writing = self._store.writing()
        writing.prunes = False  # whoever follows sweeps
        writing.know(self._of_earlier_days(latest, writing.begins_ms))
        offsets: dict[int, int] = {}
        for snapshot in snapshots:
            partition, offset, key, blob, generation, is_forgotten = snapshot
            offsets[partition] = offset + 1
            wrong = self._what_is_wrong(partition, key)
            if key is None or wrong is not None:
                applied.refused.append(Refusal(snapshot, *(wrong or _NO_KEY)))
                continue
            old = latest[key]
            if blob is None:
                if is_forgotten:
                    writing.forget(key)
                elif writing.leave(key, generation=generation) is not Outcome.TAKEN:
                    applied.fenced += 1
                    continue
                applied.deleted += 1
                latest[key] = None
                continue
            try:
                new = self.version(blob)
                if self._is_small:
                    check_finite(self._codec.decode(blob), self._codec.layout)
            except CorruptMemory as error:
                applied.refused.append(Refusal(snapshot, REASONS[type(error)], str(error)))
                continue
            outcome = writing.place(key, old, new, blob)
            if outcome is Outcome.TAKEN:
                latest[key] = new
                applied.written += 1
                if new != old:
                    applied.log_times_ms.append(new[2])
            elif outcome is Outcome.COPIED:
                applied.written += 1
            elif outcome is Outcome.STALE:
                applied.stale += 1
            elif outcome is Outcome.FENCED:
                applied.fenced += 1
            else:
                applied.refused.append(Refusal(snapshot, "unknown_generation", _unknown(new[0], writing.lineage)))
        if applied.refused:
            # Before the offsets: what is kept twice is one letter, what the store has passed by does not come again.
            self._keep(applied.refused)
        self._store.commit(writing, offsets, now_ms=now_ms)
        self._versions.update({key: latest[key] for key in writing.latest})
        return applied

    def version(self, blob: bytes) -> Version:
        """The version of a memory that anybody could read; raises what `Codec.decode` does."""
        if not self._codec.has_form(blob):
            self._codec.decode(blob)  # knows what is wrong
        check_crc(blob)
        generation, _, sequence, _, log_time_ms = _VERSION.unpack_from(blob, _VERSION_AT)
        return generation, sequence, log_time_ms

    def _latest(self, keys: Sequence[bytes]) -> dict[bytes, Version | None]:
        """The versions that are stored; None where there is no memory."""
        latest: dict[bytes, Version | None] = {}
        unknown: list[bytes] = []
        for key in dict.fromkeys(keys):
            version = self._versions.get(key)
            latest[key] = version
            if version is None:
                unknown.append(key)
        if unknown:
            for key, blob in zip(unknown, self._store.read_many(unknown), strict=True):
                latest[key] = None if blob is None else self._stored_version(blob)
        return latest

    def _of_earlier_days(self, latest: Mapping[bytes, Version | None], begins_ms: int) -> dict[bytes, bytes | None]:
        """The memories that a first one of the day leaves behind, read all at once."""
        users = [key for key, version in latest.items() if version is not None and version[2] < begins_ms]
        return dict(zip(users, self._store.read_many(users), strict=True)) if users else {}

    def _stored_version(self, blob: bytes) -> Version | None:
        try:
            if self._is_small:
                self._published.check(blob)
                return version_of(blob)
            return self.version(blob)
        except CorruptMemory:
            # Nobody can use it, and the topic has a better one: what comes replaces it.
            return None

    def _what_is_wrong(self, partition: int, key: bytes | None) -> tuple[str, str] | None:
        if key is None:
            return _NO_KEY
        if not 1 <= len(key) <= MAX_TEXT_BYTES:
            return "bad_key", f"key: expected a user of 1 to {MAX_TEXT_BYTES} bytes, got {len(key)}"
        if not key.isascii():
            try:
                key.decode()
            except UnicodeDecodeError:
                return "bad_key", f"key: expected a user in UTF-8, got {key[:40]!r}"
        if self._shard is not None and (right := partition_of(key, self._shard.partitions)) != partition:
            return "wrong_partition", f"partition: readers look for this user in {right} (murmur2), it came in {partition}"
        return None


def _unknown(generation: int, lineage: Lineage) -> str:
    return (
        f"generation: the store is in {lineage.active}, this memory is of {generation}, which has not begun here; "
        "a rollback begins it in every store that follows the topic"
    )


_NO_KEY = ("bad_key", "key: expected a user, got none")


class _Recent:
    """The versions written most recently, at most about `most`: two dictionaries, of which the older is dropped whole."""

    def __init__(self, most: int) -> None:
        self._half = max(1, most // 2)
        self._young: dict[bytes, Version | None] = {}
        self._old: dict[bytes, Version | None] = {}

    def get(self, key: bytes) -> Version | None:
        version = self._young.get(key)
        return self._old.get(key) if version is None else version

    def update(self, versions: dict[bytes, Version | None]) -> None:
        for key in versions:
            self._old.pop(key, None)
        self._young.update(versions)
        if len(self._young) >= self._half:
            self._old = self._young
            self._young = {}
