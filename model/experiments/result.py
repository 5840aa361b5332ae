"""From finished runs to a result: means, deviations, and an interval for every claim. What result.json holds."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.experiments.arms import Experiment, Json
from model.experiments.intervals import Interval, auc_difference, user_auc_difference
from model.experiments.scores import Tested

_METRICS = ("auc", "user_auc", "logloss")


@dataclass(frozen=True, kw_only=True)
class Finished:
    """One finished run: its arm's name, its seed, its folder, and what it found (figures.json)."""

    arm: str
    seed: int
    run: Path
    figures: Json


def result_of(experiment: Experiment, runs: Sequence[Finished], context: Json) -> Json:
    """Rows and claims of an experiment; `context` is what the page must say of data, settings, machine and command."""
    by_arm: dict[str, list[Finished]] = {arm.name: [] for arm in experiment.arms}
    for each in runs:
        by_arm[each.arm].append(each)
    scores = {name: [Tested.load(each.run) for each in of_arm] for name, of_arm in by_arm.items()}
    chosen = {group: max(arms, key=lambda name: _valid_auc(by_arm[name])["mean"]) for group, arms in experiment.groups.items()}
    return {
        "experiment": experiment.name,
        "title": experiment.title,
        "about": experiment.about,
        **context,
        "seconds": sum(each.figures["seconds"] for each in {each.run: each for each in runs}.values()),
        "rows": [_row(experiment, name, of_arm) for name, of_arm in by_arm.items()],
        "claims": [_claim(chosen.get(better, better), chosen.get(worse, worse), scores) for better, worse in experiment.claims],
        **({"chosen": chosen} if chosen else {}),
    }


def spread(values: Sequence[float]) -> Json:
    """Mean and sample deviation; no deviation of a single value."""
    return {"mean": statistics.fmean(values), "deviation": statistics.stdev(values) if len(values) > 1 else None}


def _valid_auc(runs: Sequence[Finished]) -> Json:
    return spread([each.figures["valid"]["auc"] for each in runs])


def _row(experiment: Experiment, name: str, runs: Sequence[Finished]) -> Json:
    row: Json = {
        "arm": name,
        "runs": [{"seed": each.seed, "run": each.run.name, **each.figures} for each in runs],
        "paper": {column: rows[name] for column, rows in experiment.paper.items() if name in rows},
        "valid_auc": _valid_auc(runs),
    }
    row |= {metric: spread([each.figures["test"][metric] for each in runs]) for metric in _METRICS}
    if all("best_test_auc" in each.figures for each in runs):
        row["best_test_auc"] = spread([each.figures["best_test_auc"] for each in runs])
    if all("shuffled" in each.figures for each in runs):
        lost = [each.figures["shuffled"]["auc_in_order"] - each.figures["shuffled"]["auc"] for each in runs]
        row["lost_by_shuffling"] = spread(lost)
        row["shuffled_auc"] = spread([each.figures["shuffled"]["auc"] for each in runs])
        row["shuffled_places"] = runs[0].figures["shuffled"]["places"]
    return row


def _claim(better: str, worse: str, scores: Mapping[str, Sequence[Tested]]) -> Json:
    first = scores[better][0]
    for each in (*scores[better], *scores[worse]):
        assert np.array_equal(each.sample, first.sample), "all runs score the same samples in the same order"
    ours, theirs = ([each.probability for each in scores[name]] for name in (better, worse))
    pooled = auc_difference(first.user, first.label, ours, theirs)
    of_users = user_auc_difference(first.user, first.label, ours, theirs)
    alone = [auc_difference_of(first, one, other) for one, other in zip(ours, theirs, strict=True)]
    return {
        "better": better,
        "worse": worse,
        "auc": _interval(pooled),
        "user_auc": _interval(of_users),
        "repeats_for_it": sum(difference > 0 for difference in alone),
        "repeats": len(alone),
    }


def auc_difference_of(scores: Tested, ours: Any, theirs: Any) -> float:
    """The plain difference of AUC of one repeat."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(scores.label, ours) - roc_auc_score(scores.label, theirs))


def _interval(interval: Interval) -> Json:
    return {**interval._asdict(), "verdict": interval.verdict}
