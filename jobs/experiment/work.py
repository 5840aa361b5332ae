"""One run of an experiment in a process of its own: `python -m jobs.experiment.work < TASK`.

Trains as `uic train` does, scores the test, and says on standard output how far it is, a JSON object a line. Killed and
started again it goes on from the last whole epoch; two that were started on one run wait for each other.
"""

import fcntl
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.experiment.task import FIGURES, Task
from jobs.train import open_run
from model.experiments.scores import score_test
from model.training.train import Progress, train
from uic.artefact import write_atomically
from uic.errors import UicError

_SAY_EVERY_S = 1.0


Say = Callable[..., None]


def work(task: Task, say: Say) -> None:
    """Train, score and note the figures, unless that is done."""
    with _alone(task.run):
        if task.is_done:
            return
        if task.is_lineage:
            from jobs.experiment.lineage import lineage  # it exports bundles, whose libraries take seconds to load

            figures = lineage(task, say)
            write_atomically(task.run / FIGURES, json.dumps(figures, indent=2) + "\n")
            return
        dataset = task.dataset()
        run = open_run(task.run, dataset, task.config, lambda: task.variant, until_ms=task.until_ms)
        said = 0.0

        def on_progress(at: Progress) -> None:
            nonlocal said
            if time.monotonic() - said >= _SAY_EVERY_S:
                said = time.monotonic()
                say(epoch=at.epoch, of_epochs=task.config.epochs, share=at.samples / at.of_samples)

        def on_epoch(entry: dict[str, Any]) -> None:
            say(epoch=entry["epoch"], of_epochs=task.config.epochs, valid_auc=entry["valid"]["auc"])

        tested = task.tested(dataset)
        train(run, dataset, on_progress, on_epoch, watched=tested)
        scores, figures = score_test(run, dataset, tested)
        scores.save(task.run)
        epochs = run.metrics["epochs"]
        best = run.metrics["best_epoch"]
        figures |= {
            "epochs": len(epochs),
            "best_epoch": best,
            "valid": epochs[best - 1]["valid"],
            "best_test_auc": max(entry["watched"]["auc"] for entry in epochs),
            "parameters": sum(p.numel() for p in run.model().parameters()),
            "seconds": sum(entry["seconds"] for entry in epochs),
            "python": platform.python_version(),
        }
        # Last of all: a run with figures is a finished one.
        write_atomically(task.run / FIGURES, json.dumps(figures, indent=2) + "\n")


def _say(**content: Any) -> None:
    # Where nobody listens any more the pipe is broken, and the run ends with whom it was started by.
    print(json.dumps(content), flush=True)  # noqa: T201  # the pipe to the farm


@contextmanager
def _alone(run: Path) -> Iterator[None]:
    run.parent.mkdir(parents=True, exist_ok=True)
    with run.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    try:
        work(Task.from_json(sys.stdin.read()), _say)
    except UicError as error:
        sys.exit(f"{type(error).__name__}: {error}")
