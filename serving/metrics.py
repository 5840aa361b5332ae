"""What the server tells Prometheus: requests by outcome, time by stage, how memories were found, how old they are, and skew."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serving.wire import ScoreAnswer
from uic.bundle import Manifest
from uic.promotion import skew_h

# wait: for a thread; answer: writing the JSON; whole: all of it within this process.
STAGES = ("parse", "wait", "read", "decode", "score", "answer", "whole")
SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
AGES_S = (1, 10, 60, 600, 3600, 6 * 3600, 86_400, 7 * 86_400, 30 * 86_400, 120 * 86_400)
HOURS = (0, 0.5, 1, 2, 4, 8, 12, 24, 48, 96, 168)
FOUND = ("live", "as_of", "initial", "incompatible")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ServeMetrics:
    """All collectors of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter("uic_serve_requests", "Requests for scores, by outcome.", ["outcome"], registry=registry)
        self._stages = Histogram(
            "uic_serve_seconds", "Time of a request by stage.", ["stage"], buckets=SECONDS, registry=registry
        )
        self._stage = {stage: self._stages.labels(stage) for stage in STAGES}
        self._memories = Counter(
            "uic_serve_memories", "Users scored, by how the memory was found.", ["found"], registry=registry
        )
        self._found = {found: self._memories.labels(found) for found in FOUND}
        self._incompatible = Counter(
            "uic_serve_incompatible", "Memories that could not be used, by what was wrong.", ["why"], registry=registry
        )
        self._candidates = Counter("uic_serve_candidates", "Candidates scored.", registry=registry)
        self._ages = Histogram(
            "uic_serve_memory_age_seconds",
            "How long ago the log took in the last event of a live memory that was scored from.",
            buckets=AGES_S,
            registry=registry,
        )
        self._skew = Histogram(
            "uic_serve_skew_hours",
            "How far apart the trainings end of the bundle that wrote a memory and of the one that reads it.",
            buckets=HOURS,
            registry=registry,
        )
        self._unknown = Counter(
            "uic_serve_skew_unknown", "Memories of a bundle whose training this server knows nothing of.", registry=registry
        )
        self._version = Gauge("uic_serve_bundle_version", "Version of the bundle that scores.", registry=registry)
        self._cut_off = Gauge(
            "uic_serve_bundle_training_cut_off_seconds", "Where its training ends, seconds since 1970.", registry=registry
        )
        self._refusals = Counter(
            "uic_serve_bundle_refusals", "Bundles that were refused; the old one went on.", registry=registry
        )
        self._inside = Gauge("uic_serve_inside", "Requests being scored or waiting.", registry=registry)
        self._behind = Gauge(
            "uic_serve_store_behind_seconds", "Since this server last caught up with the store's writers.", registry=registry
        )
        self._cut_offs_ms: dict[int, int] = {}
        for name in FOUND:
            self._memories.labels(name)

    def watch(self, *, inside: Callable[[], float], behind_s: Callable[[], float]) -> None:
        self._inside.set_function(inside)
        self._behind.set_function(behind_s)

    def bundle(self, manifest: Manifest) -> None:
        """This bundle scores now. Of each that ever did, the end of its training is known."""
        self._version.set(manifest.version)
        self._cut_off.set(manifest.training_cut_off_ms / 1000)
        self.know(manifest.version, manifest.training_cut_off_ms)

    def know(self, version: int, training_cut_off_ms: int) -> None:
        self._cut_offs_ms[version] = training_cut_off_ms

    def knows(self, version: int) -> bool:
        return version in self._cut_offs_ms

    def bundle_refused(self) -> None:
        self._refusals.inc()

    def stage(self, stage: str, seconds: float) -> None:
        self._stage[stage].observe(seconds)

    def outcome(self, outcome: str) -> None:
        """`ok`, or the code of the problem."""
        self._requests.labels(outcome).inc()

    def answered(self, answer: ScoreAnswer, now_ms: int) -> None:
        read_ms = self._cut_offs_ms.get(answer.bundle_version)
        for user in answer.users:
            self._found[user.found].inc()
            self._candidates.inc(len(user.probabilities))
            if user.why is not None:
                self._incompatible.labels(user.why).inc()
            if user.memory is None:
                continue
            if user.found == "live" and user.memory.taken_in_ms is not None:
                self._ages.observe(max(0.0, (now_ms - user.memory.taken_in_ms) / 1000))
            written_ms = self._cut_offs_ms.get(user.memory.bundle_version)
            if written_ms is None or read_ms is None:
                self._unknown.inc()
            else:
                self._skew.observe(abs(skew_h(written_ms, read_ms)))

    def text(self) -> bytes:
        return generate_latest(self.registry)
