"""Table 5's industrial rows, on any log with several days: which day is tested, where bundles end, which day was unusual."""

import numpy as np

from model.data.dataset import Dataset
from model.experiments.arms import Arm, Claim, Experiment
from model.experiments.tables import CONTROL
from uic.errors import BadInput

DAY_MS = 86_400_000
IN_STEP = "head and memory in step"
OLDER_MEMORY = "memory a day older"
OLDER_HEAD = "head a day older"
ACCUMULATED = "memory accumulated over the bundles"
ONCE = "MIMN, trained once"
NOT_UNUSUAL = "MIMN, trained once, without the unusual day"
DIEN = "DIEN, trained once"
LINEAGE_ROWS = (IN_STEP, OLDER_MEMORY, OLDER_HEAD, ACCUMULATED)


def cuts(dataset: Dataset, days: int) -> tuple[tuple[int, ...], int]:
    """Where the `days` + 1 bundles end, and where the test ends.

    The tested day is the last one (UTC) with at least half of a usual day's events: logs fade out at their end.
    """
    time_ms = dataset.events("time_ms")["time_ms"].to_numpy(dtype=np.int64)
    day, counts = np.unique(time_ms // DAY_MS, return_counts=True)
    tested = int(day[counts >= np.median(counts) / 2].max())
    first = tested - days
    if first <= day[0]:
        raise BadInput(
            f"{dataset.path}: expected a log of at least {days + 2} days, to train a first bundle and {days} daily ones and to "
            f"test on the day after; it has {tested - int(day[0]) + 1} up to its last usual day"
        )
    return tuple(int(each) * DAY_MS for each in range(first, tested + 1)), (tested + 1) * DAY_MS


def busiest_day(dataset: Dataset, before_ms: int) -> str:
    """The whole day with the most events before a moment: what stands for a day of unusual traffic."""
    time_ms = dataset.events("time_ms")["time_ms"].to_numpy(dtype=np.int64)
    day, counts = np.unique(time_ms[time_ms < before_ms] // DAY_MS, return_counts=True)
    return str(np.datetime64(int(day[counts.argmax()]), "D"))


def table5(days: int, unusual: str) -> Experiment:
    """Table 5 with this many daily bundles and this unusual day."""
    return Experiment(
        name="table5",
        title="Table 5: a head and a memory of different days",
        about=f"A first MIMN, then {days} bundles, each trained on from the last with one day's samples (one epoch, vocabulary "
        "growing); the day after the last one is tested. *In step*: head and memory of the last bundle, the memory re-warmed "
        "from the whole history. *A day older*: the memory, or the head, of the bundle before. *Accumulated*: events folded by "
        "the bundle that was deployed at their time, nothing re-warmed. *Trained once*: on all samples before the tested day, "
        f"with and without those of {unusual}, the unusual day. An open claim means that no difference was found; the "
        "interval says how large one could be.",
        arms=(
            *(Arm(name=name, model="mimn") for name in LINEAGE_ROWS),
            Arm(name=ONCE, model="mimn"),
            Arm(name=NOT_UNUSUAL, model="mimn", train={"exclude_days": (unusual,)}),
            Arm(name=DIEN, model="dien"),
            Arm(name=CONTROL, model="mlp", train={"history": "none"}),
        ),
        claims=(
            Claim(IN_STEP, OLDER_MEMORY),
            Claim(IN_STEP, OLDER_HEAD),
            Claim(IN_STEP, ACCUMULATED),
            Claim(NOT_UNUSUAL, ONCE),
            Claim(ONCE, DIEN),
            Claim(ONCE, CONTROL),
        ),
        paper={"industrial": {ONCE: 0.6644, DIEN: 0.6541}},
    )
