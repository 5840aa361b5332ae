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
    """Draw `count` negatives for each positive, with replacement, uniformly over the window's events of other items.

    Exact, without rejection: the r-th event that is not the target's is found by rank, so a window full of the target
    costs no more than another.
    """
    order = log.by_time
    times = log.times[order]
    item_codes = np.unique(log.items, return_inverse=True)[1].astype(np.int64)
    rank_span = len(order) + 1

    # Each item's events as ranks in the whole log, item after item; keys make one sorted array of all of them.
    ranks = np.lexsort((np.arange(len(order)), item_codes[order])).astype(np.int64)
    owner = item_codes[order][ranks]
    item_starts = np.searchsorted(owner, np.arange(item_codes.max() + 2)).astype(np.int64)
    index_in_item = np.arange(len(order)) - item_starts[owner]
    rank_keys = owner * rank_span + ranks
    # How many events of other items lie before each event: never decreasing within an item.
    other_keys = owner * rank_span + (ranks - index_in_item)

    target = item_codes[positives]
    moment = log.times[positives]
    low = np.searchsorted(times, moment - window_ms, side="left").astype(np.int64)
    high = np.searchsorted(times, moment, side="left").astype(np.int64)
    first = np.searchsorted(rank_keys, target * rank_span + low)
    own = np.searchsorted(rank_keys, target * rank_span + high) - first
    others = high - low - own
    kept = others > 0

    target, low, first, others = target[kept], low[kept], first[kept], others[kept]
    r = np.random.default_rng(seed).integers(0, others[:, None], size=(len(others), count))
    earlier_in_item = (first - item_starts[target])[:, None]
    skipped = np.searchsorted(other_keys, target[:, None] * rank_span + low[:, None] + r - earlier_in_item, side="right")
    negative_ranks = low[:, None] + r + (skipped - first[:, None])
    return Drawn(positives[kept], order[negative_ranks], int((~kept).sum()))


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
