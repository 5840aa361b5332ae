"""From a log to a dataset: splits, vocabulary, leak check, label, what is left behind."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from toy_logs import HOUR_MS, SOURCE, clean, news_log, settings, steady_log

from model.data.dataset import Dataset
from model.data.leak import UNSEEN
from model.data.prepare import build, prepare
from uic.artefact import new_directory
from uic.errors import BadInput, ForeignDirectory
from uic.vocabulary import FIRST_ROW, UNKNOWN_ROW


def test_the_split_is_one_cut_in_time_for_all_users() -> None:
    made = build(clean(steady_log()), settings(), source=SOURCE)
    times = made.stats["times"]
    spans = made.samples.groupby("split")["time_ms"].agg(["min", "max"])
    assert spans.loc["train", "max"] < times["valid_from_ms"] <= spans.loc["valid", "min"]
    assert spans.loc["valid", "max"] < times["test_from_ms"] <= spans.loc["test", "min"]
    share = (made.events["time_ms"] < times["valid_from_ms"]).mean()
    assert share == pytest.approx(0.8, abs=0.01)


def test_items_seen_fewer_than_k_times_in_training_go_to_the_out_of_vocabulary_row() -> None:
    log = steady_log(items=300)
    made = build(clean(log), settings(min_item_count=3), source=SOURCE)
    training = made.events[made.events["time_ms"] < made.stats["times"]["valid_from_ms"]]
    counts = training["item_id"].value_counts()
    assert 0 < (counts < 3).sum() < len(counts)
    rows = made.vocabularies.items.rows(made.events["item_id"].to_numpy())
    kept = made.events["item_id"].map(counts).fillna(0).to_numpy() >= 3
    assert (rows[~kept] == UNKNOWN_ROW).all()
    assert (rows[kept] >= FIRST_ROW).all()
    # Rare items occur among the training samples: the row is trained.
    trained = made.samples[made.samples["split"] == "train"]["item_id"].to_numpy()
    assert (made.vocabularies.items.rows(trained) == UNKNOWN_ROW).any()


def test_the_row_of_an_id_is_its_place_in_the_vocabulary_plus_two(tmp_path: Path) -> None:
    dataset = prepare(clean(steady_log()), tmp_path / "d", settings(), source=SOURCE)
    with np.load(tmp_path / "d" / "vocabulary.npz", allow_pickle=False) as file:
        items = file["item_ids"]
    assert dataset.vocabularies.items.rows(items).tolist() == list(range(2, len(items) + 2))


def test_categories_seen_once_in_training_have_a_row_and_the_unknown_category_has_none() -> None:
    log = steady_log()
    log.loc[0, "category_id"] = 50  # once, in the training part
    log.loc[len(log) - 1, "category_id"] = 60  # once, in the test part
    log.loc[1:3, "category_id"] = -1
    words = build(clean(log), settings(), source=SOURCE).vocabularies.categories
    assert words.rows(np.array([50])).min() >= FIRST_ROW
    assert words.rows(np.array([60, -1])).tolist() == [UNKNOWN_ROW, UNKNOWN_ROW]


def test_duplicates_and_other_behaviours_are_left_out_and_counted() -> None:
    log = steady_log()
    doubled = pd.concat([log, log.iloc[:25]])
    made = build(clean(doubled), settings(behaviours=("click",)), source=SOURCE)
    left_out = made.stats["left_out"]
    assert left_out["other_behaviours"] == (doubled["behaviour"] == "buy").sum()
    assert left_out["duplicates"] == (log.iloc[:25]["behaviour"] == "click").sum()
    assert set(made.events["behaviour"]) == {"click"} == set(made.stats["parameters"]["behaviours"])
    assert len(made.events) == (log["behaviour"] == "click").sum()


def test_a_behaviour_that_the_log_does_not_have_is_refused() -> None:
    with pytest.raises(BadInput, match=r"behaviours: expected some of buy, click, got share"):
        build(clean(steady_log()), settings(behaviours=("click", "share")), source=SOURCE)


def test_samples_with_a_short_history_are_left_out_and_counted() -> None:
    made = build(clean(steady_log()), settings(min_history=5), source=SOURCE)
    assert made.samples["position"].min() == 5
    assert made.stats["left_out"]["short_history"] == (made.events["position"] < 5).sum()


def test_each_positive_has_its_negatives() -> None:
    made = build(clean(steady_log()), settings(negatives=4), source=SOURCE)
    by_label = made.samples.groupby(["user", "position"])["label"].agg(["sum", "size"])
    assert by_label.to_numpy().tolist() == [[1, 5]] * len(by_label)


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    first, second = (prepare(clean(steady_log()), tmp_path / name, settings(), source=SOURCE) for name in "ab")
    assert first.digest == second.digest
    other = prepare(clean(steady_log()), tmp_path / "c", settings(seed=1), source=SOURCE)
    assert other.digest != first.digest


def test_a_log_whose_items_turn_over_fails_the_leak_check_with_a_wide_window_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=rf'leak check: .*"{UNSEEN}" alone reaches an AUC of 0\.[0-9]+.*--window-hours'):
        prepare(clean(news_log()), tmp_path / "d", settings(hours=60), source=SOURCE)
    assert list(tmp_path.iterdir()) == []


def test_the_same_log_passes_with_a_window_as_short_as_its_items_lives() -> None:
    made = build(clean(news_log()), settings(hours=0.5), source=SOURCE)
    assert all(0.4 <= figures[UNSEEN] <= 0.6 for figures in made.stats["leak_auc"].values())


def test_the_leak_check_fails_in_the_other_direction_too() -> None:
    # All positives are old items, all negatives new ones.
    log = steady_log()
    shown = pd.DataFrame({"user": "u1", "item_id": 100, "category_id": -1, "label": 1, "time_ms": log["time_ms"]})
    new = shown.assign(item_id=999, label=0)
    with pytest.raises(BadInput, match=r"alone reaches an AUC of 0\.000"):
        build(clean(log), settings(), source=SOURCE, impressions=clean(pd.concat([shown, new])))


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_leak_in_one_split_alone_is_enough(split: str) -> None:
    # A window wider than the valid part leaks there, while the whole window of a late test sample is after training.
    log = steady_log()
    times = build(clean(log), settings(), source=SOURCE).stats["times"]
    inside = log["time_ms"].between(times["valid_from_ms"], times["test_from_ms"], inclusive="left")
    leaking = inside if split == "valid" else log["time_ms"] >= times["test_from_ms"]
    shown = log.drop(columns="behaviour").assign(label=(np.arange(len(log)) % 2).astype(np.int8))
    shown["item_id"] = np.where(leaking & (shown["label"] == 1), 999, 100)
    with pytest.raises(BadInput, match=f"leak check: on the {split} samples"):
        build(clean(log), settings(), source=SOURCE, impressions=clean(shown))


def test_leak_figures_are_what_a_loop_over_the_samples_says() -> None:
    from sklearn.metrics import roc_auc_score

    made = build(clean(steady_log(items=200)), settings(), source=SOURCE)
    training = made.events[made.events["time_ms"] < made.stats["times"]["valid_from_ms"]]
    seen = training["item_id"].value_counts()
    for split, figures in made.stats["leak_auc"].items():
        part = made.samples[made.samples["split"] == split]
        scores = []
        for sample in part.itertuples():
            own = made.events[(made.events["user"] == sample.user) & (made.events["position"] < sample.position)]
            scores.append((sample.item_id not in seen, sample.item_id in set(own["item_id"]), seen.get(sample.item_id, 0)))
        expected = [roc_auc_score(part["label"], score) for score in zip(*scores, strict=True)]
        assert list(figures.values()) == pytest.approx(expected)


def test_results_are_labelled_cold_user_where_most_test_users_are_new() -> None:
    log = steady_log()
    known = build(clean(log), settings(), source=SOURCE).stats
    newcomers = log.assign(user=log["user"] + "-" + ((log["time_ms"] - log["time_ms"].min()) // (10 * HOUR_MS)).astype(str))
    cold = build(clean(newcomers), settings(), source=SOURCE).stats
    assert (known["label"], known["cold_user_share"]) == ("known-user", 0)
    assert cold["label"] == "cold-user"
    assert cold["cold_user_share"] > 0.9
    # Twenty of thirty users renamed: more than half are new, and most is what decides.
    some = log.assign(user=np.where(log["user"].str[1:].astype(int) < 20, newcomers["user"], log["user"]))
    mostly = build(clean(some), settings(), source=SOURCE).stats
    assert 0.5 < mostly["cold_user_share"] < 0.9
    assert mostly["label"] == "cold-user"
    assert cold["median_lifetime_minutes"] < 600 < known["median_lifetime_minutes"]


def test_impressions_become_samples_as_they_are_with_their_head_features(tmp_path: Path) -> None:
    log = steady_log()
    rng = np.random.default_rng(0)
    shown = log.drop(columns="behaviour").assign(
        label=rng.integers(2, size=len(log)).astype(np.int8), f_bid=rng.random(len(log)).astype(np.float32)
    )
    dataset = prepare(clean(log), tmp_path / "d", settings(min_history=0), source=SOURCE, impressions=clean(shown))
    samples = dataset.samples()
    assert dataset.features == ("bid",)
    assert dataset.stats["samples_from"] == "impressions"
    assert len(samples) == len(shown)
    assert samples["f_bid"].dtype == np.float32
    # Each impression shows the event of that very moment: it is not in the history.
    events = dataset.events()
    at_position = samples.merge(events, on=["user", "position"], suffixes=("", "_event"))
    assert (at_position["time_ms_event"] >= samples["time_ms"]).all()


def test_a_log_of_one_moment_cannot_be_split() -> None:
    with pytest.raises(BadInput, match="split: expected times that can be cut into three parts"):
        build(clean(steady_log().assign(time_ms=5)), settings(), source=SOURCE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"negatives": 0}, "negatives: expected at least 1, got 0"),
        ({"min_history": -1}, "min-history: expected at least 0, got -1"),
        ({"min_item_count": 0}, "min-item-count: expected at least 1, got 0"),
        ({"train_share": 0.9, "valid_share": 0.1}, "leave something for the test"),
        ({"train_share": float("nan")}, "leave something for the test"),
    ],
)
def test_a_setting_out_of_range_is_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        settings(**change)


def test_a_folder_of_something_else_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ForeignDirectory, match="left as it is"):
        prepare(clean(steady_log()), tmp_path, settings(), source=SOURCE, replace=True, report=pytest.fail)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_dataset_is_replaced_only_when_asked(tmp_path: Path) -> None:
    out = tmp_path / "d"
    first = prepare(clean(steady_log()), out, settings(), source=SOURCE).digest
    with pytest.raises(ForeignDirectory, match="--overwrite"):
        prepare(clean(steady_log()), out, settings(seed=1), source=SOURCE)
    assert Dataset.open(out).digest == first
    assert prepare(clean(steady_log()), out, settings(seed=1), source=SOURCE, replace=True).digest != first


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from toy_logs import SOURCE, clean, settings, steady_log
from model.data.prepare import prepare
import sklearn.metrics
left = {count}
def die(event, args):
    global left
    if event == {event!r} and {name!r} in str(args[0]) and {out!r} in str(args):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(die)
prepare(clean(steady_log()), Path({out!r}) / "d", settings(seed=1), source=SOURCE, replace=True)
"""


