"""`uic data ...` and `uic events make` as a user calls them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from toy_logs import SOURCE, START_MS, clean, settings, steady_log
from typer.testing import CliRunner, Result

from jobs.data import data_app, prepare_ml100k
from jobs.events import events_app, write_events
from model.data.dataset import Dataset
from model.data.leak import UNSEEN
from model.data.ml100k import MovieLens
from model.data.prepare import prepare
from uic.errors import BadInput, ForeignDirectory
from uic.event import BehaviourEvent, parse_event, to_json


def run(*arguments: object) -> Result:
    return CliRunner().invoke(data_app, [str(argument) for argument in arguments])


def ran(*arguments: object) -> str:
    result = run(*arguments)
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    names = {"user": "who", "item_id": "item", "category_id": "kind", "behaviour": "behavior", "time_ms": "timestamp"}
    steady_log().rename(columns=names).to_parquet(tmp_path / "log.parquet")
    return tmp_path / "log.parquet"


NAMED = ["--user-column", "who", "--item-column", "item", "--category-column", "kind"]
NAMED += ["--behaviour-column", "behavior", "--time-column", "timestamp", "--window-hours", "20"]


def test_a_table_with_its_own_column_names_becomes_a_dataset(tmp_path: Path, log_file: Path) -> None:
    output = ran("prepare", "table", "--events", log_file, *NAMED, "--out", tmp_path / "d")
    dataset = Dataset.open(tmp_path / "d")
    assert len(dataset.events()) == 900
    assert dataset.stats["parameters"]["window_ms"] == 20 * 3_600_000
    for words in ("times in ms", UNSEEN, "Results on this dataset are labelled: known-user"):
        assert words in " ".join(output.split())


def test_csv_and_parquet_give_the_same_dataset(tmp_path: Path, log_file: Path) -> None:
    pd.read_parquet(log_file).to_csv(tmp_path / "log.csv", index=False)
    ran("prepare", "table", "--events", log_file, *NAMED, "--out", tmp_path / "parquet")
    ran("prepare", "table", "--events", tmp_path / "log.csv", *NAMED, "--out", tmp_path / "csv")
    parquet, csv = (Dataset.open(tmp_path / name).stats for name in ("parquet", "csv"))
    assert parquet["files"] == csv["files"]
    assert parquet["source"]["digest"] != csv["source"]["digest"]


def test_a_table_without_behaviours_and_categories_needs_one_behaviour_for_all(tmp_path: Path) -> None:
    bare = steady_log().drop(columns=["behaviour", "category_id"]).rename(columns={"user": "user_id"})
    bare.to_csv(tmp_path / "log.csv", index=False)
    arguments = ["prepare", "table", "--events", tmp_path / "log.csv", "--window-hours", "20", "--out", tmp_path / "d"]
    with pytest.raises(BadInput, match="expected a column behaviour"):
        ran(*arguments)
    ran(*arguments, "--behaviour", "click")
    events = Dataset.open(tmp_path / "d").events()
    assert (set(events["behaviour"]), set(events["category_id"])) == ({"click"}, {-1})


def test_impressions_are_taken_with_features_and_split_by_the_times_of_the_log(tmp_path: Path, log_file: Path) -> None:
    rng = np.random.default_rng(0)
    shown = pd.read_parquet(log_file).assign(label=rng.integers(2, size=900), bid=rng.random(900))
    shown[["who", "item", "kind", "timestamp", "label", "bid"]].to_csv(tmp_path / "shown.csv", index=False)
    ran(
        "prepare",
        "table",
        "--events",
        log_file,
        "--samples",
        tmp_path / "shown.csv",
        "--features",
        "bid",
        *NAMED,
        "--out",
        tmp_path / "d",
    )
    dataset = Dataset.open(tmp_path / "d")
    assert dataset.features == ("bid",)
    samples = dataset.samples()
    assert (samples["split"] == "test").sum() == (samples["time_ms"] >= dataset.stats["times"]["test_from_ms"]).sum() > 0


def test_head_features_without_impressions_are_refused(tmp_path: Path, log_file: Path) -> None:
    with pytest.raises(BadInput, match="--features bid: head features come with impressions"):
        ran("prepare", "table", "--events", log_file, *NAMED, "--features", "bid", "--out", tmp_path / "d")


def test_bad_rows_are_refused_or_dropped_and_counted(tmp_path: Path, log_file: Path) -> None:
    log = pd.read_parquet(log_file)
    log.loc[7, "timestamp"] = -1
    log.to_parquet(log_file)
    arguments = ["prepare", "table", "--events", log_file, *NAMED, "--out", tmp_path / "d"]
    with pytest.raises(BadInput, match=r"log\.parquet: 1 of 900 rows cannot be used(.|\n)*column timestamp: .*row 7 has -1"):
        ran(*arguments)
    assert not (tmp_path / "d").exists()
    ran(*arguments, "--drop-invalid")
    assert Dataset.open(tmp_path / "d").stats["left_out"]["invalid"] == {"timestamp": 1}


def test_a_time_of_tomorrow_is_allowed_and_of_next_year_is_not(tmp_path: Path, log_file: Path) -> None:
    log = pd.read_parquet(log_file)
    log.loc[7, "timestamp"] = 4_000_000_000_000
    log.to_parquet(log_file)
    with pytest.raises(BadInput, match="row 7 has 4000000000000"):
        ran("prepare", "table", "--events", log_file, *NAMED, "--out", tmp_path / "d")


def test_a_foreign_folder_stays_and_a_dataset_needs_overwrite(tmp_path: Path, log_file: Path) -> None:
    arguments = ["prepare", "table", "--events", log_file, *NAMED]
    with pytest.raises(ForeignDirectory):
        ran(*arguments, "--out", tmp_path, "--overwrite")
    ran(*arguments, "--out", tmp_path / "d")
    with pytest.raises(ForeignDirectory, match="--overwrite"):
        ran(*arguments, "--out", tmp_path / "d")
    ran(*arguments, "--out", tmp_path / "d", "--overwrite")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "log.parquet"]


def test_show_prints_the_statistics(tmp_path: Path) -> None:
    dataset = prepare(clean(steady_log()), tmp_path / "d", settings(), source=SOURCE)
    assert json.loads(ran("show", tmp_path / "d", "--json")) == dataset.stats
    assert "900 events of 30 users" in ran("show", tmp_path / "d")


def test_the_commands_load_no_heavy_library_before_they_run() -> None:
    heavy = "{'pandas', 'pyarrow', 'sklearn', 'torch', 'scipy', 'duckdb'}"
    script = f"import sys, jobs.data, jobs.events; sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "command", [["prepare", "ml-100k"], ["prepare", "amazon-books"], ["prepare", "taobao"], ["prepare", "table"], ["show"]]
)
def test_help_teaches_with_an_example(command: list[str]) -> None:
    assert f"Example: uic data {' '.join(command)}" in " ".join(run(*command, "--help").output.replace("│", " ").split())


def test_movielens_100k_is_a_cold_user_dataset_whose_users_live_49_minutes(tmp_path: Path, movie_lens: MovieLens) -> None:
    said: list[str] = []
    dataset = prepare_ml100k(tmp_path / "ml", report=said.append)
    assert (dataset.stats["events"], dataset.stats["users"], dataset.stats["items"]) == (100_000, 943, 1682)
    assert dataset.label == "cold-user"
    assert dataset.stats["median_lifetime_minutes"] == pytest.approx(49, abs=0.5)
    assert all(0.45 < figures[UNSEEN] < 0.55 for figures in dataset.stats["leak_auc"].values())
    assert dataset.names().categories[1 << 5 | 1 << 14] == "Comedy|Romance"
    assert "no commercial use without permission" in said[0]

    # A user's ratings of one second stay in the order of u.data.
    own = movie_lens.ratings[movie_lens.ratings["user"] == 13].sort_values("seconds", kind="stable")
    assert dataset.events().query("user == '13'")["item_id"].tolist() == own["item"].tolist()


AWKWARD = ['say "hi"\n', "back\\slash", "Ünïcödé\u2028", "tab\t", "42"]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    log = steady_log(users=len(AWKWARD))
    # Whole seconds and few of them: many events of several users share one.
    log["time_ms"] = START_MS + (log["time_ms"] - START_MS) // 1_000_000 * 1000
    log["user"] = log["user"].map({f"u{number}": user for number, user in enumerate(AWKWARD)})
    return prepare(clean(log), tmp_path / "d", settings(), source=SOURCE)


def test_folding_the_lines_of_a_user_in_file_order_gives_the_order_of_position(dataset: Dataset, tmp_path: Path) -> None:
    count, files = write_events(dataset, tmp_path / "events", per_file=97)
    written = sorted((tmp_path / "events").glob("*.jsonl"))
    assert (count, files) == (len(dataset.events()), len(written))
    assert written[0].name == "events-00000.jsonl"
    lines = [line for path in written for line in path.read_bytes().split(b"\n")[:-1]]
    read = [parse_event(line, now_ms=START_MS * 2) for line in lines]
    assert [event.time_ms for event in read] == sorted(event.time_ms for event in read)
    assert [to_json(event) for event in read] == lines
    for user, own in dataset.events().groupby("user"):
        assert [event for event in read if event.user_id == user] == [
            BehaviourEvent(
                user_id=row.user, item_id=row.item_id, category_id=row.category_id, behaviour=row.behaviour, time_ms=row.time_ms
            )
            for row in own.itertuples()
        ]


def test_the_events_of_one_moment_follow_user_and_position(dataset: Dataset, tmp_path: Path) -> None:
    write_events(dataset, tmp_path / "events", per_file=10_000)
    lines = (tmp_path / "events" / "events-00000.jsonl").read_text().split("\n")[:-1]
    keys = [(json.loads(line)["time_ms"], json.loads(line)["user_id"]) for line in lines]
    assert keys == sorted(keys)
    assert len({time for time, _ in keys}) < len(keys) / 2


def test_event_files_never_replace_something_else(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ForeignDirectory, match="found dataset"):
        write_events(dataset, dataset.path, replace=True)
    with pytest.raises(BadInput, match="--per-file: expected at least 1, got 0"):
        write_events(dataset, tmp_path / "events", per_file=0)
    assert not (tmp_path / "events").exists()


def test_events_make_is_a_command(dataset: Dataset, tmp_path: Path) -> None:
    arguments = ["make", "--data", str(dataset.path), "--out", str(tmp_path / "events")]
    result = CliRunner().invoke(events_app, arguments)
    assert result.exception is None
    assert f"{len(dataset.events())} events in 1 files" in result.output
    assert isinstance(CliRunner().invoke(events_app, arguments).exception, ForeignDirectory)
    assert CliRunner().invoke(events_app, [*arguments, "--overwrite"]).exception is None
