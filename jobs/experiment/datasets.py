"""What an experiment is given: one dataset, or those of several days, each tested by models of its own."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jobs.experiment.task import Task
from model.data.dataset import KIND, Dataset
from model.experiments.arms import Json
from uic.artefact import kind_of
from uic.errors import BadInput

# What these show beside AUC is of one dataset: memories, histories, bundles of one lineage.
_OF_ONE = ("table5", "fig1", "fig6", "long-run")


def datasets_of(path: Path, experiment: str) -> list[Dataset]:
    """The dataset there, or the days that `uic data prepare --progressive` wrote there, in their order."""
    days = []
    if path.is_dir() and kind_of(path) != KIND:
        # What begins with a dot is being written, or was when its writer was killed (uic/artefact.py).
        days = [each for each in sorted(path.iterdir()) if not each.name.startswith(".") and kind_of(each) == KIND]
    if not days:
        return [Dataset.open(path)]
    if len(days) > 1 and experiment in _OF_ONE:
        names = ", ".join(each.name for each in days)
        raise BadInput(f"{path}: {experiment} is about one dataset, and this folder has several: name one of {names}")
    datasets = [Dataset.open(each) for each in days]
    sources = {str(each.stats["source"]["digest"]): each.path for each in datasets}
    if len(sources) > 1:
        raise BadInput(f"{path}: expected days of one log, got several: {', '.join(map(str, sources.values()))}")
    return datasets


def people_of(datasets: list[Dataset]) -> dict[str, NDArray[np.int64]]:
    """By day, the number of each sample's user, the same on all days; of one dataset nobody asks."""
    if len(datasets) == 1:
        return {}
    users = [each.samples()["user"].to_numpy() for each in datasets]
    _, number = np.unique(np.concatenate(users), return_inverse=True)
    parts = np.split(number.astype(np.int64), np.cumsum([len(each) for each in users])[:-1])
    return {each.path.name: part for each, part in zip(datasets, parts, strict=True)}


def described(datasets: list[Dataset], task: Task) -> Json:
    """What a page says of the data; of several days, the log up to the last of them and the tests of all."""
    last = datasets[-1]
    stats = last.stats
    users = [each.samples()[task.tested(each)]["user"] for each in datasets]
    valid = [sum(each.stats["samples"]["valid"].values()) for each in datasets]
    return {
        "name": stats["source"]["name"],
        "label": last.label,
        "digest": last.digest,
        **({"days": [each.path.name for each in datasets]} if len(datasets) > 1 else {}),
        "events": stats["events"],
        "users": stats["users"],
        "items": stats["items"],
        "history": "/".join(map(str, stats["history_length"].values())),
        "window": f"{stats['parameters']['window_ms'] / 3_600_000:g} hours",
        "valid_samples": None if task.days else sum(valid),
        "test_samples": sum(map(len, users)),
        "test_users": len(set().union(*(each.unique() for each in users))),
    }
