"""A synthetic `UserBehavior.csv` of any length, in the format of Taobao's: made in stretches of users, never whole in memory.

Like the true file: users one after another, a user's events in order of time over the nine days, items and categories of which
few are popular, nine of ten behaviours clicks, histories of a hundred events on average and a thousand at most.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
from numpy.typing import NDArray

from model.data.taobao import BEHAVIOURS, END_MS, FIRST_MS

ITEMS, CATEGORIES = 4_162_024, 9_439  # of Table 1, where a user has 101 events
_SHARES = (0.895, 0.055, 0.03, 0.02)  # of BEHAVIOURS
_LOG_LENGTH, _SPREAD, _LONGEST = 4.3, 0.85, 1_000
_USERS_AT_ONCE = 10_000


def write_log(path: Path, lines: int, *, seed: int = 1) -> int:
    """Write so many lines; returns how many bytes they take as columns in memory, were they all there at once."""
    decoded_bytes, left = 0, lines
    with path.open("wb") as file:
        for table in _stretches(seed):
            part = table.slice(0, left)
            csv.write_csv(part, file, csv.WriteOptions(include_header=False, quoting_style="none"))
            decoded_bytes += int(part.nbytes)
            left -= len(part)
            if not left:
                return decoded_bytes
    raise AssertionError("stretches of users never end")


def _stretches(seed: int) -> Iterator[Any]:  # Any: pyarrow ships no types
    rng = np.random.default_rng(seed)
    item_odds, category_odds = _zipf(ITEMS), _zipf(CATEGORIES)
    item_of_rank = rng.permutation(ITEMS)
    category_of_item = np.searchsorted(category_odds, rng.random(ITEMS)).astype(np.int64)
    first_user = 1
    while True:
        length = rng.lognormal(_LOG_LENGTH, _SPREAD, size=_USERS_AT_ONCE).astype(np.int64).clip(1, _LONGEST)
        user = np.repeat(np.arange(first_user, first_user + _USERS_AT_ONCE), length)
        item = item_of_rank[np.searchsorted(item_odds, rng.random(len(user)))]
        seconds = rng.integers(FIRST_MS // 1000, END_MS // 1000, size=len(user))
        behaviour = rng.choice(len(BEHAVIOURS), p=_SHARES, size=len(user)).astype(np.int8)
        in_order = np.lexsort((seconds, user))
        yield pa.table(
            {
                "user": pa.array(user).cast(pa.string()),
                "item": item,
                "category": category_of_item[item],
                "behaviour": pa.DictionaryArray.from_arrays(behaviour, list(BEHAVIOURS)).cast(pa.string()),
                "seconds": seconds[in_order],
            }
        )
        first_user += _USERS_AT_ONCE


def _zipf(count: int) -> NDArray[np.float64]:
    """The share of the most popular, of the two most popular, and so on: the k-th has a share in proportion to 1/k."""
    shares: NDArray[np.float64] = np.cumsum(1 / np.arange(1, count + 1))
    shares /= shares[-1]
    return shares