@pytest.mark.parametrize(
    ("event", "name", "count"),
    [
        ("os.mkdir", "partial", 1),
        ("open", "stats.json", 1),
        ("os.rename", "", 1),  # the marker is about to be complete
        ("os.rename", "", 2),  # the old one is about to move aside
        ("os.rename", "", 3),  # the old one is aside, the new one not yet in place
        ("shutil.rmtree", "old", 1),  # the new one is in place
    ],
)
def test_kill_9_leaves_the_old_dataset_or_the_new_one(tmp_path: Path, event: str, name: str, count: int) -> None:
    out = tmp_path / "d"
    old = prepare(clean(steady_log()), out, settings(), source=SOURCE).digest
    script = KILLED.format(tests=str(Path(__file__).parent), event=event, name=name, count=count, out=str(tmp_path))
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL

    # Whoever writes next moves back what was aside, and only then decides whether it may be replaced.
    with pytest.raises(ForeignDirectory, match="--overwrite"), new_directory(out, "dataset"):
        pytest.fail("an existing dataset was given up")
    found = Dataset.open(out)
    assert len(found.events()) == 900
    assert (found.digest == old) == (event != "shutil.rmtree")
    prepare(clean(steady_log()), out, settings(seed=2), source=SOURCE, replace=True)
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
