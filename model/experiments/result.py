"""From finished runs to a result: means, deviations, and an interval for every claim. What result.json holds."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.experiments.arms import Experiment, Json
from model.experiments.intervals import Compared, Interval, auc_difference, user_auc_difference
from model.experiments.scores import Tested

_METRICS = ("auc", "user_auc", "logloss")


@dataclass(frozen=True, kw_only=True)
class Finished:
    """One finished run: its arm's name, its seed, its folder, what it found (figures.json), and which day tested it, if several
    did."""

    arm: str
    seed: int
    run: Path
    figures: Json
    day: str = ""


# By day: the user of each row of the dataset's samples, by a number that they have on all days. One day alone needs none.
People = Mapping[str, NDArray[np.int64]]


def result_of(experiment: Experiment, runs: Sequence[Finished], context: Json, people: People | None = None) -> Json:
    """Rows and claims of an experiment; `context` is what the page must say of data, settings, machine and command.

    Several days are one table: a figure is the mean of theirs, and `people` says who is whom on another day.
    """
    by_arm: dict[str, list[Finished]] = {arm.name: [] for arm in experiment.arms}
    for each in runs:
        by_arm[each.arm].append(each)
    scores = {name: _scores(of_arm, people or {}) for name, of_arm in by_arm.items()}
    chosen = {group: max(arms, key=lambda name: _valid_auc(by_arm[name])["mean"]) for group, arms in experiment.groups.items()}
    return {
        "experiment": f"{experiment.name}-days" if people else experiment.name,
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


def _over_repeats(runs: Sequence[Finished], value: Callable[[Json], float]) -> Json:
    """The spread of a figure over the repeats, each of them the mean of its days."""
    by_seed: dict[int, list[float]] = {}
    for each in runs:
        by_seed.setdefault(each.seed, []).append(value(each.figures))
    return spread([statistics.fmean(values) for values in by_seed.values()])


def _of_test(metric: str, figures: Json) -> float:
    return float(figures["test"][metric])


def _valid_auc(runs: Sequence[Finished]) -> Json:
    return _over_repeats(runs, lambda figures: figures["valid"]["auc"])


def _row(experiment: Experiment, name: str, runs: Sequence[Finished]) -> Json:
    days = list(dict.fromkeys(each.day for each in runs))
    row: Json = {
        "arm": name,
        "runs": [
            {"seed": each.seed, "run": each.run.name, **({"day": each.day} if each.day else {}), **each.figures}
            for each in runs
        ],
        "paper": {column: rows[name] for column, rows in experiment.paper.items() if name in rows},
        "valid_auc": _valid_auc(runs),
    }
    row |= {metric: _over_repeats(runs, partial(_of_test, metric)) for metric in _METRICS}
    if any(days):
        row["days"] = {day: spread([each.figures["test"]["auc"] for each in runs if each.day == day]) for day in days}
    if all("best_test_auc" in each.figures for each in runs):
        row["best_test_auc"] = _over_repeats(runs, lambda figures: figures["best_test_auc"])
    if all("shuffled" in each.figures for each in runs):
        row["lost_by_shuffling"] = _over_repeats(runs, lambda at: at["shuffled"]["auc_in_order"] - at["shuffled"]["auc"])
        row["shuffled_auc"] = _over_repeats(runs, lambda at: at["shuffled"]["auc"])
        row["shuffled_places"] = runs[0].figures["shuffled"]["places"]
    return row


def _scores(runs: Sequence[Finished], people: People) -> dict[str, list[Tested]]:
    """By day: what each repeat scored, users by the number that they have on all days."""
    scores: dict[str, list[Tested]] = {}
    for each in runs:
        tested = Tested.load(each.run)
        known = tested if each.day not in people else tested._replace(user=people[each.day][tested.sample])
        scores.setdefault(each.day, []).append(known)
    return scores


def _claim(better: str, worse: str, scores: Mapping[str, Mapping[str, Sequence[Tested]]]) -> Json:
    tests = [_compared(scores[better][day], scores[worse][day]) for day in scores[better]]
    alone_DR = np.array([_of_repeats(test) for test in tests])  # by day and repeat
    claim = {
        "better": better,
        "worse": worse,
        "auc": _interval(auc_difference(*tests)),
        "user_auc": _interval(user_auc_difference(*tests)),
        "repeats_for_it": int((alone_DR.mean(axis=0) > 0).sum()),
        "repeats": alone_DR.shape[1],
    }
    if len(tests) > 1:
        claim |= {"days_for_it": int((alone_DR.mean(axis=1) > 0).sum()), "days": len(tests)}
    return claim


def _compared(better: Sequence[Tested], worse: Sequence[Tested]) -> Compared:
    first = better[0]
    for each in (*better, *worse):
        assert np.array_equal(each.sample, first.sample), "all runs score the same samples in the same order"
    return Compared(first.user, first.label, [each.probability for each in better], [each.probability for each in worse])


def _of_repeats(test: Compared) -> list[float]:
    """The plain difference of AUC of each repeat."""
    from sklearn.metrics import roc_auc_score

    return [
        float(roc_auc_score(test.label, one) - roc_auc_score(test.label, other))
        for one, other in zip(test.better, test.worse, strict=True)
    ]


def _interval(interval: Interval) -> Json:
    return {**interval._asdict(), "verdict": interval.verdict}
