"""`uic rollback find`: from which day on do memories tell labelled samples apart worse? What they say of each kept day."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jobs.event_log import Dead, TopicLog
from jobs.rollback.change import Estimate, Numbers, Step, estimates, steps, summary
from jobs.settings import KafkaSettings
from serving.scorer import Scorer
from uic.artefact import write_atomically
from uic.bundle import Bundle
from uic.clock import Days
from uic.errors import BadInput
from uic.memory import UserMemory
from uic.store.contract import ReadableStore

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("user", "item_id", "category_id", "label")
NOW = "now"
_FEATURE = "f_"
_NO_SOURCE = "(none)"
# Of a day's events: that many from other sources than the day before is no usual change of traffic.
_SHIFT = 0.2


@dataclass(frozen=True, kw_only=True)
class AsOf:
    """What the samples' users' memories are like as of a day's begin, or now.

    users        those with a memory; `events`: applied to them since the day before, `update`: the length of the way that a
                 state went, by event; `norm`: of a slot, `effective`: how many slots writes spread over (of the layout's M)
    sources      the share of the log's events of the day before, by source; empty where the log was not read
    """

    day: str
    auc: Estimate
    users: int
    events: int
    update: float
    norm: float
    effective: float
    sources: Mapping[str, float] = field(default_factory=dict)


class Shift(NamedTuple):
    """The source that grew most on a day, as shares of the day before's events and of this one's."""

    day: str
    source: str
    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class Found:
    """One place for each kept day and one for now, what happened on the days between them, and the day that broke something."""

    places: list[AsOf]
    steps: list[Step]
    samples: int

    @property
    def broken(self) -> str | None:
        """The first day whose events made it worse; None: nothing did."""
        return next((place.day for place, step in zip(self.places, self.steps, strict=False) if step.is_break), None)

    @property
    def shift(self) -> Shift | None:
        """The first day with a fifth of its events from other sources than the day before's; None: there is none.

        It breaks nothing by itself, but shows traffic that memories are too few, or samples too hard, to tell of.
        """
        # The shares of a place are those of the day that ends there, so a day's own are at the next one.
        for place, (before, now) in zip(self.places[1:], pairwise(each.sources for each in self.places[1:]), strict=False):
            grown = {name: share - before.get(name, 0.0) for name, share in now.items()}
            if before and now and sum(each for each in grown.values() if each > 0) >= _SHIFT:
                most = max(grown, key=lambda name: grown[name])
                return Shift(place.day, most, before.get(most, 0.0), now[most])
        return None

    def to_json(self) -> dict[str, Any]:
        places = [{**asdict(place), "auc": place.auc._asdict()} for place in self.places]
        return {
            "broken": self.broken,
            "shift": self.shift and self.shift._asdict(),
            "samples": self.samples,
            "places": places,
            "steps": [each._asdict() for each in self.steps],
        }


def read_samples(path: Path, bundle: Bundle) -> "pd.DataFrame":
    """A samples table: samples.parquet, or a dataset with one in it; raises BadInput for anything else."""
    import pandas as pd

    file = path / "samples.parquet" if path.is_dir() else path
    try:
        table = pd.read_parquet(file)
    except (OSError, ValueError) as error:
        raise BadInput(f"{file}: expected a samples table such as a dataset's samples.parquet: {error}") from error
    wanted = [*COLUMNS, *(f"{_FEATURE}{name}" for name in bundle.manifest.head_features)]
    if missing := [name for name in wanted if name not in table]:
        raise BadInput(f"{file}: no column {', '.join(missing)}; it has {', '.join(map(str, table.columns))}")
    return table[wanted].sort_values("user", kind="stable", ignore_index=True)


def find(
    samples: "pd.DataFrame", bundle: Bundle, store: ReadableStore, *, least: float, sources: Mapping[str, Mapping[str, float]]
) -> Found:
    """Score all samples as of each kept day and now. `sources`: shares of events by day (`source_shares`)."""
    days: list[date | None] = [*store.days_kept(), None]
    if len(days) < 2:
        raise BadInput("the store keeps no day yet, so there is nothing to compare; a day is kept from its begin on")
    scorer = Scorer(bundle, store)
    groups = [(str(user), group.index.to_numpy()) for user, group in samples.groupby("user", sort=False)]
    items, categories = samples["item_id"].to_numpy(np.int64), samples["category_id"].to_numpy(np.int64)
    columns = [f"{_FEATURE}{name}" for name in bundle.manifest.head_features]
    features = samples[columns].to_numpy(np.float32) if columns else None
    scores_KS = np.empty((len(days), len(samples)))
    memories: list[dict[str, UserMemory]] = []
    for place, day in enumerate(days):
        memories.append({})
        for user, rows in groups:
            blob = store.read(user, day)
            memory = bundle.initial if blob is None else bundle.published.decode(blob)
            if blob is not None:
                memories[-1][user] = memory
            part = None if features is None else features[rows]
            scores_KS[place, rows] = scorer.score_memory(memory, items[rows], categories[rows], part)
    found_KB = estimates(scores_KS, samples["label"].to_numpy(np.int8), samples["user"].astype(str).tolist())
    names = [NOW if day is None else day.isoformat() for day in days]
    before: list[dict[str, UserMemory]] = [{}, *memories[:-1]]
    places = [
        _place(name, auc, now, earlier, bundle, sources.get(earlier_name, {}))
        for name, earlier_name, auc, now, earlier in zip(names, ["", *names], summary(found_KB), memories, before, strict=False)
    ]
    return Found(places=places, steps=steps(found_KB, least), samples=len(samples))


def source_shares(kafka: KafkaSettings, bundle: Bundle, days: Days, max_ahead_ms: int) -> dict[str, dict[str, float]]:
    """Of each day in the log, the share of its valid events by source."""
    from jobs.daily.cut import KafkaLog

    begins = {partition: reach.first for partition, reach in KafkaLog(kafka).reach().items()}
    counts: dict[str, Counter[str]] = {}
    for each in TopicLog(kafka, begins).events(bundle.accepted, max_ahead_ms):
        if not isinstance(each, Dead):
            day = days.day_of(each.log_time_ms).isoformat()
            counts.setdefault(day, Counter())[each.event.source or _NO_SOURCE] += 1
    return {day: {source: count / found.total() for source, count in found.most_common()} for day, found in counts.items()}


def write(found: Found, folder: Path) -> list[Path]:
    """found.json and found.png."""
    from jobs.rollback.plot import plot

    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "found.json"
    write_atomically(table, json.dumps(found.to_json(), indent=1) + "\n")
    return [table, plot(found, folder / "found.png")]


def _place(
    name: str,
    auc: Estimate,
    memories: Mapping[str, UserMemory],
    before: Mapping[str, UserMemory],
    bundle: Bundle,
    sources: Mapping[str, float],
) -> AsOf:
    empty = bundle.initial
    pairs = [(before.get(user, empty), memory) for user, memory in memories.items()]
    moved = [(old, new) for old, new in pairs if new.sequence > old.sequence]
    ways = [float(np.linalg.norm(new.state_F - old.state_F)) / (new.sequence - old.sequence) for old, new in moved]
    states = _stack([memory.state_F for memory in memories.values()], bundle)
    tensors = bundle.layout.split(states)
    return AsOf(
        day=name,
        auc=auc,
        users=len(memories),
        events=sum(new.sequence - old.sequence for old, new in moved),
        update=float(np.mean(ways)) if ways else 0.0,
        # A memory without MIMN's slots has neither; its whole vector has a norm all the same.
        norm=float(np.linalg.norm(tensors.get("slots", states), axis=-1).mean()) if memories else 0.0,
        effective=float(_effective(tensors["utilization"]).mean()) if memories and "utilization" in tensors else 0.0,
        sources=sources,
    )


def _effective(utilization_UM: NDArray[np.float32]) -> Numbers:
    """Over how many slots writes spread: e to the entropy of their shares.

    >>> _effective(np.array([[1, 1, 0, 0], [3, 0, 0, 0]], np.float32)).round(3).tolist()
    [2.0, 1.0]
    """
    written = utilization_UM.astype(np.float64)
    shares = written / np.maximum(written.sum(axis=-1, keepdims=True), 1e-12)
    entropy: Numbers = -(shares * np.log(np.maximum(shares, 1e-12))).sum(axis=-1)
    result: Numbers = np.exp(entropy)
    return result


def _stack(states: Sequence[NDArray[np.float32]], bundle: Bundle) -> NDArray[np.float32]:
    return np.stack(states) if states else np.empty((0, bundle.layout.size_F), np.float32)
