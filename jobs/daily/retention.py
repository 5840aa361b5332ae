"""Does the broker still hold what a daily checkpoint needs? Asked every day, so that nobody learns it from a rollback.

Going back to a checkpoint means reading on from its offsets. Events that the broker has removed since are gone, and so is the
day; a topic that ends before those offsets is another one of the same name.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from jobs.daily.cut import Reach
from jobs.daily.entry import Entry

DAY_MS = 86_400_000


class Retention(NamedTuple):
    """`lost`: the entries from which no job could read on; `problems`: what to mend, in words, those to come too."""

    lost: list[Entry]
    problems: list[str]


def check_retention(
    entries: Collection[Entry], reach: Mapping[int, Reach], kept_ms: int | None, *, kept_days: int, lead_ms: int
) -> Retention:
    """What the broker's log (`reach`, and `kept_ms`: for how long it keeps events) means for these entries."""
    lost, problems = [], []
    for entry in sorted((each for each in entries if each.tainted is None), key=lambda each: each.taken_ms):
        why = _why_lost(entry, reach)
        if why is not None:
            lost.append(entry)
            problems.append(f"daily checkpoint {entry.day} ({entry.id}) cannot be gone back to: {why}")
    # The oldest kept day's checkpoint is taken a lead time before it, and goes when the day after the last one has begun.
    needed_ms = (kept_days + 1) * DAY_MS + lead_ms
    if kept_ms is not None and kept_ms < needed_ms:
        problems.append(
            f"the topic keeps events for {kept_ms / DAY_MS:.1f} days, going back {kept_days} days needs "
            f"{needed_ms / DAY_MS:.1f}: kafka-configs --alter --entity-type topics --entity-name TOPIC "
            f"--add-config retention.ms={needed_ms}"
        )
    return Retention(lost, problems)


def _why_lost(entry: Entry, reach: Mapping[int, Reach]) -> str | None:
    for partition, offset in sorted(entry.offsets.items()):
        if partition not in reach:
            return f"topic {entry.topic} has no partition {partition} any more"
        first, end = reach[partition]
        if first > offset:
            return (
                f"the broker has removed {first - offset:,} events of partition {partition} that came after it (it holds "
                f"offsets from {first} on, {offset} is needed)"
            )
        if end < offset:
            return f"partition {partition} of {entry.topic} ends at {end}, before its offset {offset}: the topic was made anew"
    return None
