"""The paired bootstrap: weighted AUC is scikit-learn's, a model is never better than itself, and a better one is found."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import roc_auc_score

from model.experiments.intervals import Compared, Interval, auc_difference, auc_of_weights, user_auc_difference

USERS, EACH = 60, 8
USER = np.repeat(np.arange(USERS), EACH)
LABEL = np.tile(np.array([0, 1], np.float32), USERS * EACH // 2)


def scored(strength: float, seed: int) -> "np.typing.NDArray[np.float32]":
    """Probabilities that know this much of the label."""
    noise = np.random.default_rng(seed).normal(size=len(LABEL))
    return (1 / (1 + np.exp(-(strength * (LABEL - 0.5) + noise)))).astype(np.float32)


@given(
    arrays(np.float32, 12, elements=st.sampled_from([0.1, 0.3, 0.5, 0.7])),
    arrays(np.int64, 12, elements=st.integers(0, 3)),
)
def test_the_weighted_auc_is_the_one_of_scikit_learn_ties_included(
    probability: "np.typing.NDArray[np.float32]", weight: "np.typing.NDArray[np.int64]"
) -> None:
    label = np.tile(np.array([0, 1], np.float32), 6)
    weights = weight + np.array([1, 1] + [0] * 10, np.float64)  # one of both kinds at least
    expected = roc_auc_score(label, probability, sample_weight=weights)
    assert abs(auc_of_weights(label, probability)(weights) - expected) < 1e-12


@settings(max_examples=5)
@given(st.integers(0, 1000))
def test_no_model_is_better_than_itself(seed: int) -> None:
    own = scored(0.5, seed)
    for interval in (
        auc_difference(Compared(USER[:80], LABEL[:80], [own[:80]], [own[:80]])),
        user_auc_difference(Compared(USER[:80], LABEL[:80], [own[:80]], [own[:80]])),
    ):
        assert interval == Interval(0.0, 0.0, 0.0)
        assert interval.verdict == "open"


def test_what_is_better_is_found_and_turned_round_it_is_reversed() -> None:
    good, bad = [scored(2.0, 1), scored(2.0, 2)], [scored(0.3, 3), scored(0.3, 4)]
    for difference in (auc_difference, user_auc_difference):
        one, other = difference(Compared(USER, LABEL, good, bad)), difference(Compared(USER, LABEL, bad, good))
        assert one.verdict == "holds"
        assert other.verdict == "reversed"
        assert np.allclose([one.difference, one.low, one.high], [-other.difference, -other.high, -other.low], atol=0.01)


def test_models_that_are_alike_are_left_open_nineteen_times_in_twenty() -> None:
    pairs = [(scored(1.0, seed), scored(1.0, seed + 100)) for seed in range(30)]
    verdicts = [user_auc_difference(Compared(USER, LABEL, [one], [other])).verdict for one, other in pairs]
    assert verdicts.count("open") >= 26


def test_pairing_makes_the_interval_of_a_small_difference_narrow() -> None:
    one = scored(1.0, 1)
    other = np.clip(one + 0.001 * (LABEL - 0.5), 0, 1).astype(np.float32)
    paired = auc_difference(Compared(USER, LABEL, [other], [one]))
    unpaired = auc_difference(Compared(USER, LABEL, [other], [scored(1.0, 9)]))
    assert paired.high - paired.low < (unpaired.high - unpaired.low) / 5


def test_over_several_days_a_difference_is_the_mean_of_theirs_and_users_are_drawn_for_all_at_once() -> None:
    days = [Compared(USER, LABEL, [scored(2.0, seed)], [scored(0.5, seed + 50)]) for seed in range(3)]
    for difference in (auc_difference, user_auc_difference):
        alone, together = [difference(day) for day in days], difference(*days)
        assert np.isclose(together.difference, np.mean([day.difference for day in alone]))
        # The same day thrice says nothing new; three days of the same users do, for their noise is of each day's own.
        assert np.allclose(difference(*days[:1] * 3), alone[0])
        assert together.high - together.low < min(day.high - day.low for day in alone)


def test_who_is_there_on_one_day_alone_counts_on_that_day() -> None:
    half = len(USER) // 2
    days = [
        Compared(USER[:half], LABEL[:half], [scored(2.0, 1)[:half]], [scored(0.5, 2)[:half]]),
        Compared(USER, LABEL, [scored(2.0, 3)], [scored(0.5, 4)]),
    ]
    for difference in (auc_difference, user_auc_difference):
        low, high = sorted(difference(day).difference for day in days)
        assert low < difference(*days).difference < high
