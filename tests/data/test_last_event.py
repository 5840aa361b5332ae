"""The paper's protocol: laws of histories, samples, parts and negatives, against a plain reading of the log."""

import re
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, reject
from hypothesis import settings as tried
from hypothesis import strategies as st
from paper_logs import prepared, random_log, settings

from model.data.last_event_stats import UNBORN
from model.data.leak import POPULARITY, UNSEEN
from uic.errors import BadInput
from uic.vocabulary import FIRST_ROW, UNKNOWN_ROW

# A dataset takes a third of a second, most of it DuckDB's file.
few = tried(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
seeds = st.integers(0, 10_000)


def told(log: pd.DataFrame, **changes: object) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, object]]:
    """Events, samples and stats of a dataset made of this log.

    A log of few users may be refused, rightly: a part may stay empty, and a leak is seen where there is only chance.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            dataset = prepared(Path(folder) / "d", log, settings(**changes))
        except BadInput as error:
            if re.match("leak check|split: expected users in every part", str(error)):
                reject()
            raise
        return dataset.events(), dataset.samples(), dataset.stats


def own_events(log: pd.DataFrame, user: str) -> pd.DataFrame:
    """What a user did, in order, each event once: the plain reading."""
    own = log[log["user_id"] == user].sort_values("time_ms", kind="stable")
    return own.drop_duplicates(["time_ms", "item_id", "behaviour"])


@given(seeds, st.sampled_from([1, 3, None]), st.sampled_from([1, 2]), st.sampled_from(["user", "time"]))
@few
def test_a_history_is_what_came_before_the_last_event_and_the_candidate_is_not_in_it(
    seed: int, length: int | None, samples_per_user: int, split: str
) -> None:
    log = random_log(seed)
    events, samples, _ = told(log, length=length, samples_per_user=samples_per_user, split=split)
    for user, asked in samples.groupby("user"):
        own = own_events(log, str(user))
        before, last = own.iloc[:-1], own.iloc[-1]
        kept = before if length is None else before.iloc[-length:]
        stored = events[events["user"] == user]
        assert stored["position"].tolist() == list(range(len(kept) + 1))
        assert stored["item_id"].tolist() == [*kept["item_id"], last["item_id"]]
        assert stored["time_ms"].tolist() == [*kept["time_ms"], last["time_ms"]]
        assert set(asked["position"]) == {len(kept)}
        assert set(asked["time_ms"]) == {last["time_ms"]}
        assert (asked["item_id"] == last["item_id"]).tolist() == asked["label"].astype(bool).tolist()


@given(seeds, st.sampled_from([1, 2]), st.sampled_from(["user", "time"]))
@few
def test_nobody_is_in_two_parts_and_a_pair_stays_together(seed: int, samples_per_user: int, split: str) -> None:
    _, samples, stats = told(random_log(seed), samples_per_user=samples_per_user, split=split)
    by_user = samples.groupby("user")
    assert (by_user["split"].nunique() == 1).all()
    assert (by_user.size() == samples_per_user).all()
    if samples_per_user == 2:
        assert samples["label"].tolist() == [1, 0] * len(by_user)
    if split == "time":
        spans = samples.groupby("split")["time_ms"].agg(["min", "max"])
        times = stats["times"]
        assert isinstance(times, dict)
        assert spans.loc["train", "max"] < times["valid_from_ms"] <= spans.loc["valid", "min"]
        assert spans.loc["valid", "max"] < times["test_from_ms"] <= spans.loc["test", "min"]


@given(seeds, st.sampled_from([2000, 15_000]))
@few
def test_a_windows_negative_was_an_event_of_anybody_in_that_window(seed: int, window_ms: int) -> None:
    log = random_log(seed, rows=600)
    _, samples, stats = told(log, window_ms=window_ms)
    for sample in samples[samples["label"] == 0].itertuples():
        offered = log[(log["time_ms"] >= sample.time_ms - window_ms) & (log["time_ms"] < sample.time_ms)]
        assert (offered["item_id"] == sample.item_id).any()
    alone = 0
    for user in log["user_id"].unique():
        own = own_events(log, user)
        at = own["time_ms"].iloc[-1]
        offered = log[(log["time_ms"] >= at - window_ms) & (log["time_ms"] < at)]
        alone += len(own) > 1 and not (offered["item_id"] != own["item_id"].iloc[-1]).any()
    left_out = stats["left_out"]
    assert isinstance(left_out, dict)
    assert left_out["without_negative"] == alone


def test_negatives_of_the_whole_log_are_as_frequent_as_their_events_and_uniform_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    users = 4000
    log = pd.DataFrame(
        {
            "user_id": np.repeat([f"u{user}" for user in range(users)], 2),
            "item_id": rng.choice(4, p=[0.7, 0.2, 0.05, 0.05], size=2 * users),
            "category_id": 0,
            "behaviour": "pv",
            "time_ms": np.tile([1000, 2000], users),
        }
    )
    for uniform in (False, True):
        _, samples, _ = told(log, uniform_negatives=uniform)
        weights = np.ones(4) if uniform else log["item_id"].value_counts(normalize=True).sort_index().to_numpy()
        pairs = pd.crosstab(
            samples["item_id"][samples["label"] == 1].to_numpy(), samples["item_id"][samples["label"] == 0].to_numpy()
        )
        for target in range(4):
            others = np.where(np.arange(4) == target, 0, weights)
            expected = pairs.loc[target].sum() * others / others.sum()
            # Five standard deviations of a binomial.
            assert np.abs(pairs.loc[target].to_numpy() - expected).max() <= 5 * np.sqrt(expected.max())
            assert pairs.loc[target, target] == 0


def test_the_same_seed_gives_the_same_bytes_however_the_log_comes_in(tmp_path: Path) -> None:
    log = random_log(3)
    first = prepared(tmp_path / "a", log, settings(), rows_at_once=7)
    second = prepared(tmp_path / "b", log, settings(), rows_at_once=300, memory_mb=150)
    assert first.digest == second.digest
    assert prepared(tmp_path / "c", log, settings(seed=1)).digest != first.digest


def test_the_vocabulary_is_of_what_training_users_did_and_nothing_is_on_the_padding_row(tmp_path: Path) -> None:
    dataset = prepared(tmp_path / "d", random_log(4, rows=600), settings(min_item_count=30))
    samples, events = dataset.samples(), dataset.events()
    trained = events[events["user"].isin(samples["user"][samples["split"] == "train"])]
    counts = trained["item_id"].value_counts()
    items = dataset.vocabularies.items
    assert sorted(items.ids) == sorted(counts.index[counts >= 30])
    assert 0 in events["item_id"].to_numpy()
    assert 0 < len(items) < len(counts)
    rows = items.rows(events["item_id"].to_numpy())
    assert set(rows[rows < FIRST_ROW]) <= {UNKNOWN_ROW}


def test_the_legacy_history_ends_with_the_candidate_whichever_label_it_has(tmp_path: Path) -> None:
    log = random_log(5)
    dataset = prepared(tmp_path / "d", log, settings(samples_per_user=1, target_in_history=True))
    last = dataset.events().groupby("user").last()
    samples = dataset.samples().set_index("user")
    assert samples["item_id"].equals(last["item_id"].loc[samples.index])
    assert (samples["position"] == last["position"].loc[samples.index] + 1).all()
    assert set(samples["label"]) == {0, 1}
    assert dataset.stats["candidate_ends_history"] == {"positive": 1.0, "negative": 1.0}
    # The candidate takes one of the places of a history that is cut.
    cut = prepared(tmp_path / "c", log, settings(samples_per_user=1, target_in_history=True, length=3))
    assert cut.events().groupby("user").size().max() == cut.samples()["position"].max() == 3
    honest = prepared(tmp_path / "e", log, settings(samples_per_user=1))
    assert max(honest.stats["candidate_ends_history"].values()) < 0.5


def test_the_smallest_item_vanishes_where_it_is_taken_for_padding(tmp_path: Path) -> None:
    log = random_log(6)
    with_it, without = (prepared(tmp_path / "d", log, settings(padding_item=padding)) for padding in (False, True))
    assert without.stats["left_out"]["padding_item"] == (log["item_id"] == 0).sum()
    assert without.stats["items"] == with_it.stats["items"] - 1 == 7


def test_a_leak_is_refused_and_a_legacy_one_is_shown(tmp_path: Path) -> None:
    # Every user's last event is on an item of their own, which no other user has met.
    log = random_log(7, users=40, rows=800)
    last = log.sort_values("time_ms", kind="stable").groupby("user_id").tail(1).index
    log.loc[last, "item_id"] = 1000 + np.arange(len(last))
    with pytest.raises(BadInput, match=f'leak check: .*"{UNSEEN}" alone'):
        prepared(tmp_path / "d", log, settings())
    assert list(tmp_path.iterdir()) == []
    legacy = prepared(tmp_path / "d", log, settings(uniform_negatives=True))
    assert set(legacy.stats["leak_auc"]["test"]) > {UNSEEN, POPULARITY, UNBORN}


def test_what_is_left_out_adds_up(tmp_path: Path) -> None:
    log = pd.concat([random_log(8), random_log(8).iloc[:20]])
    dataset = prepared(
        tmp_path / "d", log, settings(length=None, min_history=3, behaviours=("pv",), first_ms=5000, end_ms=50_000)
    )
    left_out = dataset.stats["left_out"]
    inside = log[(log["time_ms"] >= 5000) & (log["time_ms"] < 50_000)]
    once = inside[inside["behaviour"] == "pv"].drop_duplicates(["user_id", "time_ms", "item_id", "behaviour"])
    lengths = once["user_id"].value_counts()
    assert left_out["outside_the_days"] == len(log) - len(inside)
    assert left_out["other_behaviours"] == (inside["behaviour"] != "pv").sum()
    assert left_out["duplicates"] == (inside["behaviour"] == "pv").sum() - len(once)
    assert left_out["users_with_short_history"] == (lengths < 4).sum()
    assert dataset.stats["events"] == lengths[lengths >= 4].sum()
    assert dataset.stats["rows_read"] == len(log)


def test_a_part_without_users_and_a_log_without_events_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"split: expected users in every part, got .* 30 users with too short a history"):
        prepared(tmp_path / "d", random_log(9), settings(min_history=100))
    with pytest.raises(BadInput, match=r"all were left out: {'outside_the_days': 300"):
        prepared(tmp_path / "d", random_log(9), settings(first_ms=10**12))
    with pytest.raises(BadInput, match="--memory-mb: expected at least 100"):
        prepared(tmp_path / "d", random_log(9), settings(), memory_mb=5)
    with pytest.raises(BadInput, match="target-in-history: expected one sample a user"):
        settings(target_in_history=True)
    with pytest.raises(BadInput, match="split: expected shares above 0"):
        settings(test_share=0.9, valid_share=0.2)
    assert list(tmp_path.iterdir()) == []
