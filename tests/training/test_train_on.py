"""Training goes on from a bundle: the same memory space, old rows with their meaning, new ones behind them."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import torch
from alone import Alone

from model.data.dataset import Dataset
from model.training.run import Run
from model.training.weights import model_of
from uic.errors import BadInput


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> small.World:
    return small.world(tmp_path_factory.getbasetemp() / "small")


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Another log, of the same users and of items that the first one knew and did not know."""
    return small.dataset(tmp_path_factory.mktemp("later") / "data", users=6, rows=160, items=40, seed=12)


def train_on(world: small.World, later: Dataset, path: Path, **config: Any) -> Run:
    return small.run(path, later, config=config, init_from=world.bundle.path)


def test_the_lineage_goes_on_and_names_its_parent(world: small.World, later: Dataset, tmp_path: Path) -> None:
    made = train_on(world, later, tmp_path / "run")
    assert made.plan.lineage == world.bundle.manifest.lineage == world.run.plan.lineage
    assert made.plan.parent == world.bundle.manifest.version
    assert made.plan.variant == world.bundle.manifest.variant


def test_old_rows_keep_their_meaning_and_new_ids_come_behind(world: small.World, later: Dataset, tmp_path: Path) -> None:
    made = train_on(world, later, tmp_path / "run")
    for new, old, asked in (
        (made.vocabularies.items, world.bundle.items, later.vocabularies.items),
        (made.vocabularies.categories, world.bundle.categories, later.vocabularies.categories),
    ):
        assert new.begins_with(old)
        assert set(new.ids) == set(old.ids) | set(asked.ids)
    assert len(made.vocabularies.items) > len(world.bundle.items)


def test_it_starts_from_the_parents_weights_and_new_rows_from_the_unknown_one(
    world: small.World, later: Dataset, tmp_path: Path
) -> None:
    made = train_on(world, later, tmp_path / "run", epochs=1, learning_rate=1e-30)
    small.train_quietly(made, later)
    began, parent = made.best_model().state_dict(), model_of(world.bundle).state_dict()
    assert began.keys() == parent.keys()
    for name, value in parent.items():
        # Weight decay times the learning rate is far below float32's last digit.
        assert torch.equal(began[name][: len(value)] if value.dim() else began[name], value), name
    new = began["embedding.items.weight"][world.bundle.items.table_rows :]
    assert len(new) > 0
    assert torch.equal(new, parent["embedding.items.weight"][1].expand(len(new), -1))


def test_its_first_loss_is_that_of_the_parent_on_the_new_samples(world: small.World, later: Dataset, tmp_path: Path) -> None:
    made = train_on(world, later, tmp_path / "run", epochs=1, samples_per_step=10**6)
    small.train_quietly(made, later)
    alone = Alone(later, made)
    # The parent's vocabulary has no new ids, so they are unknown to it: the very rows that new ids start from.
    knows_less = Alone(later, dataclasses.replace(made, vocabularies=world.run.vocabularies))
    rows = np.flatnonzero(alone.samples["split"] == "train")
    with torch.no_grad():
        expected = knows_less.losses(model_of(world.bundle), rows, made.plan.config).mean().item()
    assert made.metrics["epochs"][0]["loss"] == pytest.approx(expected, abs=5e-6)


def test_a_run_begun_from_a_bundle_resumes_as_one(world: small.World, later: Dataset, tmp_path: Path) -> None:
    small.trained(tmp_path / "run", later, init_from=world.bundle.path, config={"epochs": 1})
    again = train_on(world, later, tmp_path / "run", epochs=2)
    small.train_quietly(again, later)
    straight = train_on(world, later, tmp_path / "straight", epochs=2)
    small.train_quietly(straight, later)
    assert small.without_seconds(again.metrics) == small.without_seconds(straight.metrics)


def test_a_fresh_run_and_one_from_a_bundle_are_two_plans(world: small.World, later: Dataset, tmp_path: Path) -> None:
    train_on(world, later, tmp_path / "run")
    with pytest.raises(BadInput, match="parent: the run has"):
        small.run(tmp_path / "run", later)


def test_other_head_features_are_refused(world: small.World, tmp_path: Path) -> None:
    featured = small.dataset(tmp_path / "data", features=small.FEATURES)
    with pytest.raises(BadInput, match=r"head features \[\], the dataset has \['price', 'hour'\]"):
        train_on(world, featured, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("since_ms", "until_ms", "cut_off"), [(None, None, "valid_from_ms"), (5, None, "after the last"), (5, 99, "until")]
)
def test_the_training_cut_off_is_where_the_samples_end(
    later: Dataset, tmp_path: Path, since_ms: int | None, until_ms: int | None, cut_off: str
) -> None:
    times = later.stats["times"]
    expected = {"valid_from_ms": times["valid_from_ms"], "after the last": times["last_ms"] + 1, "until": 99}
    made = small.run(tmp_path / "run", later, since_ms=since_ms, until_ms=until_ms)
    assert made.plan.dataset["training_cut_off_ms"] == expected[cut_off]
