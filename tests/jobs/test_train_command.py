"""`uic train` in processes of its own: killed, run again, asked for what it cannot do."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small
import yaml
from command import Uic

from model.data.dataset import Dataset
from model.training.run import Run

SIZES = {"embedding": 4, "slots": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return small.dataset(tmp_path_factory.mktemp("command") / "data", users=6, rows=120)


@pytest.fixture
def words(data: Dataset, tmp_path: Path) -> list[str]:
    """The command but for the run's folder."""
    train = {**small.CONFIG, "epochs": 12, "patience": 99}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({"model": SIZES, "train": train}))
    return ["-c", str(tmp_path / "small.yaml"), "train", "--data", str(data.path), "--out"]


def test_a_run_killed_in_the_middle_of_an_epoch_ends_as_if_it_had_not_been(
    uic: Uic, data: Dataset, words: list[str], tmp_path: Path
) -> None:
    killed = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", *words, str(tmp_path / "killed")], stdout=subprocess.PIPE, text=True
    )
    assert killed.stdout is not None
    said = [killed.stdout.readline() for _ in range(2)]
    killed.kill()
    assert killed.wait() == -9
    killed.stdout.close()
    assert [line.split()[:2] for line in said] == [["epoch", "1"], ["epoch", "2"]]
    whole_epochs = len(Run.open(tmp_path / "killed").metrics["epochs"])
    assert 2 <= whole_epochs < 12

    again = uic(*words, tmp_path / "killed")
    assert again.code == 0
    assert f"epoch {whole_epochs + 1:3} " in again.out
    assert f"epoch {whole_epochs:3} " not in again.out
    assert uic(*words, tmp_path / "straight").code == 0
    runs = [Run.open(tmp_path / name) for name in ("killed", "straight")]
    assert small.without_seconds(runs[0].metrics) == small.without_seconds(runs[1].metrics)
    states = [made.best_model().state_dict() for made in runs]
    assert all((states[0][name] == states[1][name]).all() for name in states[0])


def test_a_finished_run_says_so_and_one_asked_for_more_epochs_does_not(uic: Uic, words: list[str], tmp_path: Path) -> None:
    assert "already trained" not in uic(*words, tmp_path / "run", "--epochs", 1).out
    assert "already trained to its end" in uic(*words, tmp_path / "run", "--epochs", 1).out
    more = uic(*words, tmp_path / "run", "--epochs", 2).out
    assert "already trained" not in more
    assert "epoch   2 " in more


def test_the_end_names_dataset_label_and_targets(uic: Uic, data: Dataset, words: list[str], tmp_path: Path) -> None:
    ended = uic(*words, tmp_path / "run", "--epochs", 1, "--targets", "last")
    best = Run.open(tmp_path / "run").metrics["best_auc"]
    assert f"best epoch 1: validation AUC {best:.4f} ({data.label}, targets: last)" in ended.out
    assert (tmp_path / "run" / "utilization.png").read_bytes().startswith(b"\x89PNG")


def test_the_environment_says_how_many_epochs(
    uic: Uic, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UIC__TRAIN__EPOCHS", "2")
    assert uic(*words, tmp_path / "run").code == 0
    assert len(Run.open(tmp_path / "run").metrics["epochs"]) == 2


def test_options_reach_the_plan(uic: Uic, words: list[str], tmp_path: Path) -> None:
    options = ("--epochs", 1, "--seed", 9, "--mur", "none", "--regulariser-weight", 0, "--exclude-day", "2017-07-18")
    window = ("--since", "2017-07-15", "--until", "2017-07-30T12:00+02:00")
    assert uic(*words, tmp_path / "run", *options, *window).code == 0
    plan = Run.open(tmp_path / "run").plan
    assert (plan.config.seed, plan.config.regulariser_weight, plan.config.exclude_days) == (9, 0, ("2017-07-18",))
    assert (plan.variant["mur"], plan.variant["slots"], plan.variant["event_width"]) == ("none", 4, 8)
    times = [np.datetime64(text, "ms").astype(int) for text in ("2017-07-15T00:00", "2017-07-30T10:00")]
    assert [plan.since_ms, plan.until_ms] == times


def test_a_time_that_is_none_is_refused(uic: Uic, words: list[str], tmp_path: Path) -> None:
    ended = uic(*words, tmp_path / "run", "--since", "yesterday")
    assert ended.code == 2
    assert ended.err.startswith("BadInput: --since: expected a date or time such as 2017-12-01")


def test_other_settings_for_the_same_folder_are_one_line(uic: Uic, words: list[str], tmp_path: Path) -> None:
    assert uic(*words, tmp_path / "run", "--epochs", 1).code == 0
    ended = uic(*words, tmp_path / "run", "--seed", 8)
    assert ended.code == 2
    assert "train.seed: the run has 7, asked is 8" in ended.err
    assert uic(*words, tmp_path / "run", "--seed", 8, "--epochs", 1, "--overwrite").code == 0


def test_training_on_keeps_the_parents_variant_and_refuses_another(
    uic: Uic, world: small.World, words: list[str], tmp_path: Path
) -> None:
    asked = (*words, tmp_path / "run", "--epochs", 1, "--init-from", world.bundle.path)
    ended = uic(*asked, "--preset", "paper")
    assert ended.code == 2
    assert "--preset" in ended.err
    assert uic(*asked).code == 0
    assert Run.open(tmp_path / "run").plan.variant == world.bundle.manifest.variant


def test_evaluate_gives_the_same_figures_for_a_run_and_for_its_bundle(uic: Uic, world: small.World) -> None:
    results = [
        json.loads(uic("evaluate", target, "--data", world.data.path, "--json").out)
        for target in (world.run.path, world.bundle.path)
    ]
    assert results[0] == results[1]
    assert set(results[0]["rows"]) >= {"memory at its position", "initial memory (no history)"}
    assert (results[0]["targets"], results[0]["label"]) == ("all", world.data.label)
    valid = json.loads(uic("evaluate", world.run.path, "--data", world.data.path, "--split", "valid", "--json").out)
    assert valid["rows"]["memory at its position"]["auc"] == pytest.approx(world.run.metrics["best_auc"], abs=1e-12)


def test_another_model_is_trained_on_the_same_samples_and_one_without_a_memory_is_not_exported(
    uic: Uic, words: list[str], tmp_path: Path
) -> None:
    assert uic(*words, tmp_path / "din", "--model", "din", "--epochs", 1).code == 0
    assert Run.open(tmp_path / "din").plan.variant["model"] == "din"
    assert not (tmp_path / "din" / "utilization.png").exists()
    refused = uic("export", tmp_path / "din", "--out", tmp_path / "bundle")
    assert refused.code == 2
    assert "din looks at a user's raw events for every candidate and keeps no memory of fixed size" in refused.err
    unknown = uic(*words, tmp_path / "run", "--model", "sasrec")
    assert (unknown.code, "--model: expected one of mimn, mlp, din, gru4rec" in unknown.err) == (2, True)
