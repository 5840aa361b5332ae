"""What a write does to what a store has of its user: decided here alone, for every store and both ways to write.

Of one user a store has the latest memory, and behind it the daily copies: one for each day whose last memory some read may
still return (uic/store/lineage.py). They are made by log time and only when needed: the first memory of a later day leaves the
last one of an earlier day behind, in the same atomic write. Within one day a write costs what it always did.

Of two memories of a user the one counts that

    has the larger generation, or in one generation
    has the larger or the same sequence, or
    was taken in by the log later.

The last is for a user who left and came back: the new life begins at sequence 1. In one life both numbers only grow.
A memory that comes late, after one that replaced it, still becomes the copy of its day where that has none or an older one.
"""

import enum
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from uic.clock import Days
from uic.codec import NO_TIME, read_header
from uic.errors import CorruptMemory
from uic.store.lineage import FOREVER_MS, Cell, Lineage, best, needed

# What is compared of a memory: generation, sequence, log time in ms. A plain tuple of numbers is let go of by Python's garbage
# collector; half a million objects of any other kind would be looked through again and again.
Version = tuple[int, int, int]
# In the place of a copy: the user had left by the end of that day.
LEFT = b""


def takes_over(old: Version, new: Version) -> bool:
    """Whether the memory of a user is replaced by this one.

    >>> takes_over((0, 8, 100), (0, 7, 90)), takes_over((0, 8, 100), (0, 1, 5000))
    (False, True)
    """
    if new[0] != old[0]:
        return new[0] > old[0]
    return new[1] >= old[1] or new[2] > old[2]


def version_of(blob: bytes) -> Version:
    """The version of a memory, from its header; raises what `read_header` does."""
    header = read_header(blob)
    return header.generation, header.sequence, header.log_time_ms


class Outcome(enum.Enum):
    """What became of a write. Only the first two change anything."""

    TAKEN = "it is the user's latest memory"
    COPIED = "a later one is the latest; it is the copy of its day"
    STALE = "the store has a later one"
    FENCED = "its generation was cut off before it was taken in"
    UNKNOWN = "its generation has not begun"


class Span(NamedTuple):
    """The midnights that a store can be read as of: the first, and the last, at which its newest day began."""

    first_ms: int
    last_ms: int


class Whole(NamedTuple):
    """All that is stored of a user: latest memory, daily copies (empty: had left by then), memories kept by sequence."""

    user: bytes
    latest: bytes | None
    copies: Mapping[Cell, bytes]
    kept: Mapping[int, bytes]


class Shelves(Protocol):
    """What is stored of each user, whether any read returns it or not."""

    def latest(self, user: bytes) -> bytes | None: ...

    def copies(self, user: bytes) -> dict[Cell, bytes]: ...


class Retention:
    """Which days a store keeps: the newest `kept` of a zone, in log time.

    `is_whole`: whether the store has had daily copies from its first memory on. If not, the first kept is the next to come.
    """

    def __init__(self, days: Days, kept: int, *, is_whole: bool = True) -> None:
        self.days = days
        self.kept = kept
        self.is_whole = is_whole

    def cell(self, version: Version) -> Cell:
        generation, _, log_time_ms = version
        ends_ms = NO_TIME if log_time_ms == NO_TIME else self.days.bounds_ms(log_time_ms)[1]
        return Cell(generation, min(ends_ms, FOREVER_MS - 1))  # it fits 8 bytes

    def advanced(self, span: Span | None, log_time_ms: int) -> Span:
        """The span when a memory of a later day comes. What was given up does not come back, so its beginning never does."""
        begins_ms, ends_ms = self.days.bounds_ms(log_time_ms)
        first_ms = self.days.begins_ms(self.days.before(self.days.day_of(log_time_ms), self.kept - 1))
        if span is None:
            return Span(first_ms if self.is_whole else ends_ms, begins_ms)
        return Span(max(first_ms, span.first_ms), begins_ms)


