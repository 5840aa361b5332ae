"""Where a follower begins: what its stores know of the job and the topic, against what those are now."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jobs.folder import JobFolder
from jobs.rollback.journal import Folder
from jobs.store.topic import Reach, SnapshotsTopic
from uic.codec import Codec, read_header
from uic.errors import BadInput, CorruptMemory, StoreMismatch
from uic.store.apply import FollowingStore, Snapshot
from uic.store.contract import Source
from uic.store.lineage import Lineage

Say = Callable[[str], None]


def where_to_begin(store: FollowingStore, source: Source, reach: Mapping[int, Reach], say: Say) -> dict[int, int]:
    """The offsets at which a store goes on with a topic. Of one that was made anew or cut off: the beginning, and it is said.

    Raises StoreMismatch where the topic has another number of partitions than the one that was applied.
    """
    known = store.source
    if known is None:
        store.follow(source)
    elif known.partitions != source.partitions:
        raise StoreMismatch(
            f"topic {source.topic} has {source.partitions} partitions, the store follows {known.topic} with "
            f"{known.partitions}: users would be in other partitions than before. Follow it into another folder"
        )
    elif known != source:
        say(
            f"{source.topic} is not the topic that the store has applied ({_words(known)}, now {_words(source)}): it is read "
            "from its beginning; memories that are there stay, unless it has newer ones"
        )
        store.follow(source)
    positions = store.positions()
    offsets = {}
    for partition, (first, end) in reach.items():
        offset = positions[partition].offset if partition in positions else first
        place = f"{source.topic}-{partition}"
        if offset > end:
            say(f"{place} ends at {end}, the store is at {offset}: the topic was cut off; it is read from its beginning")
            offset = first
        elif offset < first:
            say(f"{place} begins at {first}, the store is at {offset}: what was between is gone; it goes on there")
            offset = first
        offsets[partition] = offset
    return offsets


def warn_of_missed_deletions(
    store: FollowingStore, source: Source, reach: Mapping[int, Reach], kept_ms: int, now_ms: int, say: Say
) -> None:
    """Say so where the store was away for longer than Kafka keeps deletions: what it did not read of them may be gone."""
    hour_ms = 3_600_000
    for partition, position in store.positions().items():
        away_ms = now_ms - position.written_ms
        if away_ms > kept_ms and partition in reach and position.offset < reach[partition].end:
            say(
                f"{source.topic}-{partition} was last read {away_ms // hour_ms} h ago, and Kafka keeps deletions for "
                f"{kept_ms // hour_ms} h: users who left since may still be in the store; a new store would not have them"
            )


def generations_of(job_dir: Path) -> Lineage:
    """The generations that a job's rollbacks have begun, as their journals have them."""
    lineage = Lineage()
    for journal in Folder(job_dir).journals():
        if "fence" in journal.done:
            lineage = lineage.begin(journal.plan.generation, journal.plan.cut_ms)
    return lineage


def know_generations(stores: Sequence[FollowingStore], topic: SnapshotsTopic, job_dir: Path, say: Say) -> None:
    """Take over the generations that the stores do not know, of a job that was rolled back before they were made.

    The topic still has what a rollback cut off, of users who have not come since; without the cut, it would count. Raises
    BadInput where a new store is to follow a job of a later generation whose folder is not there.
    """
    known = generations_of(job_dir)
    for store in stores:
        if len(known.cuts) > len(store.lineage.cuts):
            store.adopt(known)
            say(f"after {len(known.cuts)} rollbacks of the job, the store begins in generation {known.active}")
    if all(store.source is not None or store.lineage.cuts for store in stores):
        return
    if job_dir.exists() and JobFolder(job_dir, make=False).record() is not None:
        return
    generation = max(map(_generation, topic.newest(topic.reach(range(topic.source().partitions)))), default=0)
    if generation > 0:
        raise BadInput(
            f"topic {topic.name} has memories of generation {generation}, which a rollback began, and the store is new: what "
            f"was cut off would count in it. Expected the job's folder, which knows the cut, got nothing at {job_dir}: name it "
            "with --job-dir"
        )


def _generation(snapshot: Snapshot) -> int:
    try:
        return snapshot.generation or 0 if snapshot.value is None else read_header(snapshot.value).generation
    except CorruptMemory:
        return 0


def _words(source: Source) -> str:
    return f"{source.topic} {source.topic_id} at cluster {source.cluster_id}"


def check_layouts(newest: Sequence[Snapshot], codec: Codec, topic: str) -> None:
    """Raise StoreMismatch where all memories that were published last are of another layout than the bundle makes."""
    others: set[str] = set()
    for snapshot in newest:
        try:
            layout_id = read_header(snapshot.value or b"").layout_id
        except CorruptMemory:
            continue
        if layout_id == codec.layout.layout_id:
            return
        others.add(f"{layout_id:016x}")
    if others:
        raise StoreMismatch(
            f"topic {topic}: the memories published last are all of layout {', '.join(sorted(others))}, the bundle makes "
            f"{codec.layout.layout_name}. Follow with the bundle that the job uses, or name its topic in kafka.snapshots"
        )
