"""kill -9 of the TaskManager that runs the job, with a spare one: how long until memories are published again."""

import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.cluster import Bench, Running
from benchmarks.load import Load, Record
from benchmarks.measure import wait_for_events
from jobs.kafka import client_config
from jobs.produce import produce
from jobs.settings import KafkaSettings
from uic.errors import JobError

# A dead TaskManager is noticed by the first heartbeat that is refused.
HEARTBEAT = {"heartbeat.interval": "500 ms", "heartbeat.timeout": "5 s", "heartbeat.rpc-failure-threshold": "1"}
RATE = 2000
_MOST_S = 180.0
_IN_FLIGHT_S = 0.3


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """Seconds from the kill to the first new snapshot in the topic, and the checkpoint that was restored."""

    seconds: float
    checkpoint_bytes: int


def recovery(bench: Bench, load: Load, *, backend: str, interval_s: float) -> Recovery:
    """Needs a spare TaskManager. Events come at RATE a second all the time."""
    bench.fill(load)
    kafka = bench.topics(load.name)
    running = bench.submit(kafka, plan="batched", backend=backend, interval_s=interval_s)
    ends = threading.Event()
    sender = threading.Thread(target=lambda: produce(kafka, _endless(load, ends), rate=RATE))
    try:
        wait_for_events(running, load.total)
        sender.start()
        size = _await_checkpoint(running)
        running.taskmanager.kill()
        killed = time.monotonic()
        time.sleep(_IN_FLIGHT_S)  # what the dead one had sent arrives
        seconds = _await_snapshot(kafka, killed)
        return Recovery(seconds=seconds, checkpoint_bytes=size)
    finally:
        ends.set()
        sender.join()
        running.cluster.cancel(running.job_id)
        bench.drop(kafka.events, kafka.snapshots)


def _endless(load: Load, ends: threading.Event) -> Iterator[Record]:
    for block in itertools.count():
        for record in load.draw(RATE, load.total + block * RATE):
            if ends.is_set():
                return
            yield record


def _await_checkpoint(running: Running) -> int:
    """Wait for the next checkpoint that begins now; returns its size."""
    before = running.cluster.checkpoints(running.job_id).completed
    give_up_at = time.monotonic() + _MOST_S
    while time.monotonic() < give_up_at:
        found = running.cluster.checkpoints(running.job_id)
        if found.completed >= before + 2 and found.last is not None:
            return found.last.state_bytes
        time.sleep(0.1)
    raise JobError(f"job {running.job_id}: no checkpoint within {_MOST_S:.0f} s")


def _await_snapshot(kafka: KafkaSettings, killed: float) -> float:
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({**client_config(kafka), "group.id": "benchmark"})
    partitions = [TopicPartition(kafka.snapshots, number) for number in range(kafka.partitions)]

    def written() -> int:
        return sum(consumer.get_watermark_offsets(each, timeout=10)[1] for each in partitions)

    try:
        before = written()
        while time.monotonic() < killed + _MOST_S:
            if written() > before:
                return time.monotonic() - killed
            time.sleep(0.02)
    finally:
        consumer.close()
    raise JobError(f"no snapshot within {_MOST_S:.0f} s of the kill")
