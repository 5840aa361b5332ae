"""Which samples a run trains on, and that their histories are whole whatever was left out.

The loss of a first epoch whose only step comes at its end is the mean loss of the samples trained on, under the weights that
the run begins with: so the slow way of alone.py can tell which samples they were, and from what they were scored.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import small
import torch
from alone import Alone, histories_of, untrained
from numpy.typing import NDArray

from model.data.dataset import Dataset
from model.training.evaluate import score
from model.training.histories import Histories
from model.training.run import Run
from model.training.train import training_samples
from uic.errors import BadInput

DAY = "2017-07-18"
DAY_START_MS = int(np.datetime64(DAY, "ms").astype(np.int64))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return small.dataset(tmp_path_factory.mktemp("samples") / "data", users=5, rows=70, items=10)


def first_epoch(path: Path, data: Dataset, *, asked: dict[str, Any] | None = None, **config: Any) -> Run:
    return small.trained(path, data, config={"epochs": 1, "samples_per_step": 10**6, **config}, **(asked or {}))


def trained_loss(made: Run) -> float:
    return float(made.metrics["epochs"][0]["loss"])


def expected_loss(data: Dataset, made: Run, chosen: "pd.Series[bool]") -> float:
    alone = Alone(data, made)
    with torch.no_grad():
        return alone.losses(untrained(made), np.flatnonzero(chosen), made.plan.config).mean().item()


def samples(data: Dataset) -> tuple[pd.DataFrame, "pd.Series[bool]"]:
    table = data.samples()
    return table, table["split"] == "train"


def test_all_trains_on_every_sample_of_the_training_split(data: Dataset, tmp_path: Path) -> None:
    made = first_epoch(tmp_path / "run", data)
    assert trained_loss(made) == pytest.approx(expected_loss(data, made, samples(data)[1]), abs=2e-6)


def test_last_trains_on_each_users_last_place_alone(data: Dataset, tmp_path: Path) -> None:
    made = first_epoch(tmp_path / "run", data, targets="last")
    table, train = samples(data)
    last = table["position"] == table[train].groupby("user")["position"].max().reindex(table["user"]).to_numpy()
    assert 0 < (train & last).sum() < train.sum()
    assert trained_loss(made) == pytest.approx(expected_loss(data, made, train & last), abs=2e-6)


def test_samples_of_an_excluded_day_are_not_trained_on_but_its_events_stay_in_the_histories(
    data: Dataset, tmp_path: Path
) -> None:
    made = first_epoch(tmp_path / "run", data, exclude_days=(DAY,))
    table, train = samples(data)
    on_the_day = (table["time_ms"] >= DAY_START_MS) & (table["time_ms"] < DAY_START_MS + small.DAY_MS)
    assert (train & on_the_day).sum() > 0
    assert trained_loss(made) == pytest.approx(expected_loss(data, made, train & ~on_the_day), abs=2e-6)


def test_an_excluded_day_is_one_of_the_utc_calendar(data: Dataset, tmp_path: Path) -> None:
    made = small.run(tmp_path / "run", data, config={"exclude_days": (DAY,)})
    histories = histories_of(data, made)
    chosen, held_out = training_samples(histories, made)
    left_out = histories.samples[(histories.samples["split"] == "train") & ~chosen]
    assert set(pd.to_datetime(left_out["time_ms"], unit="ms").dt.strftime("%Y-%m-%d")) == {DAY}
    assert (histories.samples["split"][held_out] == "valid").all()


def test_a_window_trains_on_its_samples_of_any_split_but_for_the_latest_tenth(data: Dataset, tmp_path: Path) -> None:
    table = data.samples()
    since_ms, until_ms = (int(table["time_ms"].quantile(share)) for share in (0.3, 0.95))
    made = first_epoch(tmp_path / "run", data, asked={"since_ms": since_ms, "until_ms": until_ms})
    inside = (table["time_ms"] >= since_ms) & (table["time_ms"] < until_ms)
    chosen, held_out = training_samples(histories_of(data, made), made)

    assert not (chosen & held_out).any()
    assert ((chosen | held_out) == inside).all()
    assert set(table["split"][chosen | held_out]) == {"train", "valid", "test"}
    assert table["time_ms"][chosen].max() < table["time_ms"][held_out].min()
    assert held_out.sum() / inside.sum() == pytest.approx(0.1, abs=0.04)
    assert trained_loss(made) == pytest.approx(expected_loss(data, made, pd.Series(chosen)), abs=2e-6)
    assert made.metrics["epochs"][0]["valid"]["samples"] == held_out.sum()


@pytest.mark.parametrize("asked", [{"since_ms": 0}, {"until_ms": 1 << 60}])
def test_a_window_open_at_one_end_holds_every_sample(data: Dataset, tmp_path: Path, asked: dict[str, int]) -> None:
    made = small.run(tmp_path / "run", data, **asked)
    chosen, held_out = training_samples(histories_of(data, made), made)
    assert (chosen | held_out).all()


def test_an_empty_window_is_refused(data: Dataset, tmp_path: Path) -> None:
    made = small.run(tmp_path / "run", data, since_ms=1, until_ms=2)
    with pytest.raises(BadInput, match="expected samples to train and validate on, got 0 and 0 places"):
        small.train_quietly(made, data)


def test_without_history_every_memory_is_the_initial_one(data: Dataset, tmp_path: Path) -> None:
    made = first_epoch(tmp_path / "run", data, history="none")
    table, train = samples(data)
    alone, model = Alone(data, made), untrained(made)

    def losses() -> NDArray[np.float64]:
        state = model.initial_state(1)
        logits = torch.stack([alone.logits(model, table.iloc[row], state) for row in np.flatnonzero(train)])
        p = torch.softmax(logits.double(), dim=-1)[:, 0].numpy()
        label = table["label"][train].to_numpy()
        return -(label * np.log(p) + (1 - label) * np.log(1 - p))

    with torch.no_grad():
        assert trained_loss(made) == pytest.approx(losses().mean(), abs=2e-6)
    best = made.best_model()
    histories = histories_of(data, made)
    valid = histories.places((histories.samples["split"] == "valid").to_numpy())
    assert made.metrics["best_auc"] == score(best, histories, valid, without_history=True).measure().auc
    # What only a step changes has learned nothing.
    torch.testing.assert_close(best.step.channel.gates.weight, model.step.channel.gates.weight, rtol=0, atol=1e-6)


def test_a_user_shown_something_before_any_event_has_a_place_and_an_empty_history(tmp_path: Path) -> None:
    data = small.dataset(tmp_path / "data", users=4, rows=60, items=8)
    samples = data.samples()
    strangers = samples.head(2).assign(user=["new-1", "new-2"], position=0)
    shown = Dataset.write(
        tmp_path / "shown",
        events=data.events(),
        samples=pd.concat([samples, strangers]),
        vocabularies=data.vocabularies,
        stats={name: value for name, value in data.stats.items() if name != "format"},
    )
    histories = Histories.of(shown, *shown.vocabularies)
    places = histories.places(shown.samples()["user"].isin(["new-1", "new-2"]).to_numpy())
    assert sorted(histories.users[places.user_P]) == ["new-1", "new-2"]
    assert all(len(histories.rows_of(int(user))[0]) == 0 for user in places.user_P)
