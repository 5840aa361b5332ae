"""Keeps memories up to date while they are read: events through the step, then the store's writer of `uic store follow`.

    python -m benchmarks.rtp.updater BUNDLE STORE USERS LENGTH RATE

A process of its own, as a stream's would be. At SIGTERM it prints how many events it has applied, and how far it was behind.
"""

import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.load import events
from benchmarks.rtp.people import name, users_of
from uic.batch import Arrival, BatchUpdater
from uic.bundle import Bundle
from uic.runtime import OnnxStep
from uic.store.apply import Applier, Snapshot
from uic.store.rocksdb import RocksStore
from uic.update import Rules

_EVERY_S = 0.02
_DAY_MS = 86_400_000


@dataclass
class Updated:
    """`left`: events that were not applied. `behind_s`: how far the last batch was done after it was due, at worst."""

    events: int = 0
    memories: int = 0
    left: int = 0
    behind_s: float = 0.0


def update(bundle: Bundle, store: RocksStore, users: NDArray[np.int64], rate: float, is_over: Callable[[], bool]) -> Updated:
    """Apply so many events a second to random users, in small batches, until it is over."""
    updater = BatchUpdater(bundle.updater(OnnxStep(bundle), Rules()), accepted=bundle.accepted, max_ahead_ms=_DAY_MS)
    applier = Applier(store, bundle.codec)
    everyone = [name(each) for each in users.tolist()]
    memories = dict(zip(everyone, store.read_many([each.encode() for each in everyone]), strict=True))
    rng, done, began = np.random.default_rng(11), Updated(), time.monotonic()
    while not is_over():
        time.sleep(_EVERY_S)
        due = int(rate * (time.monotonic() - began)) - done.events
        if due == 0:
            continue
        now_ms = time.time_ns() // 1_000_000
        chosen = users[rng.integers(0, len(users), due)]
        names = [name(each) for each in dict.fromkeys(chosen.tolist())]
        places = {each: place for place, each in enumerate(names)}
        arrivals = [
            Arrival(places[key.decode()], now_ms + place, False, payload)
            for place, (key, payload) in enumerate(events(chosen, seed=done.events, first_ms=now_ms))
        ]
        applied = updater.apply(names, [memories[each] for each in names], arrivals)
        blobs = {names[place]: blob for place, blob in applied.blobs.items()}
        memories |= blobs
        applier.apply(
            [Snapshot(0, done.events + place, key.encode(), blob) for place, (key, blob) in enumerate(blobs.items())],
            now_ms=now_ms,
        )
        done.events += due
        done.memories += len(blobs)
        done.left += len(applied.left)
        done.behind_s = max(done.behind_s, time.monotonic() - began - done.events / rate)
    return done


def main(bundle: Path, store: Path, users: int, length: int, rate: float) -> None:
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    model = Bundle.open(bundle)
    writer = RocksStore.create_or_open(store, model.identity)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    done = update(model, writer, users_of(length, users), rate, over.is_set)
    writer.close()
    sys.stdout.write(json.dumps(vars(done)) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
