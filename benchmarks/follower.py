"""`uic store follow` that keeps the age of every memory it has written: a process of its own beside benchmarks/latency.py."""

import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jobs.settings import KafkaSettings
from jobs.store.command import letters_of, open_stores
from jobs.store.follow import Follower, Letters
from jobs.store.topic import opened
from operators.metrics import FollowMetrics
from uic.bundle import Bundle


class Ages(FollowMetrics):
    """Seconds from the log taking an event in to its memory being readable, and when that was."""

    def __init__(self) -> None:
        super().__init__()
        self.readable_s: list[float] = []
        self.ages_s: list[float] = []

    def observe(self, *, written: int, stale: int, deleted: int, refused: int, ages_s: Sequence[float]) -> None:
        super().observe(written=written, stale=stale, deleted=deleted, refused=refused, ages_s=ages_s)
        self.readable_s += [time.time()] * len(ages_s)
        self.ages_s += ages_s


def main(kafka_json: str, bundle: str, store: str, out: str) -> None:
    """Follow until SIGTERM, then write [2, N]: when each memory was readable, and how old its event was then."""
    kafka = KafkaSettings.model_validate_json(kafka_json)
    model = Bundle.open(Path(bundle))
    ages = Ages()
    with opened(kafka) as topic:
        stores = open_stores(Path(store), model, topic.source().partitions, shards=None, shard=None)
        letters = Letters(letters_of(Path(store)), kafka.snapshots)
        follower = Follower(topic, stores, model.codec, letters=letters, metrics=ages, say=lambda _: None, show=lambda _: None)
        signal.signal(signal.SIGTERM, lambda *_: follower.stop())
        follower.run()
        for each in stores:
            each.close()
        letters.close()
    np.save(out, np.array([ages.readable_s, ages.ages_s]))


if __name__ == "__main__":
    main(*sys.argv[1:])
