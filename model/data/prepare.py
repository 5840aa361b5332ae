"""From a clean log to a dataset: duplicates, order, split by time, samples, vocabulary, leak check, statistics.

`build` is pure: the same log and settings give the same dataset. `prepare` writes it. The shape of stats.json is `_stats`.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from model.data.dataset import KIND, SPLITS, Dataset, Names, Stats
from model.data.event_log import UNKNOWN_CATEGORY, CleanTable
from model.data.leak import LeakFigures, check_leak, leak_figures
from model.data.ordering import OrderedLog, order_log, without_duplicates
from model.data.sampling import draw_negatives, event_samples, impression_samples, split_of
from model.data.vocabulary import Vocabularies
from uic.artefact import check_may_write
from uic.errors import BadInput
from uic.vocabulary import FIRST_ROW, Vocabulary

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
VALID_OF_DAY = 0.1
Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """Every choice that shapes a dataset; recorded in its stats.json."""

    window_ms: int
    """Negatives are drawn from the events of [t - window_ms, t)."""
    negatives: int = 1
    min_history: int = 1
    """Samples with a shorter history are left out."""
    min_item_count: int = 2
    """Items with fewer events in the training part share the out-of-vocabulary row, and so train it."""
    train_share: float = 0.8
    valid_share: float = 0.1
    behaviours: tuple[str, ...] | None = None
    """Accepted behaviours; None: all that the log has."""
    seed: int = 0

    def __post_init__(self) -> None:
        at_least("window", self.window_ms, 1)
        at_least("negatives", self.negatives, 1)
        at_least("min-history", self.min_history, 0)
        at_least("min-item-count", self.min_item_count, 1)
        at_least("seed", self.seed, 0)
        if not (self.train_share > 0 and self.valid_share > 0 and self.train_share + self.valid_share < 1):
            raise BadInput(
                "split: expected shares above 0 that leave something for the test, "
                f"got train {self.train_share} and valid {self.valid_share}"
            )


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a log came from: what it is called, the SHA-256 of its content, and the terms it is used under."""

    name: str
    digest: str
    terms: str | None = None
    origin: str | None = None


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A dataset in memory, not yet written."""

    events: pd.DataFrame
    samples: pd.DataFrame
    vocabularies: Vocabularies
    stats: Stats


@dataclass(kw_only=True)
class _Tally:
    """What was left out on the way, and why."""

    invalid: dict[str, int]
    invalid_impressions: dict[str, int] = field(default_factory=dict)
    other_behaviours: int = 0
    duplicates: int = 0
    short_history: int = 0
    without_negative: int = 0


def prepare(
    log: CleanTable,
    out: Path,
    settings: PrepareSettings,
    *,
    source: Source,
    impressions: CleanTable | None = None,
    names: Names | None = None,
    test_day_ms: int | None = None,
    replace: bool = False,
    report: Report = lambda stage: None,
) -> Dataset:
    """Build the dataset and write it to `out`; a refusal or a kill leaves `out` as it was."""
    check_may_write(out, KIND, replace=replace)
    made = build(log, settings, source=source, impressions=impressions, test_day_ms=test_day_ms, report=report)
    report("writing")
    return Dataset.write(
        out,
        events=made.events,
        samples=made.samples,
        vocabularies=made.vocabularies,
        stats=made.stats,
        names=names,
        replace=replace,
    )


def build(
    log: CleanTable,
    settings: PrepareSettings,
    *,
    source: Source,
    impressions: CleanTable | None = None,
    test_day_ms: int | None = None,
    report: Report = lambda stage: None,
) -> Prepared:
    """The whole dataset in memory; raises BadInput where the log is too small to split, or leaks.

    With a test day, that day is the test and nothing after it is there; the latest tenth of the day before is for validation.
    """
    if test_day_ms is not None:
        log = _until(log, test_day_ms + DAY_MS)
        impressions = None if impressions is None else _until(impressions, test_day_ms + DAY_MS)
    tally = _Tally(invalid=log.invalid, invalid_impressions={} if impressions is None else impressions.invalid)
    report("ordering events")
    accepted = _accepted(log.frame, settings, tally)
    distinct = without_duplicates(accepted)
    tally.duplicates = len(accepted) - len(distinct)
    ordered = order_log(distinct)
    valid_from_ms, test_from_ms = _cuts(ordered, settings) if test_day_ms is None else _cuts_of_day(ordered, test_day_ms)

    report("drawing samples" if impressions is None else "placing impressions")
    if impressions is None:
        enough = np.flatnonzero(ordered.positions >= settings.min_history).astype(np.int64)
        tally.short_history = len(ordered.frame) - len(enough)
        drawn = draw_negatives(ordered, enough, window_ms=settings.window_ms, count=settings.negatives, seed=settings.seed)
        tally.without_negative = drawn.without_negative
        samples = event_samples(ordered, drawn)
    else:
        samples = impression_samples(ordered, impressions.frame, unknown_category=UNKNOWN_CATEGORY)
        long_enough = samples["position"] >= settings.min_history
        tally.short_history = int((~long_enough).sum())
        samples = samples[long_enough].reset_index(drop=True)
    samples["split"] = split_of(samples["time_ms"].to_numpy(), valid_from_ms=valid_from_ms, test_from_ms=test_from_ms)
    _check_splits(samples, tally)

    report("checking for leaks")
    figures = leak_figures(ordered, samples, valid_from_ms=valid_from_ms)
    check_leak(figures)
    vocabularies = _vocabularies(ordered, settings, valid_from_ms)
    stats = _stats(ordered, samples, vocabularies, figures, tally, (valid_from_ms, test_from_ms))
    stats |= {
        "source": asdict(source),
        "rows_read": log.rows_read,
        "time_unit": log.time_unit,
        "samples_from": "events" if impressions is None else "impressions",
        "parameters": asdict(settings) | {"behaviours": sorted(set(ordered.frame["behaviour"]))},
    }
    if test_day_ms is not None:
        stats["test_positives_without_row"] = _without_row(samples, vocabularies)
    return Prepared(events=ordered.frame, samples=samples, vocabularies=vocabularies, stats=stats)


def _accepted(events: pd.DataFrame, settings: PrepareSettings, tally: _Tally) -> pd.DataFrame:
    if settings.behaviours is None:
        return events
    found = set(events["behaviour"])
    unknown = sorted(set(settings.behaviours) - found)
    if unknown or not settings.behaviours:
        raise BadInput(f"behaviours: expected some of {', '.join(sorted(found))}, got {', '.join(unknown) or 'none'}")
    accepted = events[events["behaviour"].isin(settings.behaviours)]
    tally.other_behaviours = len(events) - len(accepted)
    return accepted


def _cuts(log: OrderedLog, settings: PrepareSettings) -> tuple[int, int]:
    times = np.sort(log.times)
    valid_from = int(times[int(len(times) * settings.train_share)])
    test_from = int(times[int(len(times) * (settings.train_share + settings.valid_share))])
    if not times[0] < valid_from < test_from:
        raise BadInput(
            f"split: expected times that can be cut into three parts, got {len(times)} events of which the training part "
            f"would end at {valid_from} and the valid part at {test_from} (first event {times[0]})"
        )
    return valid_from, test_from


def _until(table: CleanTable, end_ms: int) -> CleanTable:
    frame = table.frame
    return replace(table, frame=frame[frame["time_ms"] < end_ms].reset_index(drop=True))


def _cuts_of_day(log: OrderedLog, test_day_ms: int) -> tuple[int, int]:
    before = np.sort(log.times[(log.times >= test_day_ms - DAY_MS) & (log.times < test_day_ms)])
    if not len(before):
        raise BadInput(f"test day: expected events on the day before {test_day_ms} (ms), got none")
    return int(before[int(len(before) * (1 - VALID_OF_DAY))]), test_day_ms


def _check_splits(samples: pd.DataFrame, tally: _Tally) -> None:
    counts = {split: int((samples["split"] == split).sum()) for split in SPLITS}
    if not all(counts.values()):
        raise BadInput(
            f"split: expected samples in every part, got {counts} (left out: {tally.short_history} with too short a history, "
            f"{tally.without_negative} whose window holds no other item); a wider window or other shares may help"
        )


def _vocabularies(log: OrderedLog, settings: PrepareSettings, valid_from_ms: int) -> Vocabularies:
    training = log.times < valid_from_ms
    items, counts = np.unique(log.items[training], return_counts=True)
    categories = np.unique(log.frame["category_id"].to_numpy(dtype=np.int64)[training])
    return Vocabularies(
        Vocabulary(items[counts >= settings.min_item_count]), Vocabulary(categories[categories != UNKNOWN_CATEGORY])
    )


def _without_row(samples: pd.DataFrame, vocabularies: Vocabularies) -> float:
    """Of the test's positives, the share whose item training has given no row."""
    asked = samples[(samples["split"] == "test") & (samples["label"] == 1)]
    return float((vocabularies.items.rows(asked["item_id"].to_numpy()) < FIRST_ROW).mean())


