"""Samples: histories end before their target, negatives were on offer in [t - W, t)."""

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_logs import events, small_logs

from model.data.ordering import OrderedLog, order_log, without_duplicates
from model.data.sampling import Drawn, draw_negatives, event_samples, impression_samples, split_of

windows = st.integers(1, 15)


def drawn_from(log: pd.DataFrame, window: int, *, count: int = 3, seed: int = 0) -> tuple[OrderedLog, Drawn]:
    ordered = order_log(without_duplicates(log))
    enough = np.flatnonzero(ordered.positions >= 1)
    return ordered, draw_negatives(ordered, enough, window_ms=window, count=count, seed=seed)


@given(small_logs, windows)
def test_a_history_holds_neither_the_target_nor_anything_later(log: pd.DataFrame, window: int) -> None:
    ordered, drawn = drawn_from(log, window)
    samples = event_samples(ordered, drawn)
    for sample in samples.itertuples():
        own = ordered.frame[ordered.frame["user"] == sample.user]
        history, rest = own[own["position"] < sample.position], own[own["position"] >= sample.position]
        assert (history["time_ms"] <= sample.time_ms).all()
        assert rest["time_ms"].iloc[0] == sample.time_ms
        assert len(history) == sample.position
        if sample.label == 1:
            assert rest["item_id"].iloc[0] == sample.item_id


def test_earlier_occurrences_of_the_target_item_stay_in_the_history() -> None:
    log = events([("b", 2, 0, "pv", 3), ("a", 1, 0, "pv", 1), ("a", 1, 0, "pv", 5)])
    ordered, drawn = drawn_from(log, 10)
    positive = event_samples(ordered, drawn).query("label == 1").iloc[0]
    history = ordered.frame.query("user == 'a' and position < @positive.position")
    assert (positive.item_id, history["item_id"].tolist()) == (1, [1])


@given(small_logs, windows)
@settings(max_examples=300)
def test_a_negative_is_an_event_of_the_trailing_window_and_never_the_target_item(log: pd.DataFrame, window: int) -> None:
    ordered, drawn = drawn_from(log, window)
    for positive, negatives in zip(drawn.positives, drawn.negatives, strict=True):
        at = ordered.times[positive]
        assert ((ordered.times[negatives] >= at - window) & (ordered.times[negatives] < at)).all()
        assert (ordered.items[negatives] != ordered.items[positive]).all()


@given(small_logs, windows)
def test_a_positive_is_dropped_exactly_where_its_window_holds_no_other_item(log: pd.DataFrame, window: int) -> None:
    ordered, drawn = drawn_from(log, window)
    expected = []
    for row in np.flatnonzero(ordered.positions >= 1):
        at = ordered.times[row]
        offered = ordered.items[(ordered.times >= at - window) & (ordered.times < at)]
        if (offered != ordered.items[row]).any():
            expected.append(row)
    assert drawn.positives.tolist() == expected
    assert drawn.without_negative == (ordered.positions >= 1).sum() - len(expected)


def test_every_event_of_the_window_is_drawn_equally_often() -> None:
    # Before the target (item 1 at 100): 20 events of items 1, 2 and 3, of which the 13 not of item 1 share the draws.
    items = [1, 2, 2, 1, 3, 2, 1, 1, 2, 2, 3, 2, 1, 2, 3, 1, 2, 2, 1, 3]
    log = events(
        [("b", item, 0, "pv", 50 + at) for at, item in enumerate(items)] + [("a", 9, 0, "pv", 1), ("a", 1, 0, "pv", 100)]
    )
    ordered = order_log(log)
    target = np.flatnonzero((ordered.items == 1) & (ordered.times == 100))
    draws = 13_000
    drawn = draw_negatives(ordered, target, window_ms=60, count=draws, seed=0).negatives
    rows, counts = np.unique(drawn, return_counts=True)
    assert len(rows) == 13
    # Binomial: mean 1000, standard deviation 30.4; five of them are one in a million.
    assert np.abs(counts - 1000).max() < 5 * 30.4


def test_negatives_come_from_all_users_the_samples_own_among_them() -> None:
    log = events([("a", 1, 0, "pv", 5), ("b", 3, 0, "pv", 6), ("c", 4, 0, "pv", 6), ("a", 2, 0, "pv", 9)])
    ordered, drawn = drawn_from(log, 10, count=200)
    assert set(ordered.items[drawn.negatives[-1]]) == {1, 3, 4}


@given(small_logs, windows, st.integers(0, 99))
def test_the_same_seed_gives_the_same_samples(log: pd.DataFrame, window: int, seed: int) -> None:
    first, second = (event_samples(*drawn_from(log, window, seed=seed)) for _ in range(2))
    pd.testing.assert_frame_equal(first, second)


def test_another_seed_gives_other_samples() -> None:
    log = events([("a", i, 0, "pv", i) for i in range(200)])
    first, second = (drawn_from(log, 100, seed=seed)[1].negatives for seed in (0, 1))
    assert (first != second).any()


def test_a_negative_brings_its_own_category_and_the_positives_user_position_and_time() -> None:
    log = events([("a", 1, 11, "pv", 1), ("b", 2, 22, "pv", 2), ("a", 3, 33, "pv", 5)])
    ordered, drawn = drawn_from(log, 3, count=1)
    rows = event_samples(ordered, drawn)[["user", "position", "item_id", "category_id", "label", "time_ms"]]
    assert rows.to_numpy().tolist() == [["a", 1, 3, 33, 1, 5], ["a", 1, 2, 22, 0, 5]]


def test_an_impressions_category_is_given_or_looked_up_or_unknown() -> None:
    ordered = order_log(events([("a", 1, -1, "pv", 1), ("a", 1, 11, "pv", 2), ("b", 2, 22, "pv", 3)]))
    shown = pd.DataFrame(
        {
            "user": ["a", "a", "a", "new"],
            "item_id": [1, 2, 99, 1],
            "category_id": [-1, 77, -1, -1],
            "label": np.array([1, 0, 0, 1], dtype=np.int8),
            "time_ms": [2, 2, 9, 9],
        }
    )
    samples = impression_samples(ordered, shown, unknown_category=-1)
    assert samples["category_id"].tolist() == [11, 77, -1, 11]
    assert samples["position"].tolist() == [1, 1, 2, 0]


def test_a_split_begins_with_its_cut() -> None:
    times = np.array([1, 9, 10, 19, 20, 30])
    assert split_of(times, valid_from_ms=10, test_from_ms=20).tolist() == ["train", "train", "valid", "valid", "test", "test"]
