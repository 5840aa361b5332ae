"""Generations, days, and which memory of a user a read returns. Nothing here knows a store.

A rollback begins a new generation and cuts off what the earlier ones took in from some midnight on. So of all memories of a
user that were ever written, with (generation, sequence) and the log time t, a read sees those whose generation has begun and
whose t lies before the cut of every later generation; as of a day, those of them with t before that day. It returns the
largest.

Cuts are midnights. So memories of one generation that were taken in within one day are alike to all reads, and of those only
the last can ever be returned: together they are one `Cell`, and a store keeps one memory a cell, for as long as some read
returns it.
"""

import json
from collections.abc import Collection, Iterable
from typing import NamedTuple

from uic.codec import NO_TIME
from uic.errors import BadInput, StoreError

_FORMAT = 1
FOREVER_MS = 1 << 63


class Cut(NamedTuple):
    """A generation that was begun by a rollback: of the earlier ones, what was taken in from `cut_ms` on does not count."""

    generation: int
    cut_ms: int


class Cell(NamedTuple):
    """The memories of a user that are alike to every read. `ends_ms`: the midnight that ends their day.

    NO_TIME stands for memories without a log time: older than any day. The larger cell has the memory that counts.
    """

    generation: int
    ends_ms: int


class Lineage(NamedTuple):
    """The generations of a store. Without cuts, every generation counts, and the larger one replaces.

    >>> lineage = Lineage().begin(1, 5000).begin(2, 3000)
    >>> [lineage.counts_until_ms(generation) for generation in (0, 1)], lineage.active
    ([3000, 3000], 2)
    """

    cuts: tuple[Cut, ...] = ()

    @property
    def active(self) -> int | None:
        """The generation that is written; None as long as none was begun by a rollback."""
        return self.cuts[-1].generation if self.cuts else None

    def counts_until_ms(self, generation: int) -> int:
        """The log time from which on memories of this generation do not count; of one that has not begun, any."""
        if self.cuts and generation > self.cuts[-1].generation:
            return NO_TIME
        return min((cut.cut_ms for cut in self.cuts if cut.generation > generation), default=FOREVER_MS)

    def shows(self, generation: int, log_time_ms: int) -> bool:
        """Whether a memory counts."""
        return log_time_ms < self.counts_until_ms(generation)

    def shows_cell(self, cell: Cell) -> bool:
        """Whether the memories of a cell count; they do or do not all together."""
        until_ms = self.counts_until_ms(cell.generation)
        return cell.ends_ms <= until_ms and until_ms != NO_TIME

    def begin(self, generation: int, cut_ms: int) -> "Lineage":
        """With one generation more; raises BadInput unless it is a later one."""
        if generation < 1 or (self.active is not None and generation <= self.active):
            raise BadInput(
                f"generation: expected one after {self.active or 0}, which the store is in; got {generation}. "
                f"It has begun {', '.join(f'{cut.generation} at {cut.cut_ms}' for cut in self.cuts) or 'none'}"
            )
        return Lineage((*self.cuts, Cut(generation, cut_ms)))

    def to_json(self) -> str:
        return json.dumps({"format": _FORMAT, "cuts": [cut._asdict() for cut in self.cuts]})

    @classmethod
    def from_json(cls, text: str | bytes, place: object) -> "Lineage":
        """Raises StoreError, naming the place it was read from, for what `to_json` has not written."""
        try:
            content = json.loads(text)
            found = content["format"]
            cuts = tuple(Cut(int(cut["generation"]), int(cut["cut_ms"])) for cut in content["cuts"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise StoreError(f"{place}: the store's generations cannot be read: {error!r}") from error
        if found != _FORMAT:
            raise StoreError(f"{place}: this release reads generations of format {_FORMAT}, got {found}")
        return cls(cuts)


def best(cells: Iterable[Cell], lineage: Lineage, before_ms: int | None = None) -> Cell | None:
    """The cell that a read returns the memory of: the latest, or as of a midnight. None: none counts.

    >>> cells = [Cell(0, 1000), Cell(0, 3000), Cell(1, 2000)]
    >>> best(cells, Lineage()), best(cells, Lineage(), 1000), best(cells, Lineage().begin(1, 1000), 1000)
    (Cell(generation=1, ends_ms=2000), Cell(generation=0, ends_ms=1000), Cell(generation=0, ends_ms=1000))
    """
    shown = (cell for cell in cells if lineage.shows_cell(cell) and (before_ms is None or cell.ends_ms <= before_ms))
    return max(shown, default=None)


def needed(cells: Collection[Cell], lineage: Lineage, first_ms: int) -> set[Cell]:
    """The cells that some read returns: the latest, or as of any midnight from `first_ms` on.

    What a later rollback to one of those midnights would show is among them: it is what a read as of it returns now.
    """
    shown = [cell for cell in cells if lineage.shows_cell(cell)] if lineage.cuts else list(cells)
    shown.sort(key=lambda cell: (cell.ends_ms, -cell.generation))
    found = set()
    top: Cell | None = None
    for cell in shown:
        # From one end of a day to the next, every read returns the largest cell up to there.
        if top is not None and cell.ends_ms > first_ms:
            found.add(top)
        if top is None or cell > top:
            top = cell
    if top is not None:
        found.add(top)
    return found
