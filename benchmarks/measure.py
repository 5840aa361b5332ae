"""A job under load, watched: until it has read so much, or over a window of time."""

import time

from benchmarks.cluster import Running
from benchmarks.samples import Sample, Sampler, Window
from uic.errors import JobError

_WAIT_S = 900.0


def wait_for_events(running: Running, count: int) -> None:
    """Wait until the update operator has taken in so many; raises JobError if it does not come so far."""
    give_up_at = time.monotonic() + _WAIT_S
    while running.events() < count:
        if time.monotonic() > give_up_at or not running.cluster.is_alive(running.job_id):
            raise JobError(_why(running, running.events()))
        time.sleep(0.2)


def _why(running: Running, events: int) -> str:
    failure = running.cluster.last_failure(running.job_id)
    return f"job {running.job_id}: {events:,} events, then {failure or 'no more in time'}"


def measure(running: Running, *, begin: int, end: int, warm_s: float, window_s: float) -> tuple[Window, list[Sample]]:
    """Sample a job until its window is over: from `begin` events on and after `warm_s`, for `window_s` or to `end` events."""
    sampler = Sampler(running.taskmanager.pid, running.events)
    sampler.start()
    started = time.time()
    first: Sample | None = None
    try:
        while True:
            time.sleep(0.2)
            last = sampler.samples[-1] if sampler.samples else None
            if last is not None and first is None and last.events >= begin and last.at_s >= started + warm_s:
                first = last
            if (
                first is not None
                and last is not None
                and last is not first
                and (last.at_s >= first.at_s + window_s or last.events >= end)
            ):
                return Window.between(first, last), sampler.samples
            if time.time() > started + _WAIT_S or not running.cluster.is_alive(running.job_id):
                raise JobError(_why(running, last.events if last else 0))
    finally:
        sampler.stop()
