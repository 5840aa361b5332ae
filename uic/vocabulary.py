"""Raw ids of the log to rows of an embedding table.

Row 0 is padding and never trained; row 1 stands for every id that training did not see often enough; row i + 2 belongs to the
i-th id. A vocabulary only ever grows at its end, so that a row keeps its meaning within a lineage of bundles.
"""

from bisect import bisect_left
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from uic.errors import BadInput

PADDING_ROW = 0
UNKNOWN_ROW = 1
FIRST_ROW = 2
# Ids that lie so close together are looked up in a table of all numbers between them.
_MOST_A_KNOWN_ID = 4
Int64 = NDArray[np.int64]


class Vocabulary:
    """Raw ids in row order, with a vectorised lookup.

    >>> Vocabulary(np.array([30, 10])).rows(np.array([10, 30, 99]))
    array([3, 2, 1])
    """

    def __init__(self, ids: Int64) -> None:
        self.ids = np.ascontiguousarray(ids, dtype=np.int64)
        if len(np.unique(self.ids)) != len(self.ids):
            raise BadInput(f"vocabulary: expected distinct ids, got {len(self.ids) - len(np.unique(self.ids))} repeated ones")
        order = np.argsort(self.ids)
        self._sorted = self.ids[order]
        self._rows = order.astype(np.int64) + FIRST_ROW
        self._sorted_view = self._sorted.data
        self._first = self._last = 0
        self._row_of = _table(self._sorted, self._rows)
        if self._row_of is not None:
            self._first, self._last = int(self._sorted[0]), int(self._sorted[-1])

    def __len__(self) -> int:
        """Ids known, without padding and the unknown row."""
        return len(self.ids)

    @property
    def table_rows(self) -> int:
        """Rows of the embedding table that belongs to this vocabulary."""
        return len(self.ids) + FIRST_ROW

    @cached_property
    def raw_by_row(self) -> Int64:
        """Raw id of each row; -1 for padding and unknown."""
        return np.concatenate([np.full(FIRST_ROW, -1, dtype=np.int64), self.ids])

    def rows(self, raw: Int64) -> Int64:
        """Rows of raw ids, any shape; ids not known get UNKNOWN_ROW, never the padding row."""
        if len(self._sorted) == 0:
            return np.full(np.shape(raw), UNKNOWN_ROW, dtype=np.int64)
        if self._row_of is not None:
            found: Int64 = self._row_of[np.clip(raw, self._first - 1, self._last + 1) - (self._first - 1)]
            return found
        places = np.minimum(np.searchsorted(self._sorted, raw), len(self._sorted) - 1)
        return np.where(self._sorted[places] == raw, self._rows[places], UNKNOWN_ROW)

    def row(self, raw: int) -> int:
        """The row of one raw id: what `rows` says, without an array around it."""
        place = bisect_left(self._sorted_view, raw)
        known = place < len(self._sorted) and self._sorted_view[place] == raw
        return int(self._rows[place]) if known else UNKNOWN_ROW

    def extended(self, ids: Int64) -> "Vocabulary":
        """A vocabulary with the ids not yet known appended in ascending order: what training on from a bundle does."""
        new = np.setdiff1d(ids, self.ids)
        return Vocabulary(np.concatenate([self.ids, new]))

    def begins_with(self, other: "Vocabulary") -> bool:
        """Whether every row of `other` means the same here."""
        return len(other) <= len(self) and bool(np.array_equal(self.ids[: len(other)], other.ids))


def _table(ids: Int64, rows: Int64) -> Int64 | None:
    """The row of every number from the one before the first of these sorted ids to the one after the last; None: too many."""
    if len(ids) == 0 or int(ids[-1]) - int(ids[0]) >= _MOST_A_KNOWN_ID * len(ids):
        return None
    if int(ids[0]) == np.iinfo(np.int64).min or int(ids[-1]) == np.iinfo(np.int64).max:
        return None
    table = np.full(int(ids[-1]) - int(ids[0]) + 3, UNKNOWN_ROW, dtype=np.int64)
    table[ids - (int(ids[0]) - 1)] = rows
    return table
