"""Paired bootstrap intervals: how sure a difference of two models is, users being what was sampled.

Both models scored the same samples. Each resample draws users with replacement, all their samples with them, and measures both
models on it; so what makes a user easy or hard for both cancels out. Repeats (seeds) of a model are averaged within a resample.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
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


def auc_difference(
    user: NDArray[np.int64], label: Samples, better: Sequence[Samples], worse: Sequence[Samples], *, seed: int = 0
) -> Interval:
    """The difference of pooled AUC; `better` and `worse` hold the probabilities of every repeat."""
    users, user_S = np.unique(user, return_inverse=True)
    ours, theirs = ([auc_of_weights(label, probability) for probability in each] for each in (better, worse))

    def difference(drawn: NDArray[np.int64]) -> float:
        weight_S = np.bincount(drawn, minlength=len(users)).astype(np.float64)[user_S]
        return float(np.mean([auc(weight_S) for auc in ours]) - np.mean([auc(weight_S) for auc in theirs]))

    everyone = np.arange(len(users))
    drawn = bootstrap(
        (everyone,), difference, vectorized=False, n_resamples=RESAMPLES, method="percentile", confidence_level=_LEVEL,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return Interval(difference(everyone), float(drawn.confidence_interval.low), float(drawn.confidence_interval.high))


def user_auc_difference(
    user: NDArray[np.int64], label: Samples, better: Sequence[Samples], worse: Sequence[Samples], *, seed: int = 0
) -> Interval:
    """The difference of per-user AUC, users weighted by their samples."""
    ours, theirs = ([user_aucs(user, label, probability) for probability in each] for each in (better, worse))
    samples = ours[0]["samples"].to_numpy(dtype=np.float64)
    of_user = np.mean([each["auc"].to_numpy() for each in ours], axis=0) - np.mean(
        [e["auc"].to_numpy() for e in theirs], axis=0
    )

    def mean(weighted: NDArray[np.float64], weight: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        total: NDArray[np.float64] = weighted.sum(axis=axis) / weight.sum(axis=axis)
        return total

    weighted = of_user * samples
    drawn = bootstrap(
        (weighted, samples), mean, paired=True, vectorized=True, n_resamples=RESAMPLES, method="percentile",
        confidence_level=_LEVEL, rng=np.random.default_rng(seed),
    )  # fmt: skip
    whole = float(mean(weighted, samples))
    return Interval(whole, float(drawn.confidence_interval.low), float(drawn.confidence_interval.high))
