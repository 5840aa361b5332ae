"""Raw ids to embedding rows, quickly: what `Vocabulary.rows` gives, by a table where ids lie close together."""

import numpy as np
from numpy.typing import NDArray

from uic.runtime import Int64
from uic.vocabulary import UNKNOWN_ROW, Vocabulary

# A table of ids with gaps may have so many places for each id: 32 bytes, where a row of the embeddings takes 64 or more.
_PLACES_AN_ID = 8


class Rows:
    """The rows of a vocabulary. Ids that lie far apart are looked up by the vocabulary itself, in ten times the time."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._table: NDArray[np.int32] | None = None
        if len(ids := vocabulary.ids):
            self._lowest, places = ids.min(), int(ids.max()) - int(ids.min()) + 1
            if places <= _PLACES_AN_ID * len(ids):
                # The last place is that of every id outside.
                self._table = np.full(places + 1, UNKNOWN_ROW, dtype=np.int32)
                self._table[ids - self._lowest] = vocabulary.rows(ids)

    def __call__(self, raw: Int64) -> Int64:
        """Rows of raw ids.

        >>> Rows(Vocabulary(np.array([12, 10])))(np.array([10, 11, 12, 13, -(2**63)]))
        array([3, 1, 2, 1, 1])
        """
        if self._table is None:
            return self._vocabulary.rows(raw)
        # What wraps around is large as an unsigned number, like what lies below the lowest id.
        places = np.minimum((raw - self._lowest).view(np.uint64), np.uint64(len(self._table) - 1))
        rows: Int64 = self._table.take(places.view(np.int64)).astype(np.int64)
        return rows
