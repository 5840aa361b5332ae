"""What is done around a midnight: take a savepoint before it, seal it after, let go of what is older than the days kept.

Whether a savepoint stands for a day is decided by offsets: all of them must be at or before the day's cut (jobs/daily/cut.py),
which is known only after midnight. One that turns out to have come too late is filed under the day after, since a savepoint
stands for all days later than itself; the day it was meant for goes without, and is gone back to from the one before it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from jobs import checkpoints
from jobs.daily.catalogue import SAVEPOINT, Catalogue, digests
from jobs.daily.cut import Cut, EventLog, find_cut
from jobs.daily.entry import Entry, id_of
from jobs.daily.job import Job
from jobs.daily.keeping import base, missing, superfluous
from jobs.daily.offsets import source_offsets
from jobs.daily.retention import Retention, check_retention
from uic.clock import Days
from uic.codec import read_header
from uic.errors import BadInput, JobError


class TooLate(JobError):
    """The savepoint has events of the day in it, or of a later one: it cannot stand for the day's begin."""


@dataclass(frozen=True)
class Sealing:
    """What sealing came to: entries that now stand for their day, those filed under a later one, and those that wait."""

    sealed: list[Entry]
    late: list[tuple[date, Entry]]
    waiting: list[Entry]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, kw_only=True)
