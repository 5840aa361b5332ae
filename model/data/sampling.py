"""Samples: a positive for each event with enough history, and negatives that were on offer at that moment.

A negative is an event of any user in the trailing window [t - W, t), drawn uniformly, so items come with the popularity of
that moment. Only the target item itself is excluded. Drawing from the whole training log instead would let "never seen in
training" alone tell positives from negatives (AUC 0.85 to 0.94 on two logs).
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model.data.ordering import OrderedLog, Rows, codes_of, positions_at


class Drawn(NamedTuple):
    """Positives that found negatives (rows of the log), their negatives [positives, n], and how many found none."""

    positives: Rows
    negatives: Rows
    without_negative: int


def draw_negatives(log: OrderedLog, positives: Rows, *, window_ms: int, count: int, seed: int) -> Drawn:
    """Draw `count` negatives for each positive, with replacement, uniformly over the window's events of other items."""
    order = log.by_time
    kept, ranks = draw_from_window(
        log.times[order],
        log.items[order],
        targets=log.items[positives],
        moments=log.times[positives],
        window_ms=window_ms,
        count=count,
        rng=np.random.default_rng(seed),
    )
    return Drawn(positives[kept], order[ranks], int((~kept).sum()))


def draw_from_window(
    times: Rows, items: Rows, *, targets: Rows, moments: Rows, window_ms: int, count: int, rng: np.random.Generator
) -> tuple[NDArray[np.bool_], Rows]:
    """Of events in the order of time, `count` of [moment - window_ms, moment) that are not of the target item.

    Returns which targets found any, and for those the places of the events. Exact, without rejection: the r-th event that is
    not the target's is found by rank, so a window full of the target costs no more than another.

    >>> rng = np.random.default_rng(0)
    >>> draw_from_window(np.array([1, 2, 3]), np.array([7, 8, 7]), targets=np.array([7, 8]), moments=np.array([3, 2]),
    ...     window_ms=2, count=3, rng=rng)
    (array([ True,  True]), array([[1, 1, 1],
           [0, 0, 0]]))
    """
    distinct, item_codes = np.unique(items, return_inverse=True)
    span = len(times) + 1

    # Each item's events as ranks in the whole log, item after item; keys make one sorted array of all of them.
    ranks = np.lexsort((np.arange(len(times)), item_codes)).astype(np.int64)
    owner = item_codes[ranks].astype(np.int64)
    item_starts = np.searchsorted(owner, np.arange(len(distinct) + 1)).astype(np.int64)
    index_in_item = np.arange(len(times)) - item_starts[owner]
    rank_keys = owner * span + ranks
    # How many events of other items lie before each event: never decreasing within an item.
    other_keys = owner * span + (ranks - index_in_item)

    # A target without an event here gets a code of its own, after all others.
    target = pd.Index(distinct).get_indexer(pd.Index(targets)).astype(np.int64)
    target[target < 0] = len(distinct)
    low = np.searchsorted(times, moments - window_ms, side="left").astype(np.int64)
    high = np.searchsorted(times, moments, side="left").astype(np.int64)
    first = np.searchsorted(rank_keys, target * span + low)
    own = np.searchsorted(rank_keys, target * span + high) - first
    others = high - low - own
    kept = others > 0

    target, low, first, others = target[kept], low[kept], first[kept], others[kept]
    r = rng.integers(0, others[:, None], size=(len(others), count))
    earlier_in_item = (first - item_starts[target])[:, None]
    skipped = np.searchsorted(other_keys, target[:, None] * span + low[:, None] + r - earlier_in_item, side="right")
    return kept, low[:, None] + r + (skipped - first[:, None])


def draw_by_weight(weights: Rows, targets: Rows, rng: np.random.Generator) -> tuple[NDArray[np.bool_], Rows]:
    """Of items 0 .. len(weights) - 1, one for each target, in proportion to its weight and never the target itself.

    Returns which targets found any, and for those the item.

    >>> draw_by_weight(np.array([1, 0, 5]), np.array([2, 2]), np.random.default_rng(0))
    (array([ True,  True]), array([0, 0]))
    """
    ends = np.cumsum(weights)
    others = ends[-1] - weights[targets]
    kept = others > 0
    target = targets[kept]
    r = rng.integers(0, others[kept])
    # The target's own stretch [end - weight, end) is stepped over.
    r += np.where(r >= ends[target] - weights[target], weights[target], 0)
    return kept, np.searchsorted(ends, r, side="right").astype(np.int64)


def event_samples(log: OrderedLog, drawn: Drawn) -> pd.DataFrame:
    """Positives and negatives as sample rows, sorted by (user, position), each positive before its negatives."""
    count = drawn.negatives.shape[1]
    of_positive = np.repeat(drawn.positives, 1 + count)
    candidate = np.column_stack([drawn.positives, drawn.negatives]).ravel()
    label = np.zeros((len(drawn.positives), 1 + count), dtype=np.int8)
    label[:, 0] = 1
    asked, shown = log.frame.iloc[of_positive], log.frame.iloc[candidate]
    return pd.DataFrame(
        {
            "user": asked["user"].to_numpy(),
            "position": asked["position"].to_numpy(),
            "item_id": shown["item_id"].to_numpy(),
            "category_id": shown["category_id"].to_numpy(),
            "label": label.ravel(),
            "time_ms": asked["time_ms"].to_numpy(),
        }
    )


def impression_samples(log: OrderedLog, impressions: pd.DataFrame, *, unknown_category: int) -> pd.DataFrame:
    """Labelled impressions as sample rows; a missing category is looked up among the events of the item."""
    times = impressions["time_ms"].to_numpy(dtype=np.int64)
    samples = impressions.copy()
    samples.insert(1, "position", positions_at(log, codes_of(log, impressions["user"]), times))
    category = samples["category_id"].to_numpy()
    known = log.frame[log.frame["category_id"] != unknown_category].drop_duplicates("item_id")
    of_item = samples["item_id"].map(known.set_index("item_id")["category_id"]).fillna(unknown_category).to_numpy(np.int64)
    samples["category_id"] = np.where(category == unknown_category, of_item, category)
    return samples.sort_values(["user", "position", "time_ms"], kind="stable").reset_index(drop=True)


def split_of(times: Rows, *, valid_from_ms: int, test_from_ms: int) -> NDArray[np.object_]:
    """`train` before the first cut, `valid` from it to the second, `test` from there on."""
    cut = (times >= valid_from_ms).astype(int) + (times >= test_from_ms)
    return np.array(["train", "valid", "test"], dtype=object)[cut]
