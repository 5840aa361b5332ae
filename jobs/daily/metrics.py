"""What the schedule of daily checkpoints tells Prometheus; infra/RUNBOOK.md says what to do about each."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from uic.errors import EnvironmentProblem

OUTCOMES = ("taken", "failed", "late", "sealed", "removed")


class DailyMetrics:
    """The figures of one catalogue, in a registry of their own unless one is given."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._registry = registry = CollectorRegistry() if registry is None else registry
        what = "Daily checkpoints: savepoints taken, attempts failed, come too late for their day, sealed, removed"
        self._count = Counter("uic_daily_checkpoints", what, ["outcome"], registry=registry)
        for outcome in OUTCOMES:
            self._count.labels(outcome)
        self._newest_ms: int | None = None
        self._age = Gauge("uic_daily_age_seconds", "Age of the newest daily checkpoint that is not tainted", registry=registry)
        self._age.set_function(self._age_s)
        self._entries = Gauge("uic_daily_entries", "Daily checkpoints in the catalogue", registry=registry)
        self._unreadable = Gauge("uic_daily_unreadable", "Folders of the catalogue that cannot be read", registry=registry)
        self._missing = Gauge("uic_daily_missing_days", "Kept days without a checkpoint of their own", registry=registry)
        self._lost = Gauge("uic_daily_lost", "Checkpoints whose events the broker has removed", registry=registry)
        self._problems = Gauge("uic_daily_log_problems", "What is wrong with the log's retention", registry=registry)

    def serve(self, host: str, port: int) -> int:
        """Serve them over HTTP; returns the port. Raises EnvironmentProblem where it is not free."""
        try:
            server, _ = start_http_server(port, addr=host, registry=self._registry)
        except OSError as error:
            raise EnvironmentProblem(f"daily.metrics_port {host}:{port}: {error.strerror}; use 0 for any free port") from error
        return int(server.server_port)

    def count(self, outcome: str, times: int = 1) -> None:
        self._count.labels(outcome).inc(times)

    def catalogue(self, *, entries: int, unreadable: int, missing: int, newest_ms: int | None) -> None:
        self._entries.set(entries)
        self._unreadable.set(unreadable)
        self._missing.set(missing)
        self._newest_ms = newest_ms

    def log(self, *, lost: int, problems: int) -> None:
        self._lost.set(lost)
        self._problems.set(problems)

    def _age_s(self) -> float:
        return float("nan") if self._newest_ms is None else max(0.0, time.time() - self._newest_ms / 1000)
