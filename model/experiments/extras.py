"""What figures 1 and 6 and the long run show beside AUC."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.data.dataset import Dataset
from model.experiments.arms import Json
from model.experiments.long_run import long_run
from model.experiments.result import Finished, spread
from model.experiments.writes import measured, writes_of
from model.nn.ctr import MimnCtr
from model.training.histories import Histories
from model.training.run import Run

_DAY_MS = 86_400_000
_DAYS = (1, 2, 3, 5, 7, 14, 30, 60, 90, 120)


def slot_shares(runs: Sequence[Finished]) -> Json:
    """By arm: the mean share of the most written slot, of the second, and so on; and how even they are.

    `evenness` is the entropy of a memory's shares over that of equal ones, averaged over the memories: 1 is level, 0 one slot.
    """
    found: Json = {}
    for arm in dict.fromkeys(each.arm for each in runs):
        shares_RPM = [Run.open(each.run).utilization_shares() for each in runs if each.arm == arm]
        even = [float(_evenness(shares_PM).mean()) for shares_PM in shares_RPM]
        found[arm] = {
            "shares": np.mean([shares_PM.mean(axis=0) for shares_PM in shares_RPM], axis=0).tolist(),
            "evenness": spread(even),
            "largest_share": spread([float(shares_PM[:, 0].mean()) for shares_PM in shares_RPM]),
            "memories": len(shares_RPM[0]),
        }
    return found


def slot_writes(runs: Sequence[Finished], dataset: Dataset) -> Json:
    """By arm: what single events write, over histories of the validation (model/experiments/writes.py), mean over the repeats;
    and `shares`, sorted within each memory as `slot_shares` are, of what was written rather than of what g counted."""
    found: Json = {}
    for arm in dict.fromkeys(each.arm for each in runs):
        opened = [Run.open(each.run) for each in runs if each.arm == arm]
        figures, shares = [], []
        for run in opened:
            histories = Histories.of(dataset, *run.vocabularies)
            model = run.best_memory().eval()
            assert isinstance(model, MimnCtr)
            written = writes_of(model, histories, (histories.samples["split"] == "valid").to_numpy())
            figures.append(measured(written))
            shares.append(-np.sort(-written.shares_UM, axis=1))
        found[arm] = {name: spread([each[name] for each in figures]) for name in figures[0]}
        found[arm] |= {
            "shares": np.mean([shares_UM.mean(axis=0) for shares_UM in shares], axis=0).tolist(),
            "evenness": spread([float(_evenness(shares_UM).mean()) for shares_UM in shares]),
            "memories": len(shares[0]),
        }
    return found


def history_by_days(dataset: Dataset) -> Json:
    """How many events the test's users had in the last so many days before their last sample, on average."""
    samples = dataset.samples("test")
    ends = samples.groupby("user")["time_ms"].max()
    events = dataset.events("user", "time_ms")
    events = events[events["user"].isin(ends.index)]
    age_ms = events["user"].map(ends).to_numpy() - events["time_ms"].to_numpy()
    before = age_ms > 0
    span = int(np.ceil(age_ms.max(initial=0) / _DAY_MS))
    days = [day for day in _DAYS if day < span] + [span]
    return {
        "users": len(ends),
        "mean_events": {str(day): float((before & (age_ms <= day * _DAY_MS)).sum() / len(ends)) for day in days},
    }


def long_runs(runs: Sequence[Finished], dataset: Dataset) -> Json:
    """By arm: what is left of a memory after ten thousand events, of the first repeat."""
    first = {each.arm: each for each in reversed(runs)}
    return {arm: long_run(Run.open(first[arm].run), dataset) for arm in dict.fromkeys(each.arm for each in runs)}


def _evenness(shares_PM: NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.float64]:
    shares = np.maximum(shares_PM.astype(np.float64), 1e-12)
    entropy: NDArray[np.float64] = -(shares * np.log(shares)).sum(axis=1) / np.log(shares.shape[1])
    return entropy
