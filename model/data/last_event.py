"""The paper's protocol: a user's last event is what is asked for, and the history is what came before it.

Every user has one place, at the end: the last event (label 1), or another item in its stead (label 0), or both. The parts are
parts of the users: by chance, or by the time of their last event. So nobody is in two parts, and what is called the training
part is everything that the users of the training samples did. This works on logs larger than memory (log_table.py).
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model.data.dataset import EVENTS_FILE, KIND, SPLITS, Dataset, Names, complete, write_events
from model.data.last_event_stats import leaks, statistics, vocabularies_of
from model.data.leak import check_leak
from model.data.log_table import LogTable, log_table, quoted
from model.data.prepare import Source, at_least
from model.data.sampling import draw_by_weight, draw_from_window
from uic.artefact import new_directory
from uic.errors import BadInput

Report = Callable[[str], None]
# Of each user drawn, the events before the target and the last one, numbered from 0.
_HISTORIES = """SELECT e.user_id AS user, e.position - d.first AS position,
        CASE WHEN e.position = d.position THEN d.last_item ELSE e.item_id END AS item_id,
        CASE WHEN e.position = d.position THEN d.last_category ELSE e.category_id END AS category_id,
        e.behaviour AS behaviour, e.time_ms AS time_ms
    FROM events e JOIN drawn d USING (user_id) WHERE e.position >= d.first ORDER BY e.user_id, e.position"""
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class LastEventSettings:
    """Every choice that shapes a dataset of this protocol; recorded in its stats.json."""

    length: int | None
    """Events kept before the target; None: the whole history."""
    min_history: int
    """Users with fewer events before their last are left out."""
    samples_per_user: Literal[1, 2]
    """2: the last event and a negative. 1: one of the two, by a coin."""
    split: Literal["user", "time"]
    """Parts by chance, or by the time of the last event: the latest users are the test."""
    test_share: float
    valid_share: float = 0.1
    window_ms: int | None = None
    """Negatives are drawn from the events of [t - window_ms, t); None: from those of the whole log."""
    uniform_negatives: bool = False
    """Legacy: every item is as likely a negative as any other."""
    target_in_history: bool = False
    """Legacy: the candidate itself is the last event of its history, whichever label it has."""
    padding_item: bool = False
    """Legacy: the smallest item id is taken for padding, so that no history has it."""
    behaviours: tuple[str, ...] | None = None
    first_ms: int = 0
    end_ms: int = 253_402_300_800_000
    """Events outside [first_ms, end_ms) are left out."""
    min_item_count: int = 2
    """Items with fewer events in the training part share the out-of-vocabulary row, and so train it."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in {"min_item_count": 1, "length": 1, "window_ms": 1, "min_history": 0, "seed": 0}.items():
            if getattr(self, name) is not None:
                at_least(name.replace("_", "-"), getattr(self, name), least)
        if not (self.test_share > 0 and self.valid_share > 0 and self.test_share + self.valid_share < 1):
            raise BadInput(
                "split: expected shares above 0 that leave something to train on, "
                f"got valid {self.valid_share} and test {self.test_share}"
            )
        if self.target_in_history and self.samples_per_user == 2:
            raise BadInput("target-in-history: expected one sample a user, whose candidate can end the one history, got two")

    @property
    def is_legacy(self) -> bool:
        """Whether the authors' scripts are followed where they give the label away."""
        return self.uniform_negatives or self.target_in_history or self.padding_item


class Drawn(NamedTuple):
    """Users with their last event, negative, split and first kept position; and the samples in their order."""

    users: pd.DataFrame
    samples: pd.DataFrame


