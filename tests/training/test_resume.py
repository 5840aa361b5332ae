"""A run is one training, however often it was begun: stopped anywhere, it ends as if it had never been."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import small
import torch

from model.data.dataset import Dataset
from model.training.run import Run
from model.training.train import train
from uic.errors import BadInput

STATES = ("last.pt", "best.pt")
# The second of the three epochs is the best one: the first two write a best model and the third does not.
CONFIG = {"seed": 2, "learning_rate": 0.03, "decay": 0.9, "patience": 9}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return small.dataset(tmp_path_factory.mktemp("resume") / "data", users=6, rows=120)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, data: Dataset) -> "Straight":
    return Straight(tmp_path_factory.mktemp("straight"), data)


class Straight:
    """Three epochs without a stop, and what the folder held after each of them."""

    def __init__(self, root: Path, data: Dataset) -> None:
        self.run = small.run(root / "run", data, config={**CONFIG, "epochs": 3})
        self._root = root

        def keep(entry: dict[str, Any]) -> None:
            shutil.copytree(self.run.path, self.after(entry["epoch"]))

        train(self.run, data, lambda at: None, keep)

    def after(self, epoch: int) -> Path:
        return self._root / f"after-{epoch}"

    def stopped(self, path: Path, *, epoch: int, newer: tuple[str, ...] = ()) -> Path:
        """The folder as a kill leaves it after an epoch, when these files of the next one had been written already."""
        shutil.copytree(self.after(epoch), path)
        for name in newer:
            shutil.copyfile(self.after(epoch + 1) / name, path / name)
        return path


def assert_same(one: Any, other: Any) -> None:  # whatever torch.load gives
    """Bit for bit."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            if key != "seconds":
                assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    else:
        assert one == other


def assert_ends_as(made: Run, straight: Run) -> None:
    for name in STATES:
        one, other = made.load(name), straight.load(name)
        assert one is not None
        assert_same(one, other)
    assert small.without_seconds(made.metrics) == small.without_seconds(straight.metrics)
    assert (made.utilization_shares() == straight.utilization_shares()).all()


def test_one_epoch_and_then_three_is_three_at_once(data: Dataset, straight: Straight, tmp_path: Path) -> None:
    small.trained(tmp_path / "run", data, config={**CONFIG, "epochs": 1})
    again = Run.open(tmp_path / "run").with_epochs(3)
    assert len(again.metrics["epochs"]) == 1
    small.train_quietly(again, data)
    assert_ends_as(again, straight.run)


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize(
    "newer",
    [(), ("best.pt",), ("best.pt", "utilization.npz"), ("best.pt", "utilization.npz", "last.pt")],
    ids=lambda newer: newer[-1] if newer else "nothing",
)
def test_a_kill_between_any_two_files_of_an_epoch_changes_nothing(
    data: Dataset, straight: Straight, tmp_path: Path, epoch: int, newer: tuple[str, ...]
) -> None:
    path = straight.stopped(tmp_path / "run", epoch=epoch, newer=newer)
    made = Run.open(path)
    small.train_quietly(made, data)
    assert_ends_as(made, straight.run)


def test_a_finished_run_trains_no_more(data: Dataset, straight: Straight, tmp_path: Path) -> None:
    path = straight.stopped(tmp_path / "run", epoch=3)
    entries: list[dict[str, Any]] = []
    train(Run.open(path), data, lambda at: None, entries.append)
    assert entries == []
    assert_ends_as(Run.open(path), straight.run)


def test_training_stops_when_patience_is_used_up_and_begins_no_more(data: Dataset, tmp_path: Path) -> None:
    # Weights that hardly move: no epoch is better than the first.
    config = {"epochs": 9, "patience": 2, "learning_rate": 1e-12}
    made = small.trained(tmp_path / "run", data, config=config)
    assert [entry["epoch"] for entry in made.metrics["epochs"]] == [1, 2, 3]
    assert made.metrics["best_epoch"] == 1
    assert made.metrics["finished"]
    again = small.run(tmp_path / "run", data, config=config)
    small.train_quietly(again, data)
    assert len(again.metrics["epochs"]) == 3


def test_the_best_epoch_is_kept_and_not_the_last(data: Dataset, straight: Straight) -> None:
    metrics = straight.run.metrics
    aucs = [entry["valid"]["auc"] for entry in metrics["epochs"]]
    assert metrics["best_auc"] == max(aucs)
    assert 1 < metrics["best_epoch"] < 3
    assert metrics["best_epoch"] == 1 + aucs.index(max(aucs))
    saved = Run.open(straight.after(metrics["best_epoch"])).load("last.pt")
    assert saved is not None
    assert_same(dict(straight.run.best_model().state_dict()), dict(saved["model"]))


def test_another_seed_is_another_training(data: Dataset, tmp_path: Path) -> None:
    losses = {
        seed: small.trained(tmp_path / f"run-{seed}", data, config={"epochs": 1, "seed": seed}).metrics["epochs"][0]["loss"]
        for seed in (1, 2)
    }
    assert losses[1] != losses[2]


@pytest.mark.parametrize("left", [b"", b"not a state", "half"])
def test_a_damaged_state_is_refused_and_left_as_it_is(
    data: Dataset, straight: Straight, tmp_path: Path, left: bytes | str
) -> None:
    path = straight.stopped(tmp_path / "run", epoch=1)
    whole = (path / "last.pt").read_bytes()
    damaged = left if isinstance(left, bytes) else whole[: len(whole) // 2]
    (path / "last.pt").write_bytes(damaged)
    with pytest.raises(BadInput, match=r"last\.pt: the saved state cannot be read"):
        small.train_quietly(Run.open(path), data)
    assert (path / "last.pt").read_bytes() == damaged


def test_a_loss_that_is_not_finite_says_so_and_keeps_the_last_whole_epoch(data: Dataset, tmp_path: Path) -> None:
    wild = {"epochs": 2, "learning_rate": 1e30}
    made = small.run(tmp_path / "run", data, config=wild)
    with pytest.raises(BadInput, match=r"epoch 1: the loss is (nan|inf); lower train.learning_rate \(now 1e\+30\)"):
        small.train_quietly(made, data)
    assert made.load("last.pt") is None
    with pytest.raises(BadInput, match="no epoch has been trained yet"):
        made.best_model()
