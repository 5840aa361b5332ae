"""What a step of training costs over a table of millions of items, row by row and dense, and how much memory a run takes.

    python -m benchmarks.large_table --items 4000000                 fails where a run takes more than 8 GiB
    python -m benchmarks.large_table --items 50000 500000 4000000    where the two ways meet (train.large_table_rows)

MIMN of the default sizes over a synthetic log of a few thousand of the items; nearly every event of a step is a row of its own.
Each way is a run of
the product's in a process of its own: an epoch, stopped, gone on with from last.pt for another one, and exported. A step is
256 samples, the median counts; memory is the most that the whole process has ever held.
"""

import argparse
import itertools
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from model.data.dataset import Dataset
from model.data.event_log import CleanTable
from model.data.prepare import PrepareSettings, Source, build
from model.data.vocabulary import Vocabularies

BOUND_GIB = 8.0
CATEGORIES = 1_000
_DAY_MS = 86_400_000
WAYS = {"row by row": 1, "dense": sys.maxsize}  # train.large_table_rows


class Cost(NamedTuple):
    """Of one way: a step, the file that training goes on from, and the process after training and after the export."""

    step_ms: float
    steps: int
    last_gib: float
    trained_gib: float
    exported_gib: float


def dataset(path: Path, items: int, *, users: int, length: int) -> Dataset:
    """Everyone clicks at any of a few items, which lie anywhere in a vocabulary of so many."""
    rng = np.random.default_rng(1)
    rows = users * length
    item = rng.choice(rng.choice(items, size=rows // 3, replace=False), size=rows)
    frame = pd.DataFrame(
        {
            "user": [f"u{each}" for each in rng.permutation(np.repeat(np.arange(users), length))],
            "item_id": item,
            "category_id": item % CATEGORIES,
            "behaviour": np.full(rows, "click", dtype=object),
            "time_ms": 1_500_000_000_000 + np.sort(rng.integers(20 * _DAY_MS, size=rows)),
        }
    )
    clean = CleanTable(frame=frame, rows_read=rows, invalid={}, time_unit="ms")
    settings = PrepareSettings(window_ms=10 * _DAY_MS, min_history=0)
    made = build(clean, settings, source=Source(name="synthetic", digest="none"))
    known = Vocabularies(made.vocabularies.items.extended(np.arange(items)), made.vocabularies.categories)
    return Dataset.write(path, events=made.events, samples=made.samples, vocabularies=known, stats=made.stats)


def cost(data: Path, out: Path, large_table_rows: int) -> Cost:
    """Train, go on, export; to be called in a process of its own, since memory is never given back."""
    from jobs.train import open_run
    from model.training.config import TrainConfig
    from model.training.train import Progress, train
    from onnx_export.bundle import export_run
    from uic.models import model_variant

    config = TrainConfig(device="cpu", epochs=1, targets=8, large_table_rows=large_table_rows, patience=9)
    variant = model_variant("mimn", "default", embedding=16, slots=8, switches={})
    opened = Dataset.open(data)
    run = open_run(out, opened, config, variant.to_json)
    spans: list[float] = []
    for epochs in (1, 2):
        ends = [time.perf_counter()]

        def tick(at: Progress, ends: list[float] = ends) -> None:
            ends.append(time.perf_counter())

        train(run.with_epochs(epochs), opened, tick, lambda entry: None)
        # The first span of an epoch holds the making of the model as well.
        spans += [after - before for before, after in itertools.pairwise(ends[1:])]
    trained = _peak_gib()
    export_run(run, out / "bundle")
    last = (out / "last.pt").stat().st_size / 2**30
    return Cost(1000 * statistics.median(spans), len(spans), last, trained, _peak_gib())


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[4_000_000])
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--length", type=int, default=60, help="events of a user")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    asked = parser.parse_args()
    fits = True
    print(f"{'items':>10}  {'way':10} {'ms a step':>10} {'steps':>6} {'last.pt':>9} {'peak: train':>12} {'export':>9}")  # noqa: T201  # a benchmark's output
    for items in asked.items:
        with tempfile.TemporaryDirectory(prefix="large-table-") as folder:
            data = dataset(Path(folder) / "data", items, users=asked.users, length=asked.length).path
            for way in asked.ways:
                with multiprocessing.get_context("spawn").Pool(1) as alone:
                    found = alone.apply(cost, (data, Path(folder) / way, WAYS[way]))
                print(  # noqa: T201  # a benchmark's output
                    f"{items:10,}  {way:10} {found.step_ms:10,.0f} {found.steps:6} {found.last_gib:5.2f} GiB "
                    f"{found.trained_gib:8.2f} GiB {found.exported_gib:5.2f} GiB",
                    flush=True,
                )
                fits &= found.exported_gib <= BOUND_GIB
    if not fits:
        print(f"over the bound of {BOUND_GIB:g} GiB")  # noqa: T201  # a benchmark's output
    return 0 if fits else 1


if __name__ == "__main__":
    sys.exit(main())
