"""What tests of `uic store follow` share: memories to publish, and a follower in a process of its own."""

import dataclasses
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import small
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from jobs.kafka import client_config
from jobs.settings import KafkaSettings
from jobs.topics import create
from uic.store.contract import ReadableStore
from uic.store.sharded import open_to_read

Published = list[tuple[str, bytes | None]]
WAIT_S = 60.0


class Memories:
    """Makes memories of the small world's layout."""

    def __init__(self, world: small.World) -> None:
        self.codec = world.codec
        self.initial = world.bundle.initial

    def __call__(self, sequence: int, log_time_ms: int | None = None, number: float = 0.0) -> bytes:
        memory = dataclasses.replace(self.initial, sequence=sequence, log_time_ms=log_time_ms)
        return self.codec.encode(dataclasses.replace(memory, state_F=memory.state_F + memory.state_F.dtype.type(number)))

    def runs(self, seed: int, snapshots: int, users: int = 40) -> Published:
        """What a job publishes: users that live, leave and come back, and now and then what it published before again."""
        rng = random.Random(seed)
        sequences = dict.fromkeys((f"u{number}" for number in range(users)), 0)
        published: Published = []
        for log_time_ms in range(snapshots):
            user = rng.choice(list(sequences))
            if sequences[user] > 3 and rng.random() < 0.1:
                sequences[user] = 0
                published.append((user, None))
                continue
            sequences[user] += 1
            published.append((user, self(sequences[user], log_time_ms, number=rng.random())))
            if rng.random() < 0.01:
                published += published[-rng.randrange(1, 200) :]
        return published


def publish(
    kafka: KafkaSettings,
    published: Iterable[tuple[str | bytes | None, bytes | None]],
    partition: int = -1,
    headers: Mapping[str, bytes] | None = None,
) -> None:
    failed: list[object] = []
    producer = Producer(
        {**client_config(kafka), "partitioner": "murmur2_random", "enable.idempotence": True, "linger.ms": 5, "log_level": 0}
    )
    for key, value in published:
        while True:
            try:
                producer.produce(
                    kafka.snapshots, key=key, value=value, partition=partition, headers=dict(headers or {}),
                    on_delivery=lambda error, _: failed.append(error) if error is not None else None,
                )  # fmt: skip
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    assert producer.flush(WAIT_S) == 0
    assert failed == []


def last(published: Iterable[tuple[str, bytes | None]]) -> dict[str, bytes]:
    return {user: blob for user, blob in dict(published).items() if blob is not None}


def content(path: Path) -> dict[str, bytes | None]:
    store = open_to_read(path)
    try:
        return {user: store.read(user) for user in store.users()}
    finally:
        store.close()


@contextmanager
def following(world: small.World, store: Path, *options: object) -> Iterator["subprocess.Popen[str]"]:
    """A follower in a process of its own, with the settings of the environment. It is gone when the block is left."""
    words = ["store", "follow", "--bundle", str(world.bundle.path), "--store", str(store), *map(str, options)]
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(is_so: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    give_up_at = time.monotonic() + WAIT_S
    while not is_so():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up_at, "it took too long"
        time.sleep(0.02)


def opened_when_made(path: Path, process: "subprocess.Popen[str]") -> ReadableStore:
    """The store, as soon as a follower has made it."""
    found: list[ReadableStore] = []

    def is_there() -> bool:
        try:
            found.append(open_to_read(path))
        except Exception:  # not there, or half made
            return False
        return True

    until(is_there, process)
    return found[0]


def hears(process: "subprocess.Popen[str]", text: str) -> None:
    """Reads what it says up to this text."""
    assert process.stderr is not None
    assert any(text in line for line in process.stderr), f"{text}: not said"


def read(store: ReadableStore, user: str) -> bytes | None:
    store.refresh()
    return store.read(user)


def made_anew(kafka: KafkaSettings) -> None:
    admin = AdminClient(client_config(kafka))
    admin.delete_topics([kafka.snapshots])[kafka.snapshots].result()
    give_up_at = time.monotonic() + WAIT_S
    while kafka.snapshots not in create(kafka):
        assert time.monotonic() < give_up_at