def prepare(
    fill: Callable[[LogTable], tuple[dict[str, int], Names | None]],
    out: Path,
    settings: LastEventSettings,
    *,
    source: Source,
    paper: dict[str, int] | None = None,
    memory_mb: int = 2000,
    replace: bool = False,
    report: Report = lambda stage: None,
) -> Dataset:
    """Make a dataset of the log that `fill` loads; a refusal or a kill leaves `out` as it was.

    `fill` returns how many lines it left out by file, and the names of categories; `paper` is what Table 1 says of this log.
    """
    with new_directory(out, KIND, replace=replace) as partial:
        with log_table(partial / "work", memory_mb=memory_mb) as log:
            invalid, names = fill(log)
            left_out = {"invalid": invalid, **_order(log, settings, report)}
            report("drawing samples")
            targets, split_times = _targets(log, settings)
            drawn = _drawn(log, targets, settings)
            left_out |= {
                "users_with_short_history": log.row("SELECT count(DISTINCT user_id) AS n FROM events")["n"] - len(targets),
                "without_negative": len(targets) - len(drawn.users),
            }
            _check_parts(drawn.users, left_out)
            with log.stage("writing the events", report):
                log.put("drawn", drawn.users)
                write_events(partial / EVENTS_FILE, log.batches(_HISTORIES))
            log.view("stored", f"SELECT * FROM read_parquet({quoted(partial / EVENTS_FILE)})")
            log.view("training", "SELECT e.* FROM stored e JOIN drawn d ON d.user_id = e.user AND d.split = 'train'")

            report("checking for leaks")
            figures = leaks(log, drawn.samples)
            if not settings.is_legacy:
                check_leak(figures)
            vocabularies = vocabularies_of(log, settings.min_item_count)
            stats = statistics(log, drawn.samples, vocabularies, split_times) | {
                "left_out": left_out,
                "leak_auc": figures,
                "source": asdict(source),
                "time_unit": "s",
                "samples_from": "events",
                "parameters": asdict(settings) | {"behaviours": sorted(_behaviours(log))},
                "paper": paper,
            }
        shutil.rmtree(partial / "work")
        complete(partial, samples=drawn.samples, vocabularies=vocabularies, stats=stats, names=names)
    return Dataset.open(out)


def _order(log: LogTable, settings: LastEventSettings, report: Report) -> dict[str, int]:
    padding = log.row("SELECT min(item_id) AS item FROM raw")["item"] if settings.padding_item else None
    return log.order(
        behaviours=settings.behaviours,
        first_ms=settings.first_ms,
        end_ms=settings.end_ms,
        without_item=padding,
        report=report,
    )


def _targets(log: LogTable, settings: LastEventSettings) -> tuple[pd.DataFrame, dict[str, int] | None]:
    """Each user's last event with the split of the user, in the order of users; and where the parts begin in time."""
    targets = pd.DataFrame(
        log.arrays(
            f"""SELECT user_id, position, item_id, category_id, time_ms FROM events
            WHERE position = length - 1 AND position >= {settings.min_history} ORDER BY user_id"""
        )
    )
    if settings.split == "time":
        times = np.sort(targets["time_ms"].to_numpy())
        # Later than the quantile, as the authors have it: who ends at that very moment is before the cut.
        shares = (1 - settings.test_share - settings.valid_share, 1 - settings.test_share)
        cuts = [int(times[int(len(times) * share)]) + 1 for share in shares] if len(times) else [0, 0]
        part = np.searchsorted(cuts, targets["time_ms"].to_numpy(), side="right")
        return targets.assign(split=np.array(SPLITS, dtype=object)[part]), {"valid_from_ms": cuts[0], "test_from_ms": cuts[1]}
    chance = np.random.default_rng((settings.seed, 1)).random(len(targets))
    part = np.searchsorted([1 - settings.test_share - settings.valid_share, 1 - settings.test_share], chance, side="right")
    return targets.assign(split=np.array(SPLITS, dtype=object)[part]), None


