"""The streams of benchmarks/find.py: eight days of events, generated or of a log, a farm in them, and a bundle for them."""

import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from uic.batch import Arrival, BatchUpdater
from uic.bundle import Bundle
from uic.clock import Days
from uic.event import BehaviourEvent, to_json
from uic.runtime import OnnxStep
from uic.store.rocksdb import RocksStore
from uic.update import Rules

DAY_MS, HOUR_MS = 86_400_000, 3_600_000
LENGTH, KEPT = 8, 7
FIRST = date(2026, 11, 1)
FARM = "farm"
_BATCH = 2_000


@dataclass(frozen=True, kw_only=True)
class Stream:
    """`events`: those of the users in the order of the log, until eight days from `first` on; `samples`: labelled, of after."""

    first: date
    events: pd.DataFrame
    samples: pd.DataFrame

    @property
    def begins_ms(self) -> list[int]:
        """The begins of the days on which a farm may join: those that are kept in the end."""
        first_ms = Days("UTC").begins_ms(self.first)
        return [first_ms + count * DAY_MS for count in range(1, KEPT + 1)]


@dataclass(frozen=True, kw_only=True)
class Farm:
    """What a farm does: `clicks` a day in the name of each of a share of the users."""

    share: float
    clicks: int

    @classmethod
    def read(cls, text: str) -> "Farm":
        share, _, clicks = text.partition(":")
        return cls(share=float(share), clicks=int(clicks))


def with_farm(stream: Stream, begin_ms: int, farm: Farm, draw: np.random.Generator) -> pd.DataFrame:
    """The events with those of a farm: any item of the log at any time of day, for some users."""
    names = np.sort(stream.events["user"].unique())
    end_ms = stream.begins_ms[-1] + DAY_MS
    users = np.repeat(
        draw.choice(names, int(farm.share * len(names)), replace=False), farm.clicks * (end_ms - begin_ms) // DAY_MS
    )
    items = stream.events.drop_duplicates("item_id")[["item_id", "category_id"]]
    clicked = items.iloc[draw.integers(len(items), size=len(users))].assign(
        user=users, time_ms=draw.integers(begin_ms, end_ms, size=len(users)), source=FARM
    )
    return pd.concat([stream.events.assign(source="app"), clicked]).sort_values("time_ms", kind="stable", ignore_index=True)


def apply(bundle: Bundle, events: pd.DataFrame, store: RocksStore) -> None:
    """Apply them in batches, as a job does, and write every memory that comes of it."""
    updater = bundle.updater(OnnxStep(bundle), Rules())
    batches = BatchUpdater(updater, accepted=bundle.accepted, max_ahead_ms=DAY_MS, days=Days("UTC"))
    behaviour = min(bundle.accepted)
    blobs: dict[str, bytes] = {}
    for start in range(0, len(events), _BATCH):
        part = events.iloc[start : start + _BATCH]
        users = part["user"].unique().tolist()
        place = {user: at for at, user in enumerate(users)}
        rows = zip(part["user"], part["item_id"].tolist(), part["category_id"].tolist(), part["time_ms"].tolist(), strict=True)
        arrivals = [
            Arrival(
                place[user],
                time_ms,
                False,
                to_json(BehaviourEvent(user_id=user, item_id=item, category_id=category, behaviour=behaviour, time_ms=time_ms)),
            )
            for user, item, category, time_ms in rows
        ]
        done = batches.apply(users, [blobs.get(user) for user in users], arrivals)
        for at, blob in [*done.earlier, *done.blobs.items()]:
            store.write(users[at], blob)
            blobs[users[at]] = blob


def generated(users: int, daily: int, seed: int, work: Path, days: int = LENGTH + 1) -> Stream:
    """A stream and one day more, whose events are the samples: what a user did, beside what somebody else did just then."""
    folder = work / f"events-{seed}"
    step_ms = DAY_MS // (users * daily)
    spec = [
        f"seed={seed}",
        f"users={users}",
        f"events={users * daily * days}",
        f"step_ms={step_ms}",
        "items=2000",
        "categories=50",
    ]
    spec += [f"start_ms={Days('UTC').begins_ms(FIRST)}", f"interest_ms={40 * DAY_MS}", "event_ids=0", "behaviours=click"]
    _uic("events", "generate", *spec, "--out", folder, "--overwrite")
    lines = [line for path in sorted(folder.glob("*.jsonl")) for line in path.read_bytes().splitlines()]
    table = pd.DataFrame([json.loads(line) for line in lines]).rename(columns={"user_id": "user"})
    end_ms = Days("UTC").begins_ms(FIRST) + LENGTH * DAY_MS
    later = table[table["time_ms"] >= end_ms].reset_index(drop=True)
    others = later.sample(frac=1, random_state=seed).reset_index(drop=True)
    samples = pd.concat(
        [later.assign(label=1), later.assign(item_id=others["item_id"], category_id=others["category_id"], label=0)]
    )
    return Stream(first=FIRST, events=table[table["time_ms"] < end_ms], samples=samples)


def trained_on_generated(work: Path, users: int, daily: int, epochs: int) -> Bundle:
    """A small bundle, trained on a stream of a seed of its own."""
    log = work / "dataset"
    if not log.exists():
        table = work / "log.parquet"
        generated(users, daily, 1_000, work, days=12).events.to_parquet(table)
        _uic("data", "prepare", "table", "--events", table, "--user-column", "user", "--behaviour", "click", "--out", log)
    return _trained(work, log, epochs)


def trained_on_log(work: Path, log: Path, day: date, epochs: int) -> tuple[Bundle, Path]:
    """A bundle that was trained on what the log has of before a day, and the dataset of which that day is the test."""
    dataset = work / day.isoformat()
    if not dataset.exists():
        columns = ("--behaviour-column", "behavior", "--time-column", "timestamp")
        _uic("data", "prepare", "table", "--events", log, *columns, "--progressive", f"{day}:{day}", "--out", work)
    return _trained(work, dataset, epochs), dataset


def _trained(work: Path, dataset: Path, epochs: int) -> Bundle:
    path, run = work / "bundle", work / "run"
    if not path.exists():
        _uic("train", "--data", dataset, "--out", run, "--epochs", epochs)
        # Whether all runtimes agree on this model does not matter here, where one alone makes and reads the memories.
        _uic("export", run, "--out", path, check=False)
    return Bundle.open(path)


def _uic(*words: object, check: bool = True) -> None:
    subprocess.run([sys.executable, "-m", "jobs.cli", *map(str, words)], check=check, stdout=subprocess.DEVNULL)


def day_of(time_ms: int) -> date:
    """Its day, in UTC."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).date()
