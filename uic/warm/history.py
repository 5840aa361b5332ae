"""Recorded events of many users, column by column, in the order in which warm-up applies them.

History has no log that took it in at a time of its own: an event's log time is its own time. So the log order of one user is
the order of time, and where times are equal, the order in which the events were recorded. No event of a history is ever late.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
NO_ID = -1


class History(NamedTuple):
    """E events of U users, sorted by (user, time); the events of user u are those from `starts_U[u]` on.

    Behaviours and event ids are codes, places in the lists of names; `ids_E` is NO_ID where an event has none. `places_E` is
    where each event stood before sorting.
    """

    users: list[str]
    starts_U: Int64
    times_E: Int64
    items_E: Int64
    categories_E: Int64
    behaviours_E: Int64
    ids_E: Int64
    places_E: Int64
    behaviours: list[str]
    event_ids: list[str]

    @property
    def counts_U(self) -> Int64:
        """How many events each user has; nobody has none."""
        return np.diff(self.starts_U, append=len(self.times_E))

    @property
    def user_E(self) -> Int64:
        """Whose each event is, by the place in `users`."""
        return np.repeat(np.arange(len(self.users)), self.counts_U)


def in_order(
    *,
    users: list[str],
    behaviours: list[str],
    event_ids: list[str],
    user_E: Int64,
    times_E: Int64,
    items_E: Int64,
    categories_E: Int64,
    behaviours_E: Int64,
    ids_E: Int64,
) -> History:
    """The history of events as they were recorded; each of `users` has one at least."""
    order = _order(user_E, times_E)
    counts_U = np.bincount(user_E, minlength=len(users))
    assert counts_U.all()
    return History(
        users,
        np.cumsum(counts_U) - counts_U,
        times_E[order],
        items_E[order],
        categories_E[order],
        behaviours_E[order],
        ids_E[order],
        order,
        behaviours,
        event_ids,
    )


def _order(user_E: Int64, times_E: Int64) -> Int64:
    if len(times_E) == 0:
        return np.empty(0, dtype=np.int64)
    if (np.diff(times_E) >= 0).all():
        return _by_user(user_E)
    first = int(times_E.min())
    bits = int(int(times_E.max()) - first).bit_length()
    if bits + int(user_E.max()).bit_length() >= 63:
        by_both: Int64 = np.lexsort((times_E, user_E))
        return by_both
    # One number to sort by takes half the time of two.
    by_one: Int64 = np.argsort((user_E << bits) | (times_E - first), kind="stable")
    return by_one


def _by_user(user_E: Int64) -> Int64:
    """By user what is in the order of time: numbers of 16 bits are sorted by counting, hence 16 bits at a time."""
    order: Int64 = np.argsort((user_E & 0xFFFF).astype(np.uint16), kind="stable")
    for shift in range(16, int(user_E.max()).bit_length(), 16):
        order = order[np.argsort((user_E[order] >> shift & 0xFFFF).astype(np.uint16), kind="stable")]
    return order
