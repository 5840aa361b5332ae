"""What the stream tells Prometheus: events by outcome, sizes and times of batches, and how fresh memories are.

Histograms have buckets, from 1 ms on, so that quantiles can be taken over workers and over time; Flink's own reporter exports
ready-made quantiles, which cannot. infra/observability/ has a scrape example and a dashboard over these names.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from uic.errors import EnvironmentProblem

AGE_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 3600)
BATCH_BUCKETS = tuple(2**power for power in range(13))
STEP_BUCKETS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
_AGE_BOUNDS = np.array(AGE_BUCKETS_S)
FORGOTTEN = "forgotten"
OUTCOMES = ("applied", "duplicate", "late", "dead", FORGOTTEN)
RESULTS = ("written", "stale", "deleted", "refused")
Collectors = TypeVar("Collectors")


class AgeHistogram(Collector):
    """A histogram of seconds that takes many values at once; `Histogram` would take a lock and build an object for each."""

    def __init__(self, name: str, documentation: str, registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._lock = threading.Lock()
        self._counts = np.zeros(len(AGE_BUCKETS_S) + 1, dtype=np.int64)
        self._sum = 0.0
        registry.register(self)

    def observe(self, ages_s: Sequence[float]) -> None:
        if len(ages_s) == 0:
            return
        # Two machines have two clocks: a memory cannot be ready before its event.
        ages_B = np.maximum(np.asarray(ages_s, dtype=np.float64), 0.0)
        counts = np.bincount(np.searchsorted(_AGE_BOUNDS, ages_B), minlength=len(self._counts))
        with self._lock:
            self._counts += counts
            self._sum += float(ages_B.sum())

    def collect(self) -> Iterable[HistogramMetricFamily]:
        with self._lock:
            below, total_s = np.cumsum(self._counts).tolist(), self._sum
        bounds = [*(str(float(bound)) for bound in AGE_BUCKETS_S), "+Inf"]
        yield HistogramMetricFamily(
            self._name, self._documentation, buckets=list(zip(bounds, below, strict=True)), sum_value=total_s
        )

    def describe(self) -> Iterable[HistogramMetricFamily]:
        yield HistogramMetricFamily(self._name, self._documentation)


class StreamMetrics:
    """What an update operator counts. All that are made for one registry in one process count together.

    `uic_state_bytes_total` is the traffic with keyed state: the bytes of every memory read from it and written to it.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._all = _once(_StreamCollectors, REGISTRY if registry is None else registry)

    def observe_batch(
        self, outcomes: Mapping[str, int], events: int, step_seconds: float, state_bytes: int, ages_s: Sequence[float]
    ) -> None:
        """One call into Python: events by outcome and in all, seconds within the model's step, bytes of keyed state read and
        written, and for every event applied how many seconds ago the log took it in.
        """
        for outcome, count in outcomes.items():
            if count:
                self._all.events.labels(outcome).inc(count)
        self._all.batch.observe(events)
        self._all.step.observe(step_seconds)
        self._all.state_bytes.inc(state_bytes)
        self._all.age.observe(ages_s)

    def bundle(self, subtask: int, version: int, training_cut_off_ms: int) -> None:
        """The bundle that a subtask applies now: a scorer compares the end of its own training with this one's."""
        self._all.bundle.labels(str(subtask)).set(version)
        self._all.cut_off.labels(str(subtask)).set(training_cut_off_ms / 1000)

    def bundle_refused(self) -> None:
        self._all.refusals.inc()


class FollowMetrics:
    """What a follower of the snapshots topic counts."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._all = _once(_FollowCollectors, REGISTRY if registry is None else registry)

    def observe(self, *, written: int, stale: int, deleted: int, refused: int, ages_s: Sequence[float]) -> None:
        """Some snapshots are in the store, as far as they were to be; `ages_s`: how long ago the log took their events in."""
        for result, count in zip(RESULTS, (written, stale, deleted, refused), strict=True):
            if count:
                self._all.writes.labels(result).inc(count)
        self._all.freshness.observe(ages_s)

    def lag(self, partition: int, snapshots: int) -> None:
        self._all.lag.labels(str(partition)).set(snapshots)


class _StreamCollectors:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.events = Counter("uic_events", "Events by what became of them.", ["outcome"], registry=registry)
        for outcome in OUTCOMES:
            self.events.labels(outcome)
        self.batch = Histogram("uic_batch_events", "Events in one call into Python.", registry=registry, buckets=BATCH_BUCKETS)
        self.step = Histogram(
            "uic_step_seconds", "Time within the model's step of one call.", registry=registry, buckets=STEP_BUCKETS_S
        )
        self.state_bytes = Counter("uic_state_bytes", "Bytes of keyed state read and written.", registry=registry)
        self.bundle = Gauge("uic_bundle_version", "Version of the bundle applied.", ["subtask"], registry=registry)
        self.cut_off = Gauge(
            "uic_bundle_training_cut_off_seconds",
            "Where its training ends, seconds since 1970.",
            ["subtask"],
            registry=registry,
        )
        self.refusals = Counter("uic_bundle_refusals", "Bundles that failed their checks and were refused.", registry=registry)
        self.age = AgeHistogram(
            "uic_event_to_state_seconds", "From the log taking an event in to its memory being in keyed state.", registry
        )


class _FollowCollectors:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.writes = Counter("uic_store_writes", "Snapshots by what became of them.", ["result"], registry=registry)
        for result in RESULTS:
            self.writes.labels(result)
        self.lag = Gauge("uic_follow_lag", "Snapshots in the topic that are not applied yet.", ["partition"], registry=registry)
        self.freshness = AgeHistogram(
            "uic_freshness_seconds", "From the log taking an event in to its memory being readable in the store.", registry
        )


_made: WeakKeyDictionary[CollectorRegistry, dict[object, Any]] = WeakKeyDictionary()  # what each maker made
_lock = threading.Lock()
_port: int | None = None


def _once(kind: Callable[[CollectorRegistry], Collectors], registry: CollectorRegistry) -> Collectors:
    # A worker's interpreter outlives its job: the next one goes on with the same collectors.
    with _lock:
        made = _made.setdefault(registry, {})
        if kind not in made:
            made[kind] = kind(registry)
        found: Collectors = made[kind]
        return found


def release() -> None:
    """Take this module's collectors out of their registries: it is about to be dropped and imported anew by another job."""
    with _lock:
        for registry, made in _made.items():
            for collectors in made.values():
                for collector in vars(collectors).values():
                    registry.unregister(collector)
        _made.clear()


def serve(port: int, host: str = "127.0.0.1") -> int:
    """Serve this process's metrics over HTTP and say on which port; 0 takes any free one. A process has one such server."""
    global _port
    with _lock:
        if _port is None:
            try:
                server, _ = start_http_server(port, addr=host)
            except OSError as error:
                raise EnvironmentProblem(
                    f"metrics: port {port} of {host} cannot be used: {error}; choose another, or 0 for any free one"
                ) from error
            _port = int(server.server_port)
        return _port
