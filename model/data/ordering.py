"""The order of events: each user's own, fixed once as `position`, and the whole log's by time.

Everything is arrays over rows; no loop goes over users or events.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class OrderedLog:
    """Events sorted by (user, position), with the users as numbers."""

    frame: pd.DataFrame
    users: NDArray[np.object_]
    """The distinct users in text order; the index is the user's code."""
    user_codes: Rows
    starts: Rows
    """Row of each user's first event; one entry more than there are users."""

    @cached_property
    def times(self) -> Rows:
        """`time_ms` by row."""
        return self.frame["time_ms"].to_numpy(dtype=np.int64)

    @cached_property
    def items(self) -> Rows:
        """`item_id` by row."""
        return self.frame["item_id"].to_numpy(dtype=np.int64)

    @cached_property
    def positions(self) -> Rows:
        """`position` by row."""
        return self.frame["position"].to_numpy(dtype=np.int64)

    @cached_property
    def by_time(self) -> Rows:
        """The rows in the order of the whole log: by time, then user and position."""
        return np.argsort(self.times, kind="stable").astype(np.int64)


def without_duplicates(events: pd.DataFrame) -> pd.DataFrame:
    """The first of each (user, time, item, behaviour). The stream drops the others too, so positions agree."""
    repeated = events.duplicated(["user", "time_ms", "item_id", "behaviour"])
    return events[~repeated].reset_index(drop=True)


def order_log(events: pd.DataFrame) -> OrderedLog:
    """Fix each user's order once: by time, and where times are equal by the order in which the rows came.

    >>> log = order_log(pd.DataFrame({"user": ["b", "a", "b"], "item_id": [1, 2, 3], "time_ms": [9, 5, 4]}))
    >>> log.frame[["user", "position", "item_id"]].to_numpy().tolist()
    [['a', 0, 2], ['b', 0, 3], ['b', 1, 1]]
    """
    codes, users = pd.factorize(events["user"].to_numpy(dtype=object), sort=True)
    order = np.lexsort((events["time_ms"].to_numpy(), codes))  # stable: ties keep the order of the rows
    codes = codes[order].astype(np.int64)
    starts = np.searchsorted(codes, np.arange(len(users) + 1)).astype(np.int64)
    frame = events.iloc[order].reset_index(drop=True)
    frame.insert(1, "position", np.arange(len(frame), dtype=np.int64) - starts[codes])
    return OrderedLog(frame=frame, users=np.asarray(users, dtype=object), user_codes=codes, starts=starts)


def codes_of(log: OrderedLog, users: pd.Series) -> Rows:
    """The code of each user, -1 for those without an event."""
    return pd.Index(log.users).get_indexer(pd.Index(users)).astype(np.int64)


def positions_at(log: OrderedLog, user_codes: Rows, times: Rows) -> Rows:
    """How many events each user had strictly before each time: an event of that very moment may be the answer itself."""
    moments = np.unique(log.times)
    span = len(moments) + 1
    keys = log.user_codes * span + np.searchsorted(moments, log.times)
    known = user_codes >= 0
    codes = np.where(known, user_codes, 0)
    before = np.searchsorted(keys, codes * span + np.searchsorted(moments, times)) - log.starts[codes]
    return np.where(known, before, 0).astype(np.int64)
