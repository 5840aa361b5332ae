"""Table 5's lineage: a first bundle and daily ones trained on from it, then heads and memories of different days."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from jobs.experiment.task import Task
from jobs.train import open_run
from model.data.dataset import Dataset
from model.experiments.days import ACCUMULATED, IN_STEP, OLDER_HEAD, OLDER_MEMORY
from model.experiments.lineage import Phase, known_by, score_lineage
from model.experiments.scores import Tested
from model.training.run import Run
from model.training.train import Progress, train
from onnx_export.bundle import export_run
from uic import artefact
from uic.bundle import KIND as BUNDLE

_DAILY_EPOCHS = 1  # as a daily training sees its log: once


def lineage(task: Task, say: Callable[..., None]) -> dict[str, Any]:
    """Train what is not trained yet, score every row, and return the figures of all: of each row under `rows`."""
    whole = Dataset.open(task.data)
    runs = _trained(task, whole, say)
    tested = task.tested(whole)
    rows: dict[str, Any] = {}
    for place, (name, (phases, head)) in enumerate(_rows(task, runs).items()):
        scored = score_lineage(whole, phases, head, tested)
        folder = task.run / f"row-{place}"
        folder.mkdir(parents=True, exist_ok=True)
        Tested.of(scored).save(folder)
        rows[name] = {"folder": folder.name, "test": scored.measure("test").to_json(), **_training(runs)}
        if name != IN_STEP:
            rows[name]["seconds"] = 0.0  # all rows are of one training
    return {**rows[IN_STEP], "rows": rows}


def _trained(task: Task, whole: Dataset, say: Callable[..., None]) -> list[Run]:
    """The run of every cut, each but the first trained on from the bundle of the one before."""
    assert task.days is not None
    cuts, runs = task.days.cuts_ms, []
    for number, cut_ms in enumerate(cuts):
        config = task.config if number == 0 else dataclasses.replace(task.config, epochs=_DAILY_EPOCHS)
        run = open_run(
            task.run / f"run-{number}",
            known_by(whole, cut_ms),
            config,
            lambda: task.variant,
            init_from=task.run / f"bundle-{number - 1}" if number else None,
            since_ms=cuts[number - 1] if number else None,
            until_ms=cut_ms,
        )

        def on_progress(at: Progress, number: int = number, epochs: int = config.epochs) -> None:
            say(epoch=at.epoch, of_epochs=f"{epochs} of bundle {number}", share=at.samples / at.of_samples)

        train(run, whole, on_progress, lambda entry: None)
        bundle = task.run / f"bundle-{number}"
        if number < len(cuts) - 1 and artefact.kind_of(bundle) != BUNDLE:
            export_run(run, bundle)
        runs.append(run)
    return runs


def _rows(task: Task, runs: Sequence[Run]) -> dict[str, tuple[list[Phase], Run]]:
    """Who folds which events, and whose head scores."""
    assert task.days is not None
    before, last = runs[-2:]
    cuts = task.days.cuts_ms
    # The bundle of a cut is deployed at that cut; what came before the first is its warm-up.
    starts, ends = [None, *cuts[1:]], [*cuts[1:], None]
    return {
        IN_STEP: ([Phase(last)], last),
        OLDER_MEMORY: ([Phase(before)], last),
        OLDER_HEAD: ([Phase(last)], before),
        ACCUMULATED: ([Phase(*each) for each in zip(runs, starts, ends, strict=True)], last),
    }


def _training(runs: Sequence[Run]) -> dict[str, Any]:
    """What the table says of the training of a row: the last bundle's epoch, the seconds of all."""
    epochs = [entry for run in runs for entry in run.metrics["epochs"]]
    last = runs[-1].metrics
    return {
        "epochs": len(epochs),
        "best_epoch": last["best_epoch"],
        "valid": last["epochs"][last["best_epoch"] - 1]["valid"],
        "seconds": sum(entry["seconds"] for entry in epochs),
        "parameters": sum(p.numel() for p in runs[-1].model().parameters()),
    }
