"""At most so many places a user, and at most so many events before each: what is left is what was asked for."""

import numpy as np
import pytest
import small
from alone import histories_of, untrained
from hypothesis import given
from hypothesis import strategies as st

from model.training.config import TrainConfig
from model.training.evaluate import score
from model.training.histories import Histories, Places
from model.training.run import Run
from uic.errors import BadInput


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Histories]:
    root = tmp_path_factory.mktemp("targets")
    data = small.dataset(root / "data", users=6, rows=200)
    run = small.run(root / "run", data)
    return run, histories_of(data, run)


def every(histories: Histories, most: int | None = None) -> Places:
    return histories.places(np.ones(len(histories.samples), dtype=bool), most=most)


@given(most=st.integers(1, 60))
def test_so_many_places_of_a_user_are_kept_and_the_last_is_one(made: tuple[Run, Histories], most: int) -> None:
    histories = made[1]
    whole, kept = every(histories), every(histories, most)
    for user in np.unique(whole.user_P):
        there, left = whole.position_P[whole.user_P == user], kept.position_P[kept.user_P == user]
        assert len(left) == min(most, len(there))
        assert left[-1] == there[-1]
        assert set(left) <= set(there)
        if most < len(there):
            gaps = np.diff(np.searchsorted(there, left))
            assert gaps.size == 0 or gaps.max() - gaps.min() <= 1  # evenly spread


@given(most=st.integers(1, 40))
def test_the_latest_events_are_the_end_of_the_history(made: tuple[Run, Histories], most: int) -> None:
    histories = made[1]
    places = every(histories)
    own, moved = histories.latest(places, most)
    for place in range(0, len(places), 7):
        items, categories = histories.rows_of(int(places.user_P[place]))
        stop = int(places.position_P[place])
        start = max(0, stop - most)
        assert [part.tolist() for part in own.rows_of(place)] == [items[start:stop].tolist(), categories[start:stop].tolist()]
        assert moved.position_P[place] == stop - start


def test_more_events_than_there_are_change_nothing(made: tuple[Run, Histories]) -> None:
    run, histories = made
    places, model = every(histories), untrained(run)
    whole, latest = score(model, histories, places), score(model, histories, places, latest=10_000)
    np.testing.assert_allclose(latest.probability_PN, whole.probability_PN, rtol=0, atol=1e-6)
    assert latest.measure().user_auc == pytest.approx(whole.measure().user_auc, abs=1e-3)


def test_fewer_events_change_what_is_seen(made: tuple[Run, Histories]) -> None:
    run, histories = made
    places, model = every(histories), untrained(run)
    whole, latest = score(model, histories, places), score(model, histories, places, latest=2)
    assert (np.abs(whole.probability_PN - latest.probability_PN).max(axis=1)[places.position_P > 5] > 1e-8).all()


@pytest.mark.parametrize("asked", [{"targets": 0}, {"history_events": 0}])
def test_none_at_all_is_refused(asked: dict[str, int]) -> None:
    with pytest.raises(BadInput, match="expected at least 1, got 0"):
        TrainConfig(**asked)  # type: ignore[arg-type]  # one field or the other
