"""From the log taking an event in to its memory being readable in the store, at a steady rate."""

import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np

from benchmarks.cluster import Bench
from benchmarks.load import Load
from benchmarks.measure import wait_for_events
from jobs.produce import produce
from uic.errors import JobError

RATE = 1000
_SETTLE_S = 5.0
# At this rate batches are smaller than in the warm-up before, and the JVM compiles once more.
_AT_RATE_S = 40.0


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds over all memories written; `behind_s`: how far the sender fell behind its rate at worst."""

    memories: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    behind_s: float


def latency(bench: Bench, *, users: int, warm: int, seconds: float, interval_s: float) -> Latency:
    """`warm` events as fast as they go, some at RATE, so that the JVM has compiled what it will; then RATE for `seconds`."""
    warm_up = Load(users=users, zipf=None, drawn=warm)
    bench.fill(warm_up)
    kafka = bench.topics(warm_up.name)
    running = bench.submit(kafka, plan="batched", backend="hashmap", interval_s=interval_s)
    store, out = bench.root / "latency-store", bench.root / "ages.npy"
    follower = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.follower", kafka.model_dump_json(), str(bench.bundle), str(store), str(out)]
    )
    try:
        wait_for_events(running, warm_up.total)
        time.sleep(_SETTLE_S)
        started = time.time()
        events = warm_up.draw(int(RATE * (_AT_RATE_S + seconds)), warm_up.total)
        produced = produce(kafka, iter(events), rate=RATE)
        time.sleep(_SETTLE_S)
    finally:
        follower.terminate()
        if follower.wait(30) != 0:
            raise JobError("the follower has failed; its words stand above")
        running.cluster.cancel(running.job_id)
        bench.drop(kafka.events, kafka.snapshots)
    readable_s, ages_s = np.load(out)
    ages_ms = 1000 * ages_s[readable_s > started + _AT_RATE_S]
    p50, p90, p99 = np.percentile(ages_ms, [50, 90, 99]).tolist()
    return Latency(
        memories=len(ages_ms),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        max_ms=float(ages_ms.max()),
        behind_s=produced.behind_s,
    )
