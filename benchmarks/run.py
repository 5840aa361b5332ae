"""One run of `python -m benchmarks.stream`: how much is measured, and where what was found is kept."""

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from benchmarks import limit
from benchmarks.cluster import Bench
from benchmarks.load import Load
from benchmarks.throughput import Pace

PARTS = ("limit", "batched", "per-event", "plain", "latency", "recovery", "profile")
BATCH = 256
ZIPFS = (None, 1.1)


_PACE = Pace(warm_s=45, window_s=60, interval_s=60)
_SLOW_PACE = Pace(warm_s=20, window_s=30, interval_s=10)
_QUICK_PACE = Pace(warm_s=4, window_s=4, interval_s=2)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is run; `quick` shows that everything works, its figures say little."""

    users: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    drawn: int = 4_000_000
    pace: Pace = _PACE
    slow_pace: Pace = _SLOW_PACE
    counted: int = 200_000
    latency_s: float = 60
    latency_warm: int = 600_000
    recovered: tuple[tuple[int, str], ...] = ((100_000, "hashmap"), (100_000, "rocksdb"), (1_000_000, "hashmap"))


QUICK = Sizes(
    users=(10_000,),
    drawn=150_000,
    pace=_QUICK_PACE,
    slow_pace=_QUICK_PACE,
    counted=20_000,
    latency_s=10,
    latency_warm=20_000,
    recovered=((10_000, "hashmap"),),
)


@dataclass
class Run:
    """One run of the command: what it has found so far, and where things are."""

    sizes: Sizes
    bundle: Path
    jars: Path
    work: Path
    out: Path
    parts: tuple[str, ...]
    found: dict[str, Any] = field(default_factory=dict)  # JSON

    def speed(self) -> float:
        """How fast the machine is just now: events per CPU-second of the plain loop over 10,000 users."""
        load = Load(users=10_000, zipf=None, drawn=0)
        return limit.run_apart(self.bundle, load, batch=BATCH, count=self.sizes.counted // 2).per_cpu_second

    def note_measured(self, part: str, row: dict[str, Any], measure: Callable[[], Any]) -> Any:  # a dataclass with a rate
        """Measure between two looks at the machine's speed: a shared one is a third faster or slower a minute later."""
        before = self.speed()
        value = measure()
        self.note(part, {**row, "speed": 2 / (1 / before + 1 / self.speed())}, value)
        return value

    def note(self, part: str, row: dict[str, Any], value: Any) -> None:  # a dataclass
        """Keep a result at once: an hour of measuring is not lost with its last part."""
        entry = {**row, **dataclasses.asdict(value)}
        entry.pop("checkpoint", None)
        for name in ("per_cpu_second", "per_second"):
            if hasattr(value, name):
                entry[name] = getattr(value, name)
        self.found.setdefault(part, []).append(entry)
        (self.out / "result.json").write_text(json.dumps(self.found, indent=1) + "\n")
        shown = {key: round(each, 1) if isinstance(each, float) else each for key, each in entry.items() if key != "functions"}
        typer.echo(f"{part}: {shown}")

    def loads(self) -> list[Load]:
        return [Load(users=users, zipf=zipf, drawn=self.sizes.drawn) for users in self.sizes.users for zipf in ZIPFS]

    def bench(self, **more: Any) -> Bench:  # what Bench takes
        return Bench(self.work / f"bench-{time.monotonic_ns()}", self.bundle, jars=self.jars, **more)
