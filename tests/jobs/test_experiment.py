"""`uic experiment` from a small dataset to its page: nothing is trained twice, and what a page says is what was found."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import small
import yaml
from command import Uic

from model.data.dataset import Dataset
from model.experiments.page import page
from model.experiments.tables import EXPERIMENTS
from model.training.run import Run

TRAIN = {**small.CONFIG, "epochs": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return small.dataset(tmp_path_factory.mktemp("experiment") / "log", users=8, rows=240)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all tests: tables share what they have in common, and so do the tests."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def words(data: Dataset, runs: Path, tmp_path: Path) -> list[str]:
    """The command but for which experiment, in this process unless `--jobs` says otherwise."""
    settings = {"model": {"embedding": 4, "slots": 4}, "train": TRAIN}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings))
    to = ["--out", str(tmp_path / "results"), "--jobs", "0", "--repeats", "1"]
    return ["-c", str(tmp_path / "small.yaml"), "experiment", "--data", str(data.path), "--runs", str(runs), *to]


def test_a_run_is_a_process_of_its_own_and_trained_once_for_all_tables(
    uic: Uic, words: list[str], runs: Path, tmp_path: Path
) -> None:
    processes = [*words, "fig6", "--targets", "5", "--only", "with MUR", "--jobs", "2", "--through", "nice -n 1"]
    drawn = subprocess.run([sys.executable, "-m", "jobs.cli", *processes], capture_output=True, text=True, check=False)
    assert drawn.returncode == 0, drawn.stderr
    assert "2 runs: 0 are trained already, 2 are left" in drawn.stdout
    assert "0 left" in drawn.stdout
    figure = json.loads((tmp_path / "results" / "fig6.json").read_text())
    shares = figure["slot_shares"]["with MUR"]["shares"]
    assert len(shares) == 4
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert "Left out: without MUR and MIU, with MUR but its loss, with MUR as printed." in figure["about"]
    wrote = figure["slot_writes"]["with MUR"]
    assert sum(wrote["shares"]) == pytest.approx(1, abs=1e-5)
    assert 1 <= wrote["an_event"]["mean"] <= wrote["a_memory"]["mean"] + 1e-9 <= 4 + 2e-9
    written = (tmp_path / "results" / "fig6.md").read_text()
    assert "| with MUR: written |" in written
    assert f"{wrote['told_apart']['mean']:.2f}" in written

    ended = uic(*words, "table4", "--targets", 5)
    assert ended.code == 0, ended.err
    assert "4 runs: 2 are trained already, 2 are left" in ended.out
    table = json.loads((tmp_path / "results" / "table4.json").read_text())
    again = uic(*words, "table4", "--targets", 5)
    assert "4 runs: 4 are trained already, 0 are left" in again.out
    repeated = json.loads((tmp_path / "results" / "table4.json").read_text())
    assert table["rows"] == repeated["rows"]
    assert table["claims"] == repeated["claims"]

    written = (tmp_path / "results" / "table4.md").read_text()
    for said in ("**targets: 5**", "uic -c", "| candidate only |", "| with MUR and MIU |", "0.9179", "best on test"):
        assert said in written
    for row in table["rows"]:
        assert f"{row['auc']['mean']:.4f}" in written
        for each in row["runs"]:
            found = Run.open(runs / each["run"])
            assert found.metrics["best_auc"] == each["valid"]["auc"]
            assert found.plan.config.targets == 5
            assert each["best_test_auc"] >= each["test"]["auc"] - 1e-9
    assert (tmp_path / "results" / "table4.png").read_bytes().startswith(b"\x89PNG")


def test_the_lengths_of_figure_1_see_the_same_samples(uic: Uic, words: list[str], tmp_path: Path) -> None:
    ended = uic(*words, "fig1", "--targets", 2)
    assert ended.code == 0, ended.err
    figure = json.loads((tmp_path / "results" / "fig1.json").read_text())
    rows = {row["arm"]: row for row in figure["rows"]}
    assert len({row["runs"][0]["test"]["samples"] for row in rows.values()}) == 1
    # No history is longer than 100 events here: nothing more is seen with 1,000.
    assert rows["100 events"]["auc"] == rows["1,000 events"]["auc"]
    grown = list(figure["history_by_days"]["mean_events"].values())
    assert grown == sorted(grown)


def test_a_lineage_of_days_has_all_its_rows(uic: Uic, words: list[str], tmp_path: Path) -> None:
    lineage = ["head and memory in step", "memory a day older", "head a day older", "memory accumulated over the bundles"]
    rows_asked = [word for row in lineage for word in ("--only", row)]
    ended = uic(*words, "table5", "--days", 1, "--targets", 4, *rows_asked)
    assert ended.code == 0, ended.err
    table = json.loads((tmp_path / "results" / "table5.json").read_text())
    rows = {row["arm"]: row for row in table["rows"]}
    assert list(rows) == [*lineage, "candidate only"]
    assert len({rows[name]["auc"]["mean"] for name in lineage}) > 1
    assert len({row["runs"][0]["test"]["samples"] for row in rows.values()}) == 1
    assert "memory a day older" in (tmp_path / "results" / "table5.md").read_text()


def test_claims_about_tuned_models_are_about_what_the_validation_chose(uic: Uic, words: list[str], tmp_path: Path) -> None:
    asked = ["Embedding&MLP, rate 0.003", "Embedding&MLP, rate 0.01", "GRU4REC, rate 0.001"]
    ended = uic(*words, "tuning", "--targets", 2, *(word for row in asked for word in ("--only", row)))
    assert ended.code == 0, ended.err
    result = json.loads((tmp_path / "results" / "tuning.json").read_text())
    valid = {row["arm"]: row["valid_auc"]["mean"] for row in result["rows"]}
    assert valid[asked[0]] != valid[asked[1]]
    best = max(asked[:2], key=lambda arm: valid[arm])
    assert result["chosen"] == {"GRU4REC": asked[2], "Embedding&MLP": best}
    assert [(claim["better"], claim["worse"]) for claim in result["claims"]] == [(asked[2], best)]
    assert f"| Embedding&MLP | {best} |" in (tmp_path / "results" / "tuning.md").read_text()


def test_days_of_a_log_are_one_table_each_tested_by_models_trained_before_it(
    uic: Uic, words: list[str], tmp_path: Path
) -> None:
    log, days = tmp_path / "log.parquet", ["2017-07-17", "2017-07-18"]
    small.log(users=8, rows=900, days=5).rename(columns={"user": "user_id"}).to_parquet(log)
    prepared = ["data", "prepare", "table", "--events", log, "--window-hours", 48, "--out", tmp_path / "days"]
    assert uic(*prepared, "--progressive", ":".join(days)).code == 0
    # What a kill leaves of a dataset that was being replaced is no day.
    shutil.copytree(tmp_path / "days" / days[0], tmp_path / "days" / f".{days[0]}.old-1")
    asked = ["--data", tmp_path / "days", "--targets", 3, "--only", "Embedding&MLP", "--only", "GRU4REC"]
    ended = uic(*words, "table2", *asked, "--repeats", 2)
    assert ended.code == 0, ended.err
    assert "12 runs: 0 are trained already, 12 are left" in ended.out  # 3 rows, 2 seeds, 2 days
    assert "GRU4REC, seed 8, 2017-07-18: validation AUC" in ended.out
    result = json.loads((tmp_path / "results" / "table2-days.json").read_text())
    tests = [Dataset.open(tmp_path / "days" / day).samples("test") for day in days]
    assert result["data"]["test_samples"] == sum(map(len, tests))
    assert result["data"]["test_users"] == len(set().union(*(test["user"] for test in tests)))
    for row in result["rows"]:
        auc = {(run["day"], run["seed"]): run["test"]["auc"] for run in row["runs"]}
        assert auc.keys() == {(day, seed) for day in days for seed in (7, 8)}
        assert row["auc"]["mean"] == pytest.approx(sum(auc.values()) / 4)
        assert {day: each["mean"] for day, each in row["days"].items()} == pytest.approx(
            {day: (auc[day, 7] + auc[day, 8]) / 2 for day in days}
        )
    means = {row["arm"]: row["auc"]["mean"] for row in result["rows"]}
    for claim in result["claims"]:
        assert claim["auc"]["difference"] == pytest.approx(means[claim["better"]] - means[claim["worse"]], abs=1e-6)
        assert claim["days"] == claim["repeats"] == 2
    written = (tmp_path / "results" / "table2-days.md").read_text()
    assert "| AUC | 2017-07-17 | 2017-07-18 |" in written
    assert "days for it" in written


def test_what_is_about_one_dataset_refuses_several_days(uic: Uic, words: list[str], data: Dataset, tmp_path: Path) -> None:
    for day in ("2017-07-17", "2017-07-18"):
        shutil.copytree(data.path, tmp_path / "days" / day)
    ended = uic(*words, "fig6", "--data", tmp_path / "days")
    assert ended.code == 2
    assert "fig6 is about one dataset, and this folder has several: name one of 2017-07-17, 2017-07-18" in ended.err


def test_a_row_that_is_not_there_is_refused_with_those_that_are(uic: Uic, words: list[str]) -> None:
    ended = uic(*words, "table2", "--only", "SIM")
    assert ended.code == 2
    assert "expected some of Embedding&MLP; DIN;" in ended.err


def test_runs_that_fail_are_named_with_their_reason(uic: Uic, words: list[str], data: Dataset, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(data.path, tmp_path / "broken"))
    (broken / "events.parquet").write_bytes((broken / "events.parquet").read_bytes()[:-200] + bytes(200))
    ended = uic(*words, "table3", "--data", broken)
    assert ended.code == 2
    assert "events.parquet" in ended.err


def test_a_committed_page_says_what_its_figures_say() -> None:
    for figures in (Path(__file__).parents[2] / "results").glob("*/*.json"):
        assert figures.with_suffix(".md").read_text() == page(json.loads(figures.read_text())), figures
        assert figures.with_suffix(".png").exists()


def test_every_claim_is_about_rows_of_its_table() -> None:
    for experiment in EXPERIMENTS.values():
        names = [arm.name for arm in experiment.arms]
        assert len(set(names)) == len(names)
        assert "candidate only" in names
        assert {name for arms in experiment.groups.values() for name in arms} <= set(names)
        assert {name for claim in experiment.claims for name in claim} <= {*names, *experiment.groups}
        assert all(set(rows) <= set(names) for rows in experiment.paper.values())
