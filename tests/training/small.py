"""A small log and all that is made of it, for the tests of training, command line and serving: dataset, run, bundle, store.

Everything comes from a seed. A run here takes about a second an epoch.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jobs.train import open_run
from model.data.dataset import Dataset, Names
from model.data.event_log import CleanTable
from model.data.prepare import PrepareSettings, Source, build
from model.training.config import TrainConfig
from model.training.run import Run
from model.training.train import train
from onnx_export.bundle import export_run
from uic.bundle import Bundle
from uic.codec import Codec
from uic.event import BehaviourEvent, to_json
from uic.models import AnyVariant
from uic.runtime import OnnxStep
from uic.store.rocksdb import RocksStore
from uic.update import Rules
from uic.variant import Variant

VARIANT = Variant(event_width=8, controller_units=8, slot_width=8, output_width=8, slots=4)
START_MS = 1_500_000_000_000
DAY_MS = 86_400_000
CONFIG: dict[str, Any] = {"epochs": 2, "batch_users": 4, "chunk": 8, "samples_per_step": 32, "learning_rate": 0.01}
FEATURES = ("price", "hour")


def log(*, users: int = 12, rows: int = 300, items: int = 30, days: int = 20, seed: int = 1) -> pd.DataFrame:
    """Everyone clicks at any time, and each user stays near items of their own: there is something to learn."""
    rng = np.random.default_rng(seed)
    user = rng.integers(users, size=rows)
    item = (user * items // users + rng.geometric(0.3, size=rows)) % items
    return pd.DataFrame(
        {
            "user": [f"u{each}" for each in user],
            "item_id": item + 100,
            "category_id": item % 5 + 1,
            "behaviour": rng.choice(["click", "buy"], size=rows).astype(object),
            "time_ms": START_MS + np.sort(rng.integers(days * DAY_MS, size=rows)),
        }
    )


def dataset(path: Path, *, features: tuple[str, ...] = (), table: pd.DataFrame | None = None, **of_log: int) -> Dataset:
    """A dataset of the small log; with head features where asked, drawn at random."""
    frame = log(**of_log) if table is None else table
    clean = CleanTable(frame=frame, rows_read=len(frame), invalid={}, time_unit="ms")
    made = build(clean, PrepareSettings(window_ms=10 * DAY_MS, min_history=0), source=Source(name="small", digest="none"))
    rng = np.random.default_rng(5)
    samples = made.samples.assign(**{f"f_{name}": rng.random(len(made.samples)).astype(np.float32) for name in features})
    names = Names({category: f"genre {category}" for category in range(1, 6)}, {})
    return Dataset.write(
        path, events=made.events, samples=samples, vocabularies=made.vocabularies, stats=made.stats, names=names
    )


def run(path: Path, data: Dataset, *, variant: AnyVariant = VARIANT, config: dict[str, Any] | None = None, **asked: Any) -> Run:
    """The run in `path`: begun, or gone on with, as the command line does it."""
    return open_run(path, data, TrainConfig(**{**CONFIG, **(config or {})}), variant.to_json, **asked)


def trained(path: Path, data: Dataset, **asked: Any) -> Run:
    made = run(path, data, **asked)
    train_quietly(made, data)
    return made


def train_quietly(made: Run, data: Dataset) -> None:
    train(made, data, lambda at: None, lambda entry: None)


@cache
def world(root: Path, features: tuple[str, ...] = ()) -> "World":
    """A dataset, a trained run, its bundle and its events; made once in a session. Nobody may change what is in it."""
    base = root / ("features" if features else "plain")
    data = dataset(base / "data", features=features)
    made = trained(base / "run", data)
    bundle = export_run(made, base / "bundle")
    return World(base, data, made, bundle)


class World:
    """What `world` made, and the memories that its events make."""

    def __init__(self, root: Path, data: Dataset, made: Run, bundle: Bundle) -> None:
        self.root = root
        self.data = data
        self.run = made
        self.bundle = bundle
        self.events = events_of(data)
        self.folder = root / "events"
        self.folder.mkdir()
        half = len(self.events) // 2
        for name, part in (("part-0.jsonl", self.events[:half]), ("part-1.jsonl", self.events[half:])):
            (self.folder / name).write_bytes(b"".join(to_json(event) + b"\n" for event in part))
        self.memories = fold(bundle, self.events)

    def store(self, path: Path, memories: dict[str, bytes] | None = None) -> Path:
        """A new store with the memories of all events, or with these."""
        return write_store(path, self.bundle, self.memories if memories is None else memories)

    @property
    def codec(self) -> Codec:
        return self.bundle.codec


def events_of(data: Dataset) -> list[BehaviourEvent]:
    """A dataset's events in log order."""
    table = data.events().sort_values("time_ms", kind="stable")
    rows = zip(table["user"], table["item_id"], table["category_id"], table["behaviour"], table["time_ms"], strict=True)
    return [
        BehaviourEvent(user_id=user, item_id=int(item), category_id=int(category), behaviour=behaviour, time_ms=int(time_ms))
        for user, item, category, behaviour, time_ms in rows
    ]


def fold(bundle: Bundle, events: list[BehaviourEvent]) -> dict[str, bytes]:
    """Event by event, bytes in and bytes out, as a stream does it."""
    updater = bundle.updater(OnnxStep(bundle), Rules())
    blobs: dict[str, bytes] = {}
    for event in events:
        update = updater.update(blobs.get(event.user_id), event, log_time_ms=event.time_ms)
        if update.blob is not None:
            blobs[event.user_id] = update.blob
    return blobs


def write_store(path: Path, bundle: Bundle, memories: dict[str, bytes]) -> Path:
    store = RocksStore.create_or_open(path, bundle.identity)
    for user, blob in memories.items():
        assert store.write(user, blob)
    store.close()
    return path


def without_seconds(metrics: dict[str, Any]) -> dict[str, Any]:
    """Metrics of a run, but for how long each epoch took."""
    epochs = [{name: value for name, value in entry.items() if name != "seconds"} for entry in metrics["epochs"]]
    return json.loads(json.dumps({**metrics, "epochs": epochs}))  # type: ignore[no-any-return]  # the same JSON object
