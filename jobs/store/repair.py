"""A store made equal to its job's state again, while the job and everybody else go on.

After Redis lost writes that it had acknowledged, or everything: from the snapshots topic, whose last snapshot of each user is
what the job last said; or from a canonical savepoint of the running job (`uic checkpoint create`), which has every user, those
of a warm-up too. Whatever comes is offered as any write is, so what is newer in the store stays.

A savepoint tells also who is not there any more. Within a partition log time never runs backwards: a memory in the store that
is older than the newest that the savepoint has of its partition, of a user that the savepoint does not have, is of somebody who
left, and the store has lost the deletion.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from jobs import flink_metadata
from jobs.blobs import BlobForm
from jobs.store.in_savepoint import memories_by_user
from jobs.store.showing import paged, shown
from uic.codec import NO_TIME, Codec, check_crc, read_header
from uic.errors import BadInput, CorruptMemory, StoreError
from uic.memory import Numbers
from uic.partition import partition_of
from uic.store.apply import Applier, FollowingStore, Snapshot, SnapshotStore
from uic.store.contract import WritableStore
from uic.store.writing import Writing

if TYPE_CHECKING:
    from jobs.store.topic import SnapshotsTopic

_WAIT_S = 0.2


@dataclass
class Repaired:
    """What a repair did. `broken`: memories in the store that could not be used."""

    offered: int = 0
    written: int = 0
    left: int = 0
    broken: int = 0
    refused: list[str] = field(default_factory=list)

    def words(self) -> str:
        text = f"{self.offered:,} memories offered, {self.written:,} written, {self.left:,} users who had left removed"
        text += f", {self.broken:,} broken memories removed" if self.broken else ""
        return text + (f", {len(self.refused):,} refused, such as {self.refused[0]}" if self.refused else "")


class _Unmoved:
    """A store to which a topic is applied once more, without a word on how far: its follower knows better."""

    def __init__(self, store: FollowingStore) -> None:
        self._store = store

    @property
    def numbers(self) -> Numbers:
        return self._store.numbers

    def read_many(self, users: Sequence[bytes]) -> list[bytes | None]:
        return self._store.read_many(users)

    def writing(self) -> Writing:
        return self._store.writing()

    def commit(self, writing: Writing, offsets: Mapping[int, int], *, now_ms: int) -> None:
        self._store.commit(writing, {}, now_ms=now_ms)


def from_topic(
    stores: Sequence[FollowingStore], topic: "SnapshotsTopic", codec: Codec, show: Callable[[int], None]
) -> Repaired:
    """Apply the whole topic once more, up to where it ends now."""
    done = Repaired()
    partitions = range(topic.source().partitions)
    reach = topic.reach(partitions)
    unmoved: Sequence[SnapshotStore] = [_Unmoved(store) for store in stores]
    appliers = [Applier(store, codec, shard=of.shard) for store, of in zip(unmoved, stores, strict=True)]
    left = {partition: at.end for partition, at in reach.items() if at.end > at.first}
    topic.start({partition: at.first for partition, at in reach.items() if partition in left})
    while left:
        read = topic.read(_WAIT_S)
        if read.errors:
            raise StoreError(f"topic {topic.name} cannot be read: {read.errors[0].str()}; run the command again")
        for store, applier in zip(stores, appliers, strict=True):
            part = [each for each in read.snapshots if store.shard is None or store.shard.holds(each.partition)]
            if part:
                _check_generations(store, part)
                applied = applier.apply(part, now_ms=0)
                done.offered += len(part)
                done.written += applied.written
                done.left += applied.deleted
                done.refused += [refusal.detail for refusal in applied.refused]
        show(len(read.snapshots))
        for partition, offset in read.ends.items() | {(each.partition, each.offset + 1) for each in read.snapshots}:
            if offset >= left.get(partition, 0):
                left.pop(partition, None)
    return done


def _check_generations(store: FollowingStore, snapshots: Iterable[Snapshot]) -> None:
    """Raise BadInput where the store has lost its generations: what was cut off would count."""
    lineage = store.writing().lineage
    for each in snapshots:
        try:
            generation = 0 if each.value is None else read_header(each.value).generation
        except CorruptMemory:
            continue
        if lineage.active is None and generation > 0:
            raise BadInput(
                f"the topic has memories of generation {generation}, and the store knows none: with them lost, what "
                "a rollback cut off would count. Repair it from a savepoint (--savepoint), which has the job's memories alone, "
                "with --job-dir for the job's rollbacks"
            )


def from_savepoint(store: WritableStore, savepoint: Path, form: BlobForm, *, partitions: int | None) -> Repaired:
    """Offer every memory of a savepoint, and remove who had left when it was taken.

    `partitions` of the events topic; None: events are not in the order of their log times, and nobody can be said to have left.
    """
    done = Repaired()
    there: set[str] = set()
    newest_ms = dict.fromkeys(range(partitions or 1), NO_TIME)
    for page in paged(shown(memories_by_user(savepoint, form), "offered")):
        there.update(user for user, _ in page)
        good = [(user, blob) for user, blob in page if blob is not None]
        done.refused += [f"user {user!r}: not as it was written in {savepoint}" for user, blob in page if blob is None]
        for user, blob in good:
            partition = partition_of(user.encode(), partitions or 1)
            newest_ms[partition] = max(newest_ms[partition], read_header(blob).log_time_ms)
        done.offered += len(good)
        done.written += sum(store.write_many(good))
    if not there:
        raise BadInput(f"{savepoint}: no memory of layout {form.layout} with its user; expected a canonical savepoint")
    if partitions is None:
        return done
    active = store.lineage.active
    for user in list(shown(store.users(), "looked at")):
        if user in there:
            continue
        stored = store.read(user)
        if stored is not None and read_header(stored).log_time_ms < newest_ms[partition_of(user.encode(), partitions)]:
            store.delete(user, generation=active)
            done.left += 1
    return done


def remove_broken(store: WritableStore) -> int:
    """Remove memories whose bytes are not as they were written: what comes then need not be newer. How many there were."""
    count = 0
    for user, latest, copies, _ in shown(store.wholes(), "checked"):
        try:
            for blob in filter(None, (latest, *copies.values())):
                read_header(blob)
                check_crc(blob)
        except CorruptMemory:
            store.forget(user.decode())
            count += 1
    return count


def check_time(savepoint: Path, lost_ms: int | None) -> None:
    """Raise BadInput for a savepoint from before the loss: what came between is in neither."""
    taken_ms = int((savepoint / flink_metadata.FILE).stat().st_mtime * 1000)
    if lost_ms is not None and taken_ms < lost_ms:
        raise BadInput(
            f"{savepoint}: it was taken {(lost_ms - taken_ms) / 1000:,.0f} s before Redis was seen to have lost memories; what "
            "came between would be missing. `uic checkpoint create` takes one now, while the job runs"
        )
