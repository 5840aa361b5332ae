"""Logs whose items turn over: a dataset for each day, tested on that day, its vocabulary growing."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_logs import HOUR_MS, SOURCE, clean, steady_log
from toy_logs import settings as prepare_settings
from typer.testing import CliRunner, Result

from jobs.data import data_app
from model.data.dataset import Dataset
from model.data.prepare import build
from uic.errors import BadInput
from uic.vocabulary import FIRST_ROW

DAY_MS = 24 * HOUR_MS
FIRST_DAY_MS = 1_500_076_800_000  # 2017-07-15


def daily_log(*, rows: int = 3000, seed: int = 0) -> pd.DataFrame:
    """Every day brings eight new items, clicked on that day and the next."""
    log = steady_log(rows=rows, seed=seed)
    time_ms = FIRST_DAY_MS - 2 * DAY_MS + np.sort(np.random.default_rng(seed).integers(5 * DAY_MS, size=rows))
    return log.assign(time_ms=time_ms, item_id=(time_ms // DAY_MS - log["item_id"] % 2) * 8 + log["item_id"] // 2 % 8)


@given(st.integers(0, 100), st.integers(0, 2))
@settings(max_examples=10, deadline=None)
def test_a_day_is_tested_with_everything_before_it_and_nothing_after(seed: int, day: int) -> None:
    test_day_ms = FIRST_DAY_MS + day * DAY_MS
    log = daily_log(seed=seed)
    made = build(clean(log), prepare_settings(hours=2), source=SOURCE, test_day_ms=test_day_ms)
    spans = made.samples.groupby("split")["time_ms"].agg(["min", "max"])
    assert made.stats["times"]["test_from_ms"] == test_day_ms <= spans.loc["test", "min"]
    assert spans.loc["test", "max"] < test_day_ms + DAY_MS
    assert test_day_ms - DAY_MS < spans.loc["train", "max"] < made.stats["times"]["valid_from_ms"] <= spans.loc["valid", "min"]
    assert spans.loc["valid", "max"] < test_day_ms
    assert len(made.events) == (log["time_ms"] < test_day_ms + DAY_MS).sum()


def test_the_share_of_test_positives_without_a_row_is_told() -> None:
    made = build(clean(daily_log()), prepare_settings(hours=2), source=SOURCE, test_day_ms=FIRST_DAY_MS)
    asked = made.samples.query("split == 'test' and label == 1")["item_id"]
    training = made.events[made.events["time_ms"] < made.stats["times"]["valid_from_ms"]]["item_id"].value_counts()
    unseen = (~asked.isin(training.index[training >= 2])).mean()
    assert made.stats["test_positives_without_row"] == pytest.approx(unseen)
    assert 0.3 < unseen < 0.7


def run(*arguments: object) -> Result:
    return CliRunner().invoke(data_app, ["prepare", "table", *(str(argument) for argument in arguments)])


@pytest.fixture
def days(tmp_path: Path) -> list[Dataset]:
    daily_log().rename(columns={"user": "user_id"}).to_parquet(tmp_path / "log.parquet")
    result = run(
        "--events", tmp_path / "log.parquet", "--progressive", "2017-07-15", "--window-hours", 2, "--out", tmp_path / "days"
    )
    if result.exception is not None:
        raise result.exception
    assert all(f"2017-07-{day}" in result.output for day in (15, 16, 17))
    return [Dataset.open(path) for path in sorted((tmp_path / "days").iterdir())]


def test_there_is_a_dataset_for_each_day_and_what_one_knows_the_next_knows(days: list[Dataset]) -> None:
    assert [dataset.path.name for dataset in days] == ["2017-07-15", "2017-07-16", "2017-07-17"]
    words = [set(dataset.vocabularies.items.ids.tolist()) for dataset in days]
    assert words[0] < words[1] < words[2]
    events = [dataset.events() for dataset in days]
    for earlier, later in itertools.pairwise(events):
        # A user's events have the same positions in every day's dataset.
        assert earlier.merge(later, how="left", indicator=True)["_merge"].eq("both").all()


def test_the_days_end_where_they_are_said_to(tmp_path: Path) -> None:
    daily_log().rename(columns={"user": "user_id"}).to_parquet(tmp_path / "log.parquet")
    usual = ["--events", tmp_path / "log.parquet", "--window-hours", 2, "--out", tmp_path / "days"]
    assert run(*usual, "--progressive", "2017-07-15:2017-07-15").exception is None
    assert [path.name for path in (tmp_path / "days").iterdir()] == ["2017-07-15"]


def test_in_a_lineage_known_items_keep_their_rows_and_new_ones_follow(days: list[Dataset]) -> None:
    known = days[0].vocabularies.items
    for dataset in days[1:]:
        grown = known.extended(dataset.vocabularies.items.ids)
        assert grown.begins_with(known)
        assert (grown.rows(dataset.vocabularies.items.ids) >= FIRST_ROW).all()
        known = grown


def test_a_day_outside_the_log_or_no_day_at_all_is_refused(tmp_path: Path) -> None:
    daily_log().rename(columns={"user": "user_id"}).to_parquet(tmp_path / "log.parquet")
    arguments = ["--events", tmp_path / "log.parquet", "--out", tmp_path / "days", "--progressive"]
    for day, message in {
        "yesterday": "--progressive: expected days such as 2017-10-10:2017-10-14 or 2017-10-10, got 'yesterday'",
        "2030-01-01": "--progressive: expected days of the log",
        "2017-07-01": "test day: expected events on the day before",
    }.items():
        with pytest.raises(BadInput, match=message):
            raise run(*arguments, day).exception or AssertionError
    assert not (tmp_path / "days").exists()
