"""A run's folder belongs to one plan: what else is asked of it is refused, and named."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import small

from model.data.dataset import Dataset
from model.training.run import Run
from uic.errors import BadInput, ForeignDirectory
from uic.variant import Variant


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return small.dataset(tmp_path_factory.mktemp("plans") / "data", users=6, rows=120)


@pytest.fixture
def begun(data: Dataset, tmp_path: Path) -> Run:
    return small.run(tmp_path / "run", data)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"learning_rate": 0.02}, "train.learning_rate: the run has 0.01, asked is 0.02"),
        ({"targets": "last"}, "train.targets: the run has 'all', asked is 'last'"),
        ({"seed": 8}, "train.seed: the run has 7, asked is 8"),
        ({"exclude_days": ("2017-07-18",)}, "train.exclude_days: the run has [], asked is ['2017-07-18']"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused_by_name(
    data: Dataset, begun: Run, config: dict[str, Any], named: str
) -> None:
    with pytest.raises(BadInput) as refused:
        small.run(begun.path, data, config=config)
    assert named in str(refused.value)
    assert "Choose another folder, or pass --overwrite" in str(refused.value)


def test_every_difference_is_named(data: Dataset, begun: Run) -> None:
    other = Variant(**{**small.VARIANT.to_json(), "slots": 5, "miu": False})
    with pytest.raises(BadInput) as refused:
        small.run(begun.path, data, variant=other, since_ms=5)
    for named in ("variant.slots: the run has 4, asked is 5", "variant.miu: the run has True", "since_ms: the run has None"):
        assert named in str(refused.value)


def test_another_dataset_is_refused(data: Dataset, begun: Run, tmp_path: Path) -> None:
    other = small.dataset(tmp_path / "other", users=6, rows=120, seed=2)
    with pytest.raises(BadInput, match=r"dataset\.digest: the run has"):
        small.run(begun.path, other)


def test_a_dataset_that_was_moved_is_the_same_one(data: Dataset, begun: Run, tmp_path: Path) -> None:
    moved = Dataset.open(Path(shutil.copytree(data.path, tmp_path / "moved")))
    assert small.run(begun.path, moved).plan.lineage == begun.plan.lineage


@pytest.mark.parametrize("config", [{"epochs": 5}, {"threads": 2}])
def test_more_epochs_and_other_threads_are_the_same_training(data: Dataset, begun: Run, config: dict[str, Any]) -> None:
    again = small.run(begun.path, data, config=config)
    assert again.plan.lineage == begun.plan.lineage
    assert again.plan.config.epochs == config.get("epochs", small.CONFIG["epochs"])


def test_overwriting_begins_anew_in_a_lineage_of_its_own(data: Dataset, begun: Run) -> None:
    small.train_quietly(begun, data)
    again = small.run(begun.path, data, config={"seed": 8}, overwrite=True)
    assert again.plan.lineage != begun.plan.lineage
    assert again.metrics["epochs"] == []
    assert again.load("last.pt") is None


def test_a_folder_of_something_else_is_never_overwritten(data: Dataset, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ForeignDirectory, match="found files of something else"):
            small.run(tmp_path / "mine", data, overwrite=overwrite)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("content", ["{", "[]", '{"variant": {}}', json.dumps({"nonsense": 1})])
def test_a_plan_that_cannot_be_read_is_refused(begun: Run, content: str) -> None:
    (begun.path / "run.json").write_text(content)
    with pytest.raises(BadInput, match=r"run\.json: the plan of the run cannot be read"):
        Run.open(begun.path)


def test_a_plan_survives_its_file(begun: Run) -> None:
    opened = Run.open(begun.path)
    assert opened.plan.differences(begun.plan) == []
    assert opened.plan.config == begun.plan.config


def test_a_run_without_an_epoch_has_neither_model_nor_plot(begun: Run) -> None:
    for ask in (begun.best_model, begun.utilization_shares):
        with pytest.raises(BadInput, match="no epoch has been trained yet"):
            ask()
