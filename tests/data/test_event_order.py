"""`position`: fixed once, by time, ties by the order of the rows."""

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st
from toy_logs import events, small_logs

from model.data.ordering import codes_of, order_log, positions_at, without_duplicates


@given(small_logs)
def test_positions_count_up_from_0_for_each_user_and_time_never_runs_backwards(log: pd.DataFrame) -> None:
    ordered = order_log(log)
    assert len(ordered.frame) == len(log)
    for user, own in ordered.frame.groupby("user"):
        assert own["position"].tolist() == list(range(len(own)))
        assert own["time_ms"].is_monotonic_increasing
        assert ordered.frame["user"].iloc[ordered.starts[list(ordered.users).index(user)]] == user


@given(small_logs, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing_but_ties(log: pd.DataFrame, random: object) -> None:
    distinct_times = log.drop_duplicates(["user", "time_ms"]).reset_index(drop=True)
    order = list(range(len(distinct_times)))
    random.shuffle(order)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    shuffled = distinct_times.iloc[order].reset_index(drop=True)
    pd.testing.assert_frame_equal(order_log(shuffled).frame, order_log(distinct_times).frame)


@given(small_logs)
def test_events_of_one_moment_keep_the_order_in_which_they_came(log: pd.DataFrame) -> None:
    numbered = log.assign(row=np.arange(len(log)))
    for _, moment in order_log(numbered).frame.groupby(["user", "time_ms"]):
        assert moment["row"].is_monotonic_increasing


def test_only_the_first_of_an_exact_duplicate_stays() -> None:
    log = events(
        [("a", 1, 5, "pv", 10), ("a", 1, 6, "pv", 10), ("a", 1, 5, "buy", 10), ("a", 1, 5, "pv", 11), ("b", 1, 5, "pv", 10)]
    )
    assert without_duplicates(log).to_numpy().tolist() == log.iloc[[0, 2, 3, 4]].to_numpy().tolist()


@given(small_logs, st.lists(st.tuples(st.sampled_from("abcz"), st.integers(-1, 14)), min_size=1))
def test_an_impression_comes_after_the_events_strictly_before_it(log: pd.DataFrame, asked: list[tuple[str, int]]) -> None:
    ordered = order_log(log)
    users = pd.Series([user for user, _ in asked], dtype=object)
    times = np.array([time for _, time in asked])
    expected = [int(((log["user"] == user) & (log["time_ms"] < time)).sum()) for user, time in asked]
    assert positions_at(ordered, codes_of(ordered, users), times).tolist() == expected
