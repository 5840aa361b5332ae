"""How fast the stream is, in one command: `python -m benchmarks.stream`. Results, a table and a plot go to --out."""

import os
import platform
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import limit, report
from benchmarks.cluster import run_quietly
from benchmarks.latency import latency
from benchmarks.load import Load, bundle
from benchmarks.measure import measure
from benchmarks.profile import profile
from benchmarks.recovery import HEARTBEAT, recovery
from benchmarks.run import BATCH, PARTS, QUICK, ZIPFS, Run, Sizes
from benchmarks.samples import Window
from benchmarks.throughput import measure_job
from uic.errors import BadInput


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
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        path = Path(folder) / "bundle"
        bundle(path)
        run = Run(QUICK if quick else Sizes(), path, jars, Path(folder), out, parts)
        run.found["machine"] = {"cores": os.cpu_count(), "cpu": _cpu(), "python": platform.python_version(), "quick": quick}
        steps_of: dict[str, Callable[[Run], None]] = {
            "limit": _limit,
            "batched": _cluster,
            "per-event": _cluster,
            "plain": _plain,
            "profile": _profile,
            "latency": _latency,
            "recovery": _recovery,
        }
        for step in dict.fromkeys(steps_of[part] for part in PARTS if part in parts):
            step(run)
    report.write(run.found, out)
    typer.echo((out / "table.md").read_text())


def _limit(run: Run) -> None:
    for load in run.loads():
        run.note_measured("limit", _row(load), partial(limit.run_apart, run.bundle, load, batch=BATCH, count=run.sizes.counted))


def _cluster(run: Run) -> None:
    with run.bench() as bench:
        for load in run.loads():
            is_reference = load.zipf is None and (load.users == 100_000 or len(run.sizes.users) == 1)
            wants_per_event = "per-event" in run.parts and is_reference
            if not wants_per_event and "batched" not in run.parts:
                continue
            bench.fill(load)
            for backend in ("hashmap", "rocksdb") if "batched" in run.parts else ():
                row = {**_row(load), "backend": backend}
                done = run.note_measured(
                    "batched", row, partial(measure_job, bench, load, backend=backend, plan="batched", pace=run.sizes.pace)
                )
                if done.checkpoint is not None:
                    run.note("checkpoint", row, done.checkpoint)
            if wants_per_event:
                pace = run.sizes.slow_pace
                one_by_one = partial(measure_job, bench, load, backend="hashmap", plan="per-event", pace=pace)
                run.note_measured("per-event", _row(load), one_by_one)
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

        def window() -> Window:
            found = measure(running, begin=0, end=load.total, warm_s=pace.warm_s, window_s=pace.window_s)[0]
            running.cluster.cancel(running.job_id)
            return found

        run.note_measured("plain", _row(load), window)


def _latency(run: Run) -> None:
    sizes = run.sizes
    # One worker: what stands by for a recovery would take its share of the cores.
    with run.bench() as bench:
        found = latency(
            bench, users=10_000, warm=sizes.latency_warm, seconds=sizes.latency_s, interval_s=sizes.slow_pace.interval_s
        )
        run.note("latency", {"users": 10_000}, found)


def _recovery(run: Run) -> None:
    with run.bench(taskmanagers=2, flink=HEARTBEAT) as bench:
        for users, backend in run.sizes.recovered:
            load = Load(users=users, zipf=None, drawn=0)
            found = recovery(bench, load, backend=backend, interval_s=run.sizes.slow_pace.interval_s)
            run.note("recovery", {"users": users, "backend": backend}, found)


def _profile(run: Run) -> None:
    model = bundle(run.bundle)
    for zipf in ZIPFS:
        load = Load(users=10_000, zipf=zipf, drawn=0)
        run.note("profile", _row(load), profile(model, load, run.work, batch=BATCH, count=run.sizes.counted // 4))


def _row(load: Load) -> dict[str, Any]:  # JSON
    return {"users": load.users, "distribution": "uniform" if load.zipf is None else "zipf"}


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    typer.run(main)