def _drawn(log: LogTable, targets: pd.DataFrame, settings: LastEventSettings) -> Drawn:
    """Targets with a negative, and the samples they make."""
    wanted, moments = (targets[name].to_numpy(dtype=np.int64) for name in ("item_id", "time_ms"))
    if settings.window_ms is not None and not settings.uniform_negatives:
        kept, items, categories = _from_window(log, wanted, moments, settings.window_ms, settings.seed)
    else:
        all_items = log.arrays(
            "SELECT item_id, max(category_id) AS category_id, count(*) AS events FROM events GROUP BY 1 ORDER BY 1"
        )
        weights = all_items["events"].astype(np.int64)
        weights = np.ones_like(weights) if settings.uniform_negatives else weights
        of_target = np.searchsorted(all_items["item_id"], wanted)
        kept, chosen = draw_by_weight(weights, of_target, np.random.default_rng((settings.seed, 2)))
        items, categories = all_items["item_id"][chosen], all_items["category_id"][chosen]
    users = targets[kept].reset_index(drop=True).assign(negative_item=items, negative_category=categories)
    coin = np.random.default_rng((settings.seed, 3)).random(len(targets))[kept] < 0.5
    labels = [np.ones(len(users), dtype=bool), np.zeros(len(users), dtype=bool)] if settings.samples_per_user == 2 else [coin]
    # Of a million users every column is 8 MB, and each of these steps a copy.
    asked = users[["user_id", "time_ms", "split"]].rename(columns={"user_id": "user"})
    candidates = [
        asked.assign(
            label=label.astype(np.int8),
            item_id=np.where(label, users["item_id"], users["negative_item"]),
            category_id=np.where(label, users["category_id"], users["negative_category"]),
        )
        for label in labels
    ]
    samples = pd.concat(candidates).sort_index(kind="stable")
    # A candidate that ends the history takes one of its places.
    limit = None if settings.length is None else settings.length - settings.target_in_history
    history = users["position"].clip(upper=limit)
    users = users.assign(first=users["position"] - history, last_item=users["item_id"], last_category=users["category_id"])
    if settings.target_in_history:
        users = users.assign(last_item=samples["item_id"].to_numpy(), last_category=samples["category_id"].to_numpy())
        history = history + 1
    samples = samples.assign(position=history.loc[samples.index]).reset_index(drop=True)
    return Drawn(users=users, samples=samples[["user", "position", "item_id", "category_id", "label", "time_ms", "split"]])


def _from_window(
    log: LogTable, targets: NDArray[np.int64], moments: NDArray[np.int64], window_ms: int, seed: int
) -> tuple[Bools, NDArray[np.int64], NDArray[np.int64]]:
    """A negative for each target out of the window before it: which found one, its item and category.

    Targets are taken by stretches as long as the window, so that two windows of events are in memory at a time.
    """
    kept = np.zeros(len(targets), dtype=bool)
    items, categories = np.zeros_like(targets), np.zeros_like(targets)
    stretch = moments // window_ms
    order = np.argsort(stretch, kind="stable")
    starts = np.flatnonzero(np.diff(stretch[order], prepend=-1))
    for number, rows in zip(stretch[order][starts].tolist(), np.split(order, starts[1:]), strict=True):
        events = log.arrays(
            f"""SELECT item_id, category_id, time_ms FROM events
            WHERE time_ms >= {(number - 1) * window_ms} AND time_ms < {(number + 1) * window_ms}
            ORDER BY time_ms, user_id, position"""
        )
        found, places = draw_from_window(
            events["time_ms"], events["item_id"], targets=targets[rows], moments=moments[rows],
            window_ms=window_ms, count=1, rng=np.random.default_rng((seed, 2, number)),
        )  # fmt: skip
        kept[rows[found]] = True
        items[rows[found]] = events["item_id"][places[:, 0]]
        categories[rows[found]] = events["category_id"][places[:, 0]]
    return kept, items[kept], categories[kept]


def _behaviours(log: LogTable) -> list[str]:
    return list(log.arrays("SELECT DISTINCT behaviour FROM events")["behaviour"])


def _check_parts(users: pd.DataFrame, left_out: dict[str, Any]) -> None:
    counts = {split: int((users["split"] == split).sum()) for split in SPLITS}
    if not all(counts.values()):
        raise BadInput(
            f"split: expected users in every part, got {counts} (left out: {left_out['users_with_short_history']} users with "
            f"too short a history, {left_out['without_negative']} without another item to draw); a smaller --min-history, "
            "a wider window or other shares may help"
        )
