"""How fast the stream is, in one command: `python -m benchmarks.stream`. Results, a table and a plot go to --out."""

import dataclasses
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import limit, report
from benchmarks.cluster import Bench, measure, run_quietly
from benchmarks.latency import latency
from benchmarks.load import Load, bundle
from benchmarks.profile import profile
from benchmarks.recovery import HEARTBEAT, recovery
from benchmarks.throughput import Pace, batched
from uic.errors import BadInput

PARTS = ("limit", "batched", "per-event", "plain", "latency", "recovery", "profile")
BATCH = 256
_ZIPFS = (None, 1.1)


_PACE = Pace(warm_s=40, window_s=30, interval_s=30)
_SLOW_PACE = Pace(warm_s=20, window_s=30, interval_s=10)
_QUICK_PACE = Pace(warm_s=4, window_s=4, interval_s=2)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is run; `quick` shows that everything works, its figures say little."""

    users: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    drawn: int = 2_400_000
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

    def note(self, part: str, row: dict[str, Any], value: Any) -> None:  # a dataclass
        """Keep a result at once: an hour of measuring is not lost with its last part."""
        entry = {**row, **dataclasses.asdict(value)}
        for name in ("per_cpu_second", "per_second"):
            if hasattr(value, name):
                entry[name] = getattr(value, name)
        self.found.setdefault(part, []).append(entry)
        (self.out / "result.json").write_text(json.dumps(self.found, indent=1) + "\n")
        shown = {key: round(each, 1) if isinstance(each, float) else each for key, each in entry.items() if key != "functions"}
        typer.echo(f"{part}: {shown}")

    def loads(self) -> list[Load]:
        return [Load(users=users, zipf=zipf, drawn=self.sizes.drawn) for users in self.sizes.users for zipf in _ZIPFS]

    def bench(self, **more: Any) -> Bench:  # what Bench takes
        return Bench(self.work / f"bench-{time.monotonic_ns()}", self.bundle, jars=self.jars, **more)


def main(
    out: Annotated[Path, typer.Option(help="Folder for result.json, table.md, plot.png.")] = Path("benchmarks/results/stream"),
    quick: Annotated[bool, typer.Option("--quick", help="A smoke run of few minutes; its figures say little.")] = False,
    only: Annotated[str | None, typer.Option(help=f"Some parts only, with commas: {', '.join(PARTS)}.")] = None,
    jars: Annotated[Path, typer.Option(help="The jars of `make jars`.")] = Path("infra/jars/job"),
    work: Annotated[Path | None, typer.Option(help="Folder for servers' data (20 GB); default: a temporary one.")] = None,
) -> None:
    """Measure the stream on this machine: a Kafka broker and a Flink cluster as real processes, events per CPU-second of all
    that a TaskManager runs, against a plain loop of the same function.

    Takes about 40 minutes, 16 GB of memory and no other load. Example: python -m benchmarks.stream --only limit,batched
    """
    parts = PARTS if only is None else tuple(only.split(","))
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise BadInput(f"--only: unknown {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        path = Path(folder) / "bundle"
        bundle(path)
        run = Run(QUICK if quick else Sizes(), path, jars, Path(folder), out, parts)
        run.found["machine"] = {"cores": os.cpu_count(), "cpu": _cpu(), "python": platform.python_version(), "quick": quick}
        steps_of = {"limit": _limit, "batched": _cluster, "per-event": _cluster, "plain": _plain, "profile": _profile}
        steps: list[Callable[[Run], None]] = [*(steps_of[part] for part in PARTS if part in steps_of and part in parts)]
        for step in dict.fromkeys(steps):
            step(run)
        if {"latency", "recovery"} & set(parts):
            _latency_and_recovery(run)
    report.write(run.found, out)
    typer.echo((out / "table.md").read_text())


def _limit(run: Run) -> None:
    model = bundle(run.bundle)
    for load in run.loads():
        run.note("limit", _row(load), limit.run(model, load, batch=BATCH, count=run.sizes.counted))


def _cluster(run: Run) -> None:
    with run.bench() as bench:
        for load in run.loads():
            is_reference = load.zipf is None and (load.users == 100_000 or len(run.sizes.users) == 1)
            wants_per_event = "per-event" in run.parts and is_reference
            if not wants_per_event and "batched" not in run.parts:
                continue
            bench.fill(load)
            for backend in ("hashmap", "rocksdb") if "batched" in run.parts else ():
                window, checkpoint = batched(bench, load, backend=backend, plan="batched", pace=run.sizes.pace)
                run.note("batched", {**_row(load), "backend": backend}, window)
                if checkpoint is not None:
                    run.note("checkpoint", {**_row(load), "backend": backend}, checkpoint)
            if wants_per_event:
                window, _ = batched(bench, load, backend="hashmap", plan="per-event", pace=run.sizes.slow_pace)
                run.note("per-event", _row(load), window)
            bench.drop(load.name)


def _plain(run: Run) -> None:
    from benchmarks import plain

    load = Load(users=max(each for each in run.sizes.users if each <= 100_000), zipf=None, drawn=100_000)
    pace = run.sizes.slow_pace
    with run.bench(environment=plain.worker_environment()) as bench:
        bench.fill(load)
        folder, kafka = run.work / "plain", bench.stack.kafka_settings()
        arguments = {"bundle": run.bundle, "bootstrap": kafka.bootstrap, "topic": load.name, "url": bench.stack.url}
        more = {"jars": run.jars.absolute(), "folder": folder}
        run_quietly(plain.command({**arguments, **more}))
        running = bench.running_named("plain")
        window, _ = measure(running, begin=0, end=load.total, warm_s=pace.warm_s, window_s=pace.window_s)
        run.note("plain", _row(load), window)


def _latency_and_recovery(run: Run) -> None:
    sizes = run.sizes
    with run.bench(taskmanagers=2, flink=HEARTBEAT) as bench:
        if "latency" in run.parts:
            found = latency(
                bench, users=10_000, warm=sizes.latency_warm, seconds=sizes.latency_s, interval_s=sizes.slow_pace.interval_s
            )
            run.note("latency", {"users": 10_000}, found)
        for users, backend in sizes.recovered if "recovery" in run.parts else ():
            load = Load(users=users, zipf=None, drawn=0)
            found_again = recovery(bench, load, backend=backend, interval_s=sizes.slow_pace.interval_s)
            run.note("recovery", {"users": users, "backend": backend}, found_again)


def _profile(run: Run) -> None:
    model = bundle(run.bundle)
    for zipf in _ZIPFS:
        load = Load(users=10_000, zipf=zipf, drawn=0)
        run.note("profile", _row(load), profile(model, load, run.work, batch=BATCH, count=run.sizes.counted // 4))


def _row(load: Load) -> dict[str, Any]:  # JSON
    return {"users": load.users, "distribution": "uniform" if load.zipf is None else "zipf"}


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    typer.run(main)