class Midnights:
    """The daily checkpoints of one job. `kept` days are kept; `margin_ms`: how far clocks may be apart."""

    catalogue: Catalogue
    job: Job
    log: EventLog
    days: Days
    kept: int = 7
    lead_ms: int = 600_000
    margin_ms: int = 60_000
    now_ms: Callable[[], int] = now_ms
    say: Callable[[str], None] = lambda _: None

    def next_day(self) -> date:
        """The next day to begin."""
        return self.days.day_of(self.days.bounds_ms(self.now_ms())[1])

    def kept_days(self) -> list[date]:
        """Those that can be gone back to, oldest first: today is the last."""
        today = self.days.day_of(self.now_ms())
        return [self.days.before(today, count) for count in reversed(range(self.kept))]

    def take(self, day: date | None = None) -> Entry:
        """Take a savepoint for the begin of `day`, by default the next one, and enter it.

        Raises TooLate, and leaves nothing, where the day's cut is known and the savepoint has passed it.
        """
        day = self.next_day() if day is None else day
        if day > self.next_day():
            raise BadInput(f"--day {day}: expected {self.next_day()}, the next day to begin, or an earlier one")
        begins_ms = self.days.begins_ms(day)
        record, on = self.job.record()
        reach = self.log.reach()
        if len(reach) != on.partitions:
            raise JobError(
                f"topic {on.topic}: it had {on.partitions} partitions when the job was submitted, now it has {len(reach)}: "
                "users have changed their partition, and no checkpoint of before can be gone back to"
            )
        with self.catalogue.taking() as folder:
            savepoint = self.job.savepoint(folder).rename(folder / SAVEPOINT)
            taken_ms = self.now_ms()
            offsets = source_offsets(savepoint, on.topic, {partition: each.first for partition, each in reach.items()})
            memories, generation = _look_at(savepoint, Path(record.bundle))
            files = digests(savepoint)
            entry = Entry(
                id=id_of(taken_ms),
                day=day,
                zone=self.days.zone,
                begins_ms=begins_ms,
                topic=on.topic,
                offsets=offsets,
                bundle=record.bundle,
                bundle_version=record.bundle_version,
                lineage=record.lineage,
                layout=record.layout,
                generation=generation,
                memories=memories,
                bytes=sum(file.bytes for file in files.values()),
                files=files,
                taken_ms=taken_ms,
                job_id=on.job_id,
                run=record.run,
            )
            if begins_ms <= self.now_ms():
                entry = self._sealed_at_once(entry)
            return self.catalogue.add(folder, entry)

    def seal(self) -> Sealing:
        """Fill in the cut of every entry whose day has begun; what does not fit its day is filed under the first it fits."""
        sealed, late, waiting = [], [], []
        for entry in reversed(self.catalogue.entries()):
            if entry.is_sealed or entry.tainted is not None:
                continue
            filed = entry
            while filed.begins_ms <= self.now_ms() and not filed.is_sealed:
                cut = self._find_cut(filed)
                if cut is None:
                    break
                filed = _with(filed, cut) if self._stands(filed, cut) else self._for_the_next_day(filed)
            if filed == entry:
                waiting += [entry] if entry.begins_ms <= self.now_ms() else []
                continue
            filed = self.catalogue.change(entry, lambda now, to=filed: _filed(now, to))  # type: ignore[misc]  # to: bound now
            if filed.day != entry.day:
                late.append((entry.day, filed))
            if filed.is_sealed:
                sealed.append(filed)
        return Sealing(sealed, late, waiting)

    def prune(self) -> list[Entry]:
        """Remove what is older than the days kept, or superseded; returns what was removed."""
        gone = superfluous(self.catalogue.entries(), self.kept_days())
        for entry in gone:
            self.catalogue.remove(entry)
        return gone

    def missing(self) -> list[date]:
        """Kept days for which there is no checkpoint of their own."""
        return missing(self.catalogue.entries(), self.kept_days())

    def check_log(self) -> Retention:
        """Whether the broker still holds what the kept days need, and will. A pin keeps a savepoint, not the log behind it."""
        entries = self.catalogue.entries()
        needed = {entry.id for day in self.kept_days() if (entry := base(entries, day)) is not None}
        needed |= {entry.id for entry in entries if not entry.is_sealed}
        return check_retention(
            [entry for entry in entries if entry.id in needed],
            self.log.reach(),
            self.log.kept_ms(),
            kept_days=self.kept,
            lead_ms=self.lead_ms,
        )

    def _sealed_at_once(self, entry: Entry) -> Entry:
        cut = self._find_cut(entry)
        if cut is None:
            return entry
        if not self._stands(entry, cut):
            ahead = sum(max(0, offset - cut.offsets[each]) for each, offset in entry.offsets.items())
            how = f"has read {ahead:,} events past" if ahead else "may have read events past"
            raise TooLate(
                f"{entry.day}: the job {how} the begin of this day ({entry.zone}), so no savepoint taken now can stand for it; "
                f"`uic checkpoint create` takes one for {self.next_day()}"
            )
        return _with(entry, cut)

    def _find_cut(self, entry: Entry) -> Cut | None:
        return find_cut(self.log, entry.begins_ms, now_ms=self.now_ms(), margin_ms=self.margin_ms)

    def _stands(self, entry: Entry, cut: Cut) -> bool:
        if not entry.fits(cut.offsets):
            return False
        # Where the true cut may be before what is left of the log, only a clock can say that nothing of the day was read.
        return not cut.at_front or entry.taken_ms + self.margin_ms <= entry.begins_ms

    def _for_the_next_day(self, entry: Entry) -> Entry:
        begins_ms = self.days.bounds_ms(entry.begins_ms)[1]
        return replace(entry, day=self.days.day_of(begins_ms), begins_ms=begins_ms, zone=self.days.zone)


def _with(entry: Entry, cut: Cut) -> Entry:
    return replace(entry, cut=dict(cut.offsets), cut_by_clock=cut.by_clock)


def _filed(now: Entry, to: Entry) -> Entry:
    """The entry as it is now, with the day and the cut that were found for it."""
    return replace(now, day=to.day, begins_ms=to.begins_ms, zone=to.zone, cut=to.cut, cut_by_clock=to.cut_by_clock)


def _look_at(savepoint: Path, bundle: Path) -> tuple[int, int]:
    """How many memories there are and their largest generation; raises JobError unless each is as it was written."""
    form = checkpoints.form_of(bundle)
    found = checkpoints.inspect(savepoint, form)
    if not found.is_intact:
        raise JobError(f"{savepoint}: not entered, since it is damaged: {found.why()}")
    whole = () if form is None else checkpoints.memories_of(savepoint, form)
    return found.memories, max((read_header(memory).generation for memory in whole), default=0)
