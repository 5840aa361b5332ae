"""What one run of an experiment is asked to do, as it goes to a process of its own."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jobs.settings import Settings
from model.data.dataset import Dataset
from model.experiments.arms import Arm, Json, content_name
from model.experiments.lineage import known_by
from model.training.config import TrainConfig
from uic.models import AnyVariant

FIGURES = "figures.json"


@dataclass(frozen=True, kw_only=True)
class Days:
    """Where a log is cut when time decides, not the dataset's splits: trained before the last cut, tested from there on.

    cuts_ms      where bundles of a lineage end: the first is trained on all before the first cut, and so on, day by day
    test_to_ms   the test is [last cut, test_to_ms)
    """

    cuts_ms: tuple[int, ...]
    test_to_ms: int


@dataclass(frozen=True, kw_only=True)
class Task:
    """One arm with one seed. `run` is named by what is trained: finished once, it is finished for every table.

    days         None: the splits of the dataset
    is_lineage   a bundle for each cut, each trained on from the one before; else one run up to the last cut
    """

    arm: str
    seed: int
    run: Path
    data: Path
    variant: Json
    train: Json
    days: Days | None = None
    is_lineage: bool = False

    @property
    def is_done(self) -> bool:
        return (self.run / FIGURES).exists()

    def figures(self) -> Json:
        """What the finished run found."""
        content: Json = json.loads((self.run / FIGURES).read_text())
        return content

    def to_json(self) -> str:
        days = None if self.days is None else vars(self.days)
        return json.dumps({**vars(self), "run": str(self.run), "data": str(self.data), "days": days})

    @classmethod
    def from_json(cls, text: str) -> "Task":
        content = json.loads(text)
        days = content["days"]
        days = None if days is None else Days(cuts_ms=tuple(days["cuts_ms"]), test_to_ms=days["test_to_ms"])
        return cls(**{**content, "run": Path(content["run"]), "data": Path(content["data"]), "days": days})

    @property
    def config(self) -> TrainConfig:
        return TrainConfig.from_json(self.train)

    @property
    def until_ms(self) -> int | None:
        return None if self.days is None else self.days.cuts_ms[-1]

    def dataset(self) -> Dataset:
        """The dataset, with the vocabulary of the moment up to which it is trained."""
        whole = Dataset.open(self.data)
        return whole if self.until_ms is None else known_by(whole, self.until_ms)

    def tested(self, dataset: Dataset) -> NDArray[np.bool_]:
        """Which samples are the test."""
        samples = dataset.samples()
        if self.days is None:
            return (samples["split"] == "test").to_numpy()
        time_ms = samples["time_ms"].to_numpy()
        chosen: NDArray[np.bool_] = (time_ms >= self.days.cuts_ms[-1]) & (time_ms < self.days.test_to_ms)
        return chosen


def variant_of(arm: Arm, settings: Settings, length: int) -> AnyVariant:
    """The arm's model in the sizes of these settings; those that look at raw events look at the last `length`."""
    looks_back = {"length": length} if arm.model in ("din", "arnn", "dien") else {}
    switches = {**looks_back, **arm.switches}
    return settings.model.model_copy(update={"name": arm.model, "switches": switches}).variant()


def task_of(
    arm: Arm,
    dataset: Dataset,
    runs: Path,
    variant: AnyVariant,
    config: TrainConfig,
    days: Days | None = None,
    *,
    is_lineage: bool = False,
) -> Task:
    """The task of an arm, named by what decides its result."""
    content: Json = {
        "variant": variant.to_json(),
        "train": config.decisive(),
        "data": dataset.digest,
    }
    if days is not None:
        content |= {"days": vars(days), "is_lineage": is_lineage}
    return Task(
        arm=arm.name,
        seed=config.seed,
        run=runs.absolute() / content_name(arm.model, config.seed, content),
        data=dataset.path.absolute(),
        variant=variant.to_json(),
        train=config.resolved().to_json(),
        days=days,
        is_lineage=is_lineage,
    )
