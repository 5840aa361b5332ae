"""At which day did the AUC break? From scores of the same labelled samples, day after day; no store and no file in here.

Samples of one user hang together, so users are drawn anew and not samples. A day broke something where the samples are told
apart worse from the memories after it than from those before it, in all but `ALPHA` of the draws, shared among all days that
are looked at (Bonferroni: looking at seven days must not find seven times as much), and by `least` at least. That is a paired
comparison: the same users are drawn for both.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from uic.errors import BadInput

ALPHA = 0.05
DRAWS = 2000
_AT_ONCE = 50
Numbers = NDArray[np.float64]


class Estimate(NamedTuple):
    """An AUC, and the bounds of its central 95 % over the draws."""

    auc: float
    low: float
    high: float


class Step(NamedTuple):
    """How the AUC changed from one place to the next, and up to which change all draws but the tolerated ones went."""

    change: float
    at_most: float
    is_break: bool


def estimates(
    scores_KS: Numbers, labels_S: NDArray[np.int8], users_S: Sequence[str], *, draws: int = DRAWS, seed: int = 0
) -> Numbers:
    """AUC of K scores of the same samples, in its first column as they are, then of each draw of users: [K, 1 + draws].

    >>> estimates(np.array([[0.1, 0.4, 0.4, 0.8]]), np.array([0, 0, 1, 1], np.int8), list("abcd"))[0, 0].item()
    0.875
    """
    if labels_S.min(initial=1) == labels_S.max(initial=0):
        raise BadInput("samples: expected some of label 1 and some of label 0, to tell them apart; got one label alone")
    _, user_S = np.unique(np.asarray(users_S), return_inverse=True)
    count = int(user_S.max()) + 1
    rng = np.random.default_rng(seed)
    found = np.empty((len(scores_KS), 1 + draws))
    ranked = [_Ranked.of(scores_S, labels_S) for scores_S in scores_KS]
    for start in range(0, 1 + draws, _AT_ONCE):
        size = min(_AT_ONCE, 1 + draws - start)
        times_BU = rng.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float64)
        if start == 0:
            times_BU[0] = 1.0
        weights_BS = times_BU[:, user_S]
        for place, each in enumerate(ranked):
            found[place, start : start + size] = each.auc(weights_BS)
    return found


def summary(found_KB: Numbers) -> list[Estimate]:
    low_K, high_K = np.nanquantile(found_KB[:, 1:], [0.025, 0.975], axis=1)
    return [Estimate(float(a), float(b), float(c)) for a, b, c in zip(found_KB[:, 0], low_K, high_K, strict=True)]


def steps(found_KB: Numbers, least: float) -> list[Step]:
    """The changes from each place to the next."""
    changes_KB = np.diff(found_KB, axis=0)
    level = 1 - ALPHA / max(1, len(changes_KB))
    at_most_K = np.nanquantile(changes_KB[:, 1:], level, axis=1)
    return [
        Step(float(change), float(at_most), bool(at_most < 0 and change <= -least))
        for change, at_most in zip(changes_KB[:, 0], at_most_K, strict=True)
    ]


class _Ranked(NamedTuple):
    """Samples in the order of their scores. `begins_G`: where each group of equal scores begins."""

    order_S: NDArray[np.intp]
    positive_S: NDArray[np.bool_]
    begins_G: NDArray[np.intp]

    @classmethod
    def of(cls, scores_S: Numbers, labels_S: NDArray[np.int8]) -> "_Ranked":
        order_S = np.argsort(scores_S, kind="stable")
        ordered_S = scores_S[order_S]
        begins_G = np.flatnonzero(np.concatenate(([True], ordered_S[1:] != ordered_S[:-1])))
        return cls(order_S, labels_S[order_S] == 1, begins_G)

    def auc(self, weights_BS: Numbers) -> Numbers:
        """The weighted share of pairs in the right order, ties counting half; NaN where a draw has one label alone."""
        ordered_BS = weights_BS[:, self.order_S]
        positive_BG = np.add.reduceat(ordered_BS * self.positive_S, self.begins_G, axis=1)
        negative_BG = np.add.reduceat(ordered_BS * ~self.positive_S, self.begins_G, axis=1)
        below_BG = np.cumsum(negative_BG, axis=1) - negative_BG
        right_B = (positive_BG * (below_BG + negative_BG / 2)).sum(axis=1)
        pairs_B = positive_BG.sum(axis=1) * negative_BG.sum(axis=1)
        with np.errstate(invalid="ignore"):
            result: Numbers = np.where(pairs_B > 0, right_B / pairs_B, np.nan)
        return result
