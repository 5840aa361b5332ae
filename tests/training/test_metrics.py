"""AUC, logloss and per-user AUC, against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from model.training.metrics import measure
from uic.errors import BadInput

# Few distinct probabilities, so that there are ties.
rows = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 1), st.sampled_from([0.1, 0.2, 0.25, 0.5, 0.9])), min_size=2, max_size=60
).filter(lambda drawn: len({label for _, label, _ in drawn}) == 2)


def arrays(
    drawn: list[tuple[int, int, float]],
) -> tuple["np.typing.NDArray[np.int64]", "np.typing.NDArray[np.float32]", "np.typing.NDArray[np.float32]"]:
    user, label, probability = zip(*drawn, strict=True)
    return np.array(user), np.array(label, dtype=np.float32), np.array(probability, dtype=np.float32)


@given(rows)
@settings(max_examples=40)
def test_user_auc_is_the_mean_of_each_users_auc_weighted_by_samples(drawn: list[tuple[int, int, float]]) -> None:
    user, label, probability = arrays(drawn)
    aucs, weights = [], []
    for one in np.unique(user):
        own = user == one
        if len(np.unique(label[own])) == 2:
            aucs.append(roc_auc_score(label[own], probability[own]))
            weights.append(own.sum())
    measured = measure(user, label, probability)
    assert measured.users_with_both_labels == len(aucs)
    assert measured.users == len(np.unique(user))
    if aucs:
        assert measured.user_auc == pytest.approx(np.average(aucs, weights=weights), abs=1e-12)
    else:
        assert np.isnan(measured.user_auc)


@given(rows)
@settings(max_examples=40)
def test_auc_and_logloss_are_those_of_all_samples(drawn: list[tuple[int, int, float]]) -> None:
    user, label, probability = arrays(drawn)
    measured = measure(user, label, probability)
    assert measured.samples == len(drawn)
    assert measured.auc == pytest.approx(roc_auc_score(label, probability), abs=1e-12)
    assert measured.logloss == pytest.approx(log_loss(label, probability.astype(np.float64)), abs=1e-12)


@given(rows)
@settings(max_examples=20)
def test_the_order_of_samples_does_not_matter(drawn: list[tuple[int, int, float]]) -> None:
    order = np.random.default_rng(3).permutation(len(drawn))
    user, label, probability = arrays(drawn)
    there, back = measure(user, label, probability), measure(user[order], label[order], probability[order])
    for name, value in there.to_json().items():
        assert back.to_json()[name] == pytest.approx(value, nan_ok=True, abs=1e-12)


def test_a_user_who_orders_everything_right_has_one_and_ties_count_half() -> None:
    user, label = np.array([1, 1, 2, 2]), np.array([0, 1, 1, 0], dtype=np.float32)
    measured = measure(user, label, np.array([0.1, 0.9, 0.5, 0.5], dtype=np.float32))
    assert measured.user_auc == 0.75


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_label_alone_has_no_auc(label: float) -> None:
    same = np.full(3, label, dtype=np.float32)
    with pytest.raises(BadInput, match="split valid: expected clicks and non-clicks, got 3 samples of one kind"):
        measure(np.arange(3), same, np.full(3, 0.5, dtype=np.float32), "valid")


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_probabilities_that_are_not_finite_are_refused_and_counted(wrong: float) -> None:
    probability = np.array([0.5, wrong, wrong], dtype=np.float32)
    with pytest.raises(BadInput, match="split test: 2 of 3 probabilities are not finite"):
        measure(np.arange(3), np.array([0, 1, 1], dtype=np.float32), probability, "test")
