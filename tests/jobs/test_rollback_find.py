"""At which day the AUC broke: what is found in streams with a bad day, and what is not in those without."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from benchmarks.find_page import page
from jobs.rollback.change import Estimate, _Ranked, estimates, steps, summary
from jobs.rollback.find import AsOf, Found, find, read_samples, write
from uic.clock import Days
from uic.errors import BadInput
from uic.runtime import OnnxStep
from uic.store.contract import InMemoryStore
from uic.update import Rules

FIRST = date(2026, 1, 1)
SCORES = st.integers(0, 5).map(lambda number: number / 4)


@given(st.lists(st.tuples(SCORES, st.booleans(), st.integers(0, 3)), min_size=2, max_size=40))
def test_the_auc_of_a_draw_is_the_one_of_its_samples_counted_so_often(rows: list[tuple[float, bool, int]]) -> None:
    scores, labels, weights = (np.array(column) for column in zip(*rows, strict=True))
    found = _Ranked.of(scores, labels.astype(np.int8)).auc(weights[None].astype(np.float64))[0]
    if len(set(labels[weights > 0])) < 2:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights))


def scores_of(days: int, broken: int | None, seed: int, users: int = 200) -> tuple[Any, Any, list[str]]:
    """Scores that tell labels apart alike on all days, up to a day from which on they are half as good."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 4 * users).astype(np.int8)
    names = [f"u{number // 4}" for number in range(4 * users)]
    lasting = rng.normal(size=len(labels))
    rows = []
    for day in range(days):
        signal = 0.4 if broken is not None and day > broken else 1.2
        rows.append(signal * labels + lasting + 0.3 * rng.normal(size=len(labels)))
    return np.array(rows), labels, names


@pytest.mark.parametrize("broken", range(7))
def test_the_day_that_broke_something_is_named(broken: int) -> None:
    found = steps(estimates(*scores_of(8, broken, seed=broken), draws=400), least=0.01)
    assert [step.is_break for step in found] == [day == broken for day in range(7)]


def test_of_clean_streams_hardly_one_is_accused() -> None:
    found = [steps(estimates(*scores_of(8, None, seed, users=60), draws=400), 0.0) for seed in range(40)]
    assert sum(any(step.is_break for step in each) for each in found) <= 5  # 0.05 of 40 is 2


def test_an_interval_holds_the_estimate_and_one_label_alone_is_refused() -> None:
    scores, labels, names = scores_of(2, None, 1)
    for each in summary(estimates(scores, labels, names, draws=100)):
        assert each.low < each.auc < each.high
    with pytest.raises(BadInput, match="one label alone"):
        estimates(scores, np.ones_like(labels), names)


def days_of(world: small.World) -> InMemoryStore:
    """The world's events on six days."""
    bundle, days = world.bundle, Days("UTC")
    updater = bundle.updater(OnnxStep(bundle), Rules(lateness_ms=1 << 50))
    store = InMemoryStore()
    part = -(-len(world.events) // 6)
    blobs: dict[str, bytes] = {}
    for number, event in enumerate(world.events):
        log_time_ms = days.begins_ms(FIRST) + number // part * 86_400_000 + number
        done = updater.update(blobs.get(event.user_id), event, log_time_ms=log_time_ms)
        if done.blob is not None:
            blobs[event.user_id] = done.blob
            store.write(event.user_id, done.blob)
    return store


def test_memories_of_each_kept_day_are_scored_and_told_about(world: small.World, tmp_path: Path) -> None:
    samples = read_samples(world.data.path, world.bundle)
    store: Any = days_of(world)  # readable as one on disk is
    found = find(samples, world.bundle, store, least=0.01, sources={"2026-01-02": {"app": 1.0}})
    assert [place.day for place in found.places] == ["2025-12-31", *(f"2026-01-{day:02}" for day in range(1, 7)), "now"]
    assert [place.users for place in found.places[:2]] == [0, 0]
    assert found.places[2].events > 0
    assert found.samples == len(samples)
    assert [place.users for place in found.places] == sorted(place.users for place in found.places)
    last = found.places[-1]
    assert last.sources == {}
    assert 1 <= last.effective <= world.bundle.layout.variant.slots
    table, picture = write(found, tmp_path / "out")
    assert json.loads(table.read_text())["samples"] == len(samples)
    assert picture.read_bytes().startswith(b"\x89PNG")


def place(day: str, sources: dict[str, float]) -> AsOf:
    return AsOf(day=day, auc=Estimate(0.6, 0.5, 0.7), users=1, events=1, update=1.0, norm=1.0, effective=1.0, sources=sources)


@given(st.lists(st.integers(0, 64).map(lambda number: number / 64), min_size=2, max_size=8))
def test_the_day_on_which_a_source_takes_a_fifth_of_the_events_from_others_is_told(shares: list[float]) -> None:
    """Of the day that ends at a place are its shares; nothing is known of the day before the first."""
    days = [f"2026-01-{number:02}" for number in range(1, len(shares) + 1)]
    places = [
        place(days[0], {}),
        *(place(day, {"app": 1 - share, "farm": share}) for day, share in zip([*days[1:], "now"], shares, strict=True)),
    ]
    steps = [
        (day, now, before) for day, before, now in zip(days[1:], shares, shares[1:], strict=False) if abs(now - before) >= 0.2
    ]
    shift = Found(places=places, steps=[], samples=1).shift
    if not steps:
        assert shift is None
        return
    day, now, before = steps[0]
    grown = ("farm", before, now) if now > before else ("app", 1 - before, 1 - now)
    assert shift == (day, *grown)


def test_a_table_that_is_none_and_a_store_without_days_are_refused(world: small.World, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="expected a samples table"):
        read_samples(tmp_path / "nothing.parquet", world.bundle)
    store: Any = InMemoryStore()
    with pytest.raises(BadInput, match="keeps no day yet"):
        find(read_samples(world.data.path, world.bundle), world.bundle, store, least=0.01, sources={})


def test_a_committed_page_says_what_its_figures_say() -> None:
    pages = sorted((Path(__file__).parents[2] / "results" / "rollback-find").glob("*/result.json"))
    assert pages
    for figures in pages:
        assert (figures.parent / "README.md").read_text() == page(json.loads(figures.read_text()))
        assert all((figures.parent / name).exists() for name in ("clean.png", "farm.png"))
