"""Paired bootstrap intervals: how sure a difference of two models is, users being what was sampled.

Both models scored the same samples. Each resample draws users with replacement, all their samples with them, and measures both
models on it; so what makes a user easy or hard for both cancels out. Repeats (seeds) of a model are averaged within a resample,
and so are several tests (days): whoever is drawn is drawn on every day.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import bootstrap

from model.training.metrics import user_aucs

Samples = NDArray[np.float32]
RESAMPLES = 1000
_LEVEL = 0.95


class Interval(NamedTuple):
    """A difference and the middle 95 % of its resamples."""

    difference: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """What may be said of it: `holds`, `reversed`, or `open` where zero is within."""
        return "holds" if self.low > 0 else "reversed" if self.high < 0 else "open"


def auc_of_weights(label: Samples, probability: Samples) -> Callable[[NDArray[np.float64]], float]:
    """AUC as a function of the samples' weights; sorted once, since a bootstrap asks a thousand times.

    >>> auc = auc_of_weights(np.array([0, 1, 1], np.float32), np.array([0.2, 0.1, 0.9], np.float32))
    >>> auc(np.array([1.0, 1.0, 1.0])), auc(np.array([1.0, 1.0, 3.0]))
    (0.5, 0.75)
    """
    order = np.argsort(probability, kind="stable")
    ordered = probability[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    clicks = label[order] > 0

    def auc(weight_S: NDArray[np.float64]) -> float:
        weights = weight_S[order]
        # Samples of one probability are one step of the curve: half of its pairs count.
        positive = np.add.reduceat(np.where(clicks, weights, 0.0), starts)
        negative = np.add.reduceat(np.where(clicks, 0.0, weights), starts)
        below = np.cumsum(negative) - negative
        return float(positive @ (below + negative / 2) / (positive.sum() * negative.sum()))

    return auc


class Compared(NamedTuple):
    """The samples of one test as two models scored them, in every repeat. A user has one number in all tests."""

    user: NDArray[np.int64]
    label: Samples
    better: Sequence[Samples]
    worse: Sequence[Samples]


def auc_difference(*tests: Compared, seed: int = 0) -> Interval:
    """The difference of pooled AUC, the mean of the tests'."""
    users, code = np.unique(np.concatenate([test.user for test in tests]), return_inverse=True)
    code_S = np.split(code, np.cumsum([len(test.user) for test in tests])[:-1])
    ours = [[auc_of_weights(test.label, probability) for probability in test.better] for test in tests]
    theirs = [[auc_of_weights(test.label, probability) for probability in test.worse] for test in tests]

    def difference(drawn: NDArray[np.int64]) -> float:
        weight_U = np.bincount(drawn, minlength=len(users)).astype(np.float64)
        of_tests = [
            np.mean([auc(weight_U[codes]) for auc in better]) - np.mean([auc(weight_U[codes]) for auc in worse])
            for codes, better, worse in zip(code_S, ours, theirs, strict=True)
        ]
        return float(np.mean(of_tests))

    everyone = np.arange(len(users))
    drawn = bootstrap(
        (everyone,), difference, vectorized=False, n_resamples=RESAMPLES, method="percentile", confidence_level=_LEVEL,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return Interval(difference(everyone), float(drawn.confidence_interval.low), float(drawn.confidence_interval.high))


def user_auc_difference(*tests: Compared, seed: int = 0) -> Interval:
    """The difference of per-user AUC within each test, users weighted by their samples."""
    of_users = pd.concat([_of_users(test) for test in tests]).groupby(level=0).sum()
    weighted, samples = of_users["weighted"].to_numpy(), of_users["samples"].to_numpy(dtype=np.float64)

    def mean(weighted: NDArray[np.float64], weight: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        total: NDArray[np.float64] = weighted.sum(axis=axis) / weight.sum(axis=axis)
        return total

    drawn = bootstrap(
        (weighted, samples), mean, paired=True, vectorized=True, n_resamples=RESAMPLES, method="percentile",
        confidence_level=_LEVEL, rng=np.random.default_rng(seed),
    )  # fmt: skip
    whole = float(mean(weighted, samples))
    return Interval(whole, float(drawn.confidence_interval.low), float(drawn.confidence_interval.high))


def _of_users(test: Compared) -> pd.DataFrame:
    """By user: the difference of their AUC times their `samples`, and those."""
    ours, theirs = (
        [user_aucs(test.user, test.label, probability) for probability in each] for each in (test.better, test.worse)
    )
    difference = sum(each["auc"] for each in ours) / len(ours) - sum(each["auc"] for each in theirs) / len(theirs)
    return pd.DataFrame({"weighted": difference * ours[0]["samples"], "samples": ours[0]["samples"]})
