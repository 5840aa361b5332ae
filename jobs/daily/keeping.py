"""Which daily checkpoints stay: decided from the entries alone, without a file or a clock.

For each of the last `kept` days that have begun, the entry stays that one would go back to it from: the newest good one of that
day or, where its midnight failed, of an earlier one. So a failed midnight never costs a good one. What is not sealed yet stays;
tainted ones stay as evidence for as long as their day is among the kept; pinned ones stay, and the last one does.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import date

from jobs.daily.entry import Entry


def newest_first(entries: Collection[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: (entry.taken_ms, entry.id), reverse=True)


def base(entries: Collection[Entry], day: date) -> Entry | None:
    """The good entry nearest to the begin of `day` among those whose own day is not later; None where there is none."""
    good = [entry for entry in entries if entry.is_good and entry.day <= day]
    return max(good, key=lambda entry: (entry.day, entry.taken_ms, entry.id), default=None)


def usable(entries: Collection[Entry], cut: Mapping[int, int]) -> Entry | None:
    """What stands for the day with this cut: the newest untainted savepoint whose offsets are all at or before it.

    >>> from jobs.daily.entry import example
    >>> early, late = example(id="early", taken_ms=1, offsets={0: 3}), example(id="late", taken_ms=2, offsets={0: 6})
    >>> [found and found.id for found in (usable([early, late], {0: offset}) for offset in (2, 3, 5, 6))]
    [None, 'early', 'early', 'late']
    """
    return next((entry for entry in newest_first(entries) if entry.tainted is None and entry.fits(cut)), None)


def superfluous(entries: Collection[Entry], days: Sequence[date]) -> list[Entry]:
    """What may go, oldest first; `days` are those to keep, all of which have begun, the last of them today."""
    bases = [base(entries, day) for day in days]
    kept = {entry.id for entry in bases if entry is not None}
    for entry in entries:
        is_evidence = entry.tainted is not None and entry.day >= days[0]
        waits = entry.tainted is None and not entry.is_sealed
        if entry.pins or waits or is_evidence:
            kept.add(entry.id)
    ordered = newest_first(entries)
    if not kept and ordered:
        kept.add(next((entry for entry in ordered if entry.tainted is None), ordered[0]).id)
    return [entry for entry in reversed(ordered) if entry.id not in kept]


def missing(entries: Collection[Entry], days: Sequence[date]) -> list[date]:
    """The days that have no untainted entry of their own, sealed or to be sealed, from the day of the first entry on."""
    first = min((entry.day for entry in entries), default=None)
    there = {entry.day for entry in entries if entry.tainted is None}
    return [day for day in days if first is not None and day >= first and day not in there]