def _stats(
    log: OrderedLog,
    samples: pd.DataFrame,
    vocabularies: Vocabularies,
    figures: LeakFigures,
    tally: _Tally,
    cuts: tuple[int, int],
) -> dict[str, Any]:  # JSON
    first, last = log.starts[:-1], log.starts[1:] - 1
    lifetimes = log.times[last] - log.times[first]
    lengths = log.starts[1:] - log.starts[:-1]
    test = samples["split"] == "test"
    test_codes = np.unique(pd.Index(log.users).get_indexer(pd.Index(samples["user"][test])))
    # -1 are users without any event, who come with impressions only: as cold as can be. (log.times[first][-1] is masked.)
    cold = (test_codes < 0) | (log.times[first][test_codes] >= cuts[0])
    cold_share = float(cold.mean())
    by_split = samples.groupby(["split", "label"]).size()
    return {
        "label": "cold-user" if cold_share > 0.5 else "known-user",
        "cold_user_share": cold_share,
        "median_lifetime_minutes": float(np.median(lifetimes)) / 60_000,
        "events": len(log.frame),
        "users": len(log.users),
        "items": len(np.unique(log.items)),
        "categories": len(np.unique(log.frame["category_id"])),
        "events_by_behaviour": {str(k): int(n) for k, n in log.frame["behaviour"].value_counts().sort_index().items()},
        "events_without_category": int((log.frame["category_id"] == UNKNOWN_CATEGORY).sum()),
        "vocabulary": {"items": len(vocabularies.items), "categories": len(vocabularies.categories)},
        "history_length": {name: int(np.percentile(lengths, q)) for name, q in (("p50", 50), ("p90", 90), ("max", 100))},
        "samples": {
            split: {"positive": int(by_split.get((split, 1), 0)), "negative": int(by_split.get((split, 0), 0))}
            for split in SPLITS
        },
        "left_out": asdict(tally),
        "times": {
            "first_ms": int(log.times.min()),
            "valid_from_ms": cuts[0],
            "test_from_ms": cuts[1],
            "last_ms": int(log.times.max()),
        },
        "leak_auc": figures,
    }


def at_least(name: str, value: int, least: int) -> None:
    """Raise BadInput where an option is too small."""
    if value < least:
        raise BadInput(f"{name}: expected at least {least}, got {value}")
