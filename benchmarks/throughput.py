"""Events per CPU-second of the whole TaskManager, Kafka to Kafka, and what checkpoints do to the rate."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.cluster import Bench, Running
from benchmarks.load import Load
from benchmarks.measure import measure
from benchmarks.samples import Sample, Window


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long a run is watched. The JVM compiles for `warm_s`; the window holds a whole number of checkpoint intervals."""

    warm_s: float
    window_s: float
    interval_s: float


@dataclass(frozen=True, kw_only=True)
class CheckpointFacts:
    """The last checkpoint of a run, and the rate while one was taken against the rate before it."""

    completed: int
    seconds: float
    bytes: int
    rate_before: float
    rate_during: float


@dataclass(frozen=True, kw_only=True)
class Measured(Window):
    """The window of a job, and its last checkpoint."""

    checkpoint: CheckpointFacts | None


def measure_job(bench: Bench, load: Load, *, backend: str, plan: str, pace: Pace) -> Measured:
    """The job of `uic job submit` over a load that is in Kafka already."""
    kafka = bench.topics(load.name)
    running = bench.submit(kafka, plan=plan, backend=backend, interval_s=pace.interval_s)
    try:
        window, samples = measure(
            running, begin=load.users, end=int(load.total * 0.98), warm_s=pace.warm_s, window_s=pace.window_s
        )
        return Measured(**vars(window), checkpoint=_checkpoint(running, samples))
    finally:
        running.cluster.cancel(running.job_id)
        bench.drop(kafka.snapshots, kafka.late, kafka.dead)


def _checkpoint(running: Running, samples: Sequence[Sample]) -> CheckpointFacts | None:
    found = running.cluster.checkpoints(running.job_id)
    if found.last is None:
        return None
    seconds = found.last.duration_ms / 1000
    ended = found.last.completed_ms / 1000
    began = ended - seconds
    return CheckpointFacts(
        completed=found.completed,
        seconds=seconds,
        bytes=found.last.bytes,
        rate_before=_rate(samples, began - 5, began),
        rate_during=_rate(samples, began, max(ended, began + 1)),
    )


def _rate(samples: Sequence[Sample], start_s: float, end_s: float) -> float:
    """Events a second between two moments, from the samples next to them."""
    first = min(samples, key=lambda each: abs(each.at_s - start_s))
    last = min(samples, key=lambda each: abs(each.at_s - end_s))
    return (last.events - first.events) / (last.at_s - first.at_s) if last.at_s > first.at_s else float("nan")
