"""Memories that outlive their model: where nothing changes hands nothing changes, and each model folds its own days alone."""

from pathlib import Path

import numpy as np
import pytest
import small
from alone import histories_of
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.dataset import Dataset
from model.experiments.days import DAY_MS, busiest_day, cuts
from model.experiments.lineage import Phase, known_by, score_lineage
from model.experiments.long_run import long_run
from model.training.evaluate import score
from model.training.run import Run
from uic.errors import BadInput
from uic.models import Mlp

SPAN_MS = 20 * small.DAY_MS
TESTED_FROM_MS = small.START_MS + 15 * small.DAY_MS


class Case:
    """A log of twenty days, and two runs that differ in their seed."""

    def __init__(self, root: Path) -> None:
        self.data: Dataset = small.dataset(root / "data", users=6, rows=160)
        self.one: Run = small.trained(root / "one", self.data, config={"epochs": 1})
        self.other: Run = small.trained(root / "other", self.data, config={"epochs": 1, "seed": 8})
        self.chosen = (self.data.samples()["time_ms"] >= TESTED_FROM_MS).to_numpy()


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("lineage"))


@settings(max_examples=10)
@given(share=st.floats(0, 0.75))
def test_a_model_that_takes_over_from_itself_at_any_moment_changes_nothing(case: Case, share: float) -> None:
    histories = histories_of(case.data, case.one)
    straight = score(case.one.best_memory(), histories, histories.places(case.chosen))
    cut_ms = small.START_MS + int(share * SPAN_MS)
    phases = [Phase(case.one, None, cut_ms), Phase(case.one, cut_ms, None)]
    handed_on = score_lineage(case.data, phases, case.one, case.chosen)
    np.testing.assert_allclose(handed_on.probability_PN, straight.probability_PN, rtol=0, atol=1e-6)
    assert handed_on.measure().samples == straight.measure().samples


def test_a_model_whose_days_hold_no_event_has_no_say(case: Case) -> None:
    before_ms = small.START_MS - small.DAY_MS
    phases = [Phase(case.one, None, before_ms), Phase(case.one, before_ms, None)]
    alone = score_lineage(case.data, [Phase(case.one)], case.one, case.chosen)
    np.testing.assert_allclose(
        score_lineage(case.data, phases, case.one, case.chosen).probability_PN, alone.probability_PN, rtol=0, atol=1e-6
    )


def test_another_models_memory_is_another_score(case: Case) -> None:
    own = score_lineage(case.data, [Phase(case.one)], case.one, case.chosen).probability_PN
    foreign = score_lineage(case.data, [Phase(case.other)], case.one, case.chosen).probability_PN
    cut_ms = small.START_MS + 10 * small.DAY_MS
    mixed = [Phase(case.other, None, cut_ms), Phase(case.one, cut_ms, None)]
    grown = score_lineage(case.data, mixed, case.one, case.chosen).probability_PN
    assert np.abs(own - foreign).max() > 1e-6
    assert np.abs(own - grown).max() > 1e-6
    assert np.abs(foreign - grown).max() > 1e-6


def test_a_mean_of_events_does_not_age_and_a_memory_that_does_is_measured(case: Case, tmp_path: Path) -> None:
    mlp = small.trained(tmp_path / "mlp", case.data, variant=Mlp(event_width=8), config={"epochs": 1})
    ages = long_run(mlp, case.data, moments=(50, 300))
    assert [age["moved"] for age in ages] == pytest.approx([0.0] * 3, abs=1e-5)
    assert all(age["distance"]["event_pool"] < 1e-4 for age in ages)
    assert ages[-1]["events"] >= 300
    recurrent = long_run(case.one, case.data, moments=(50, 300))
    assert recurrent[0]["moved"] == 0
    assert recurrent[-1]["moved"] > 0
    assert all(np.isfinite(list(age["distance"].values())).all() for age in recurrent)


def test_a_vocabulary_knows_what_was_there_before_its_moment_and_grows(case: Case) -> None:
    early, late = (known_by(case.data, small.START_MS + days * small.DAY_MS).vocabularies.items for days in (3, 30))
    assert set(early.ids) < set(late.ids)
    events = case.data.events("item_id", "time_ms")
    assert set(early.ids) <= set(events[events["time_ms"] < small.START_MS + 3 * small.DAY_MS]["item_id"])


def test_the_last_usual_day_is_tested_and_bundles_end_at_the_midnights_before(case: Case) -> None:
    moments, test_to_ms = cuts(case.data, 3)
    assert len(moments) == 4
    assert all(moment % DAY_MS == 0 for moment in moments)
    assert set(np.diff((*moments, test_to_ms))) == {DAY_MS}
    assert test_to_ms <= case.data.stats["times"]["last_ms"] + DAY_MS
    assert busiest_day(case.data, moments[-1]) < str(np.datetime64(moments[-1], "ms").astype("datetime64[D]"))
    with pytest.raises(BadInput, match="expected a log of at least 42 days"):
        cuts(case.data, 40)