class Writing:
    """Writes that are decided one after the other, to be made at once: the store's `commit` does that.

    latest      the latest memories to put; None: to remove
    copies      the same for the daily copies
    forgotten   users of whom nothing may stay, before anything is put
    span        the midnights to read as of, afterwards
    prunes      whether a user's first memory of a day removes the copies that no read returns any more; if not, somebody calls
                the store's `sweep` once a day: to know which there are costs several times what the write does
    """

    def __init__(self, shelves: Shelves, lineage: Lineage, retention: Retention, span: Span | None) -> None:
        self.latest: dict[bytes, bytes | None] = {}
        self.copies: dict[bytes, dict[Cell, bytes | None]] = {}
        self.forgotten: set[bytes] = set()
        self.span = span
        self.prunes = True
        self._shelves = shelves
        self._stored: dict[bytes, bytes | None] = {}
        self._stored_copies: dict[bytes, dict[Cell, bytes]] = {}
        self.lineage = lineage
        self._retention = retention
        # The common case is told by comparing numbers: the generation that is written, and the newest day.
        self._lowest, self._highest = (0, FOREVER_MS) if lineage.active is None else (lineage.active, lineage.active)
        self._begins_ms = self._ends_ms = NO_TIME
        if span is not None:
            self._begins_ms, self._ends_ms = retention.days.bounds_ms(span.last_ms)

    @property
    def begins_ms(self) -> int:
        """Where the newest day of the store begins; NO_TIME before there is one."""
        return self._begins_ms

    def know(self, stored: Mapping[bytes, bytes | None]) -> None:
        """Latest memories as stored, read by the caller for many users at once, so that they are not read one by one here."""
        self._stored |= stored

    def place(self, user: bytes, old: Version | None, new: Version, blob: bytes) -> Outcome:
        """Decide on a memory; `old` is the version of the user's latest, None where there is none that can be used."""
        if self._lowest <= new[0] <= self._highest and self._begins_ms <= new[2] < self._ends_ms:
            if old is None or self._begins_ms <= old[2]:
                if old is not None and not takes_over(old, new):
                    return Outcome.STALE
                self.latest[user] = blob
                return Outcome.TAKEN
            if not self.prunes and old[0] == new[0] and old[2] != NO_TIME:
                # The first of a day, taking over by its log time. Of its own cell the latest is the last memory there was, so
                # whether there is a copy need not be looked up.
                stored = self.latest_of(user)
                assert stored is not None
                self._put(user, self._retention.cell(old), stored)
                self.latest[user] = blob
                return Outcome.TAKEN
        return self._place(user, old, new, blob)

    def _place(self, user: bytes, old: Version | None, new: Version, blob: bytes) -> Outcome:
        lineage, retention = self.lineage, self._retention
        if not lineage.shows(new[0], new[2]):
            is_unknown = lineage.active is not None and new[0] > lineage.active
            return Outcome.UNKNOWN if is_unknown else Outcome.FENCED
        if new[2] >= self._ends_ms and new[2] != NO_TIME:
            self._advance(new[2])
        cell = retention.cell(new)
        if old is None:
            return self._begin_life(user, new, cell, blob)
        old_cell = retention.cell(old)
        if not takes_over(old, new):
            return self._place_behind(user, old_cell, new, cell, blob)
        if cell != old_cell:
            copies = self.copies_of(user)
            if old_cell.ends_ms < cell.ends_ms:
                if lineage.shows_cell(old_cell):
                    self._leave_behind(user, old, old_cell, copies)
            elif old_cell.generation == cell.generation:
                # The log's clock ran backwards. This memory has seen what those have, and is the later one.
                self._remove(user, [each for each in copies if each.generation == cell.generation and each >= cell])
        self.latest[user] = blob
        if cell != old_cell:
            self.prune(user, cell)
        return Outcome.TAKEN

    def _begin_life(self, user: bytes, new: Version, cell: Cell, blob: bytes) -> Outcome:
        """A memory of a user who has no latest one: a new user, or one who left and may be back, or is so by a rollback."""
        copies = self.copies_of(user)
        top = best(copies, self.lineage)
        if top is not None and copies[top] != LEFT:
            # They left after the cut. What they have from before it is as good as a latest memory.
            if top > cell or (top == cell and not takes_over(version_of(copies[top]), new)):
                return self._place_behind(user, None, new, cell, blob)
        else:
            # Whoever has a memory has not left, also where the log's clock says that they left later.
            self._remove(user, [each for each, value in copies.items() if value == LEFT and each > cell])
        self.latest[user] = blob
        return Outcome.TAKEN

    def _place_behind(self, user: bytes, latest_cell: Cell | None, new: Version, cell: Cell, blob: bytes) -> Outcome:
        """A memory that the latest does not yield to may still be the one that reads as of an earlier day should find."""
        if cell == latest_cell:
            return Outcome.STALE
        copies = self.copies_of(user)
        cells = set(copies) if latest_cell is None else {*copies, latest_cell}
        there = best(cells, self.lineage, cell.ends_ms)
        if there is not None and there > cell:
            return Outcome.STALE
        if there == cell and not (copies[cell] != LEFT and takes_over(version_of(copies[cell]), new)):
            return Outcome.STALE
        if cell not in needed({*cells, cell}, self.lineage, self._first_ms()):
            return Outcome.STALE
        self._put(user, cell, blob)
        self.prune(user, latest_cell)
        return Outcome.COPIED

    def leave(self, user: bytes, *, generation: int | None = None) -> Outcome:
        """The user has left: there is no latest memory any more. Reads as of the days before today still find what there was.

        `generation` is that of the job which says so. None: it is taken for the one that is written, whoever says it.
        """
        active = self.lineage.active
        if generation is not None and active is not None and generation != active:
            return Outcome.FENCED if generation < active else Outcome.UNKNOWN
        stored = self.latest_of(user)
        copies = self.copies_of(user)
        if stored is None and not copies:
            return Outcome.TAKEN
        old = usable_version(stored)
        if self.span is not None:
            if old is not None:
                cell = self._retention.cell(old)
                if cell.ends_ms <= self.span.last_ms and self.lineage.shows_cell(cell):
                    self._leave_behind(user, old, cell, copies)
            copies = self.copies_of(user)
            if copies:
                here = active if active is not None else max(each.generation for each in copies)
                self._put(user, Cell(here, self._ends_ms), LEFT)
        self.latest[user] = None
        self.prune(user, None)
        return Outcome.TAKEN

    def forget(self, user: bytes) -> None:
        """Nothing stays of the user: neither the latest memory nor any copy."""
        self.latest[user] = None
        self._remove(user, list(self.copies_of(user)))
        self.forgotten.add(user)

    def prune(self, user: bytes, latest_cell: Cell | None) -> None:
        """Remove the copies that no read returns."""
        copies = self.copies_of(user)
        if not copies:
            return
        cells = set(copies) if latest_cell is None else {*copies, latest_cell}
        keep = needed(cells, self.lineage, self._first_ms())
        # That a user had left need not be said where nothing is to be seen of them before.
        for cell in sorted(keep - {latest_cell}):
            if copies[cell] == LEFT and not _matters(cell, keep, self.lineage):
                keep.discard(cell)
        self._remove(user, [each for each in copies if each not in keep or each == latest_cell])

    def copies_of(self, user: bytes) -> dict[Cell, bytes]:
        """The copies as they will be."""
        if user in self.forgotten:
            copies: dict[Cell, bytes] = {}
        else:
            if user not in self._stored_copies:
                self._stored_copies[user] = self._shelves.copies(user)
            copies = dict(self._stored_copies[user])
        for cell, value in self.copies.get(user, {}).items():
            if value is None:
                copies.pop(cell, None)
            else:
                copies[cell] = value
        return copies

    def latest_of(self, user: bytes) -> bytes | None:
        """The latest memory as it will be."""
        if user in self.latest:
            return self.latest[user]
        return self._stored[user] if user in self._stored else self._shelves.latest(user)

    def _leave_behind(self, user: bytes, old: Version, cell: Cell, copies: dict[Cell, bytes]) -> None:
        there = copies.get(cell, LEFT)
        if there == LEFT or takes_over(version_of(there), old):
            blob = self.latest_of(user)
            assert blob is not None
            self._put(user, cell, blob)

    def _put(self, user: bytes, cell: Cell, value: bytes) -> None:
        self.copies.setdefault(user, {})[cell] = value

    def _remove(self, user: bytes, cells: list[Cell]) -> None:
        if cells:
            self.copies.setdefault(user, {}).update(dict.fromkeys(cells))

    def _advance(self, log_time_ms: int) -> None:
        self.span = self._retention.advanced(self.span, log_time_ms)
        self._begins_ms, self._ends_ms = self._retention.days.bounds_ms(log_time_ms)

    def _first_ms(self) -> int:
        return NO_TIME if self.span is None else self.span.first_ms


def usable_version(blob: bytes | None) -> Version | None:
    """The version of a memory, None where there is none that can be read."""
    try:
        return None if blob is None else version_of(blob)
    except CorruptMemory:
        return None


def _matters(left: Cell, cells: set[Cell], lineage: Lineage) -> bool:
    """Whether a read that finds the user gone at this cell would find a memory without it."""
    others = cells - {left}
    midnights_ms = {left.ends_ms, *(cell.ends_ms for cell in others if cell.ends_ms > left.ends_ms)}
    return any(best(cells, lineage, each) == left and best(others, lineage, each) is not None for each in midnights_ms)
