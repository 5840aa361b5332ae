"""Where a follower begins: what its stores know of the topic, against what the topic is now."""

from collections.abc import Callable, Mapping, Sequence

from jobs.store.topic import Reach
from uic.codec import Codec, read_header
from uic.errors import CorruptMemory, StoreMismatch
from uic.store.apply import FollowingStore, Snapshot
from uic.store.contract import Source

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
