"""What a warm-up costs: python -m benchmarks.warm_up

A history of users of about 1,000 events each, in Parquet files (or JSONL), is warmed up on all cores. It is held against the
bare batched step: OnnxStep over such events, 256 at a time, and nothing else, in as many processes at once, before and after.
Rates are events per CPU-second of all processes. Store and savepoint are filled with more users of shorter histories. At the
end: what a million users and a billion events cost, and a plan for 600 million users of 1,000 events each, by arithmetic.
"""

import json
import multiprocessing
import os
import resource
import shutil
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from benchmarks.load import BEHAVIOURS, CATEGORIES, ITEMS, bundle
from jobs.jars import JOB_JARS
from jobs.settings import DaysSettings
from jobs.warm_up.handover import describe
from jobs.warm_up.load import load
from jobs.warm_up.run import DAY_MS, WarmUp, warm_up
from jobs.warm_up.savepoint import write_savepoint
from jobs.warm_up.work import WorkFolder
from operators.allocator import keep_freed_memory
from uic.bundle import Bundle
from uic.runtime import OnnxStep
from uic.warm.fold import LANES

UNTIL_MS = int(datetime(2017, 11, 26, tzinfo=UTC).timestamp() * 1000)
DAYS = 120
PLAN_USERS, PLAN_EVENTS_EACH = 600_000_000, 1_000
_USED = 0.8  # of the cores, in the plan: the rest is tails, starts and disks


@dataclass(frozen=True)
class Spent:
    """Wall and CPU seconds of something, its processes included."""

    seconds: float
    cpu_seconds: float


class Watch:
    """Times what is done within it."""

    def __enter__(self) -> "Watch":
        self._wall, self._cpu = time.perf_counter(), _cpu_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        self.spent = Spent(time.perf_counter() - self._wall, _cpu_seconds() - self._cpu)


class Silent:
    """Progress that nobody watches."""

    def begin(self, what: str, total: int, done: int) -> None:
        pass

    def advance(self, events: int) -> None:
        pass


def main(
    users: Annotated[int, typer.Option(help="Users in the history.")] = 6_000,
    mean: Annotated[int, typer.Option(help="Their events on average.")] = 1_000,
    files: Annotated[str, typer.Option(help="parquet or jsonl.")] = "parquet",
    out: Annotated[Path | None, typer.Option(help="JSON of what was measured.")] = None,
    bundle_path: Annotated[Path, typer.Option("--bundle", help="Made if there is none.")] = Path("bundles/benchmark"),
    jars: Annotated[Path, typer.Option(help="Jars of the savepoint writer.")] = JOB_JARS,
    saved: Annotated[
        int, typer.Option(min=10_000, help="Users to write into store and savepoint; of fewer the JVM's start hides the cost.")
    ] = 50_000,
) -> None:
    """Measure, print, and keep the figures."""
    model = bundle(bundle_path)
    root = Path(tempfile.mkdtemp(prefix="uic-warm-up-"))
    try:
        found = run(model, root, users=users, mean=mean, files=files)
        found |= save(model, root, users=saved, jars=jars)
    finally:
        shutil.rmtree(root)
    typer.echo(table(found))
    if out is not None:
        out.write_text(json.dumps(found, indent=1) + "\n")


def run(model: Bundle, root: Path, *, users: int, mean: int, files: str) -> dict[str, Any]:
    """The figures of both passes over one history."""
    events = write_history(root / "history", users=users, mean=mean, files=files)
    processes = len(os.sched_getaffinity(0))
    bare = [bare_step(model, events // 4, processes)]
    asked = WarmUp(history=str(root / "history"), bundle=model.path, work=root / "work", until_ms=UNTIL_MS, days=DAYS)
    with Largest() as largest, Watch() as whole:
        report = warm_up(asked, Silent())
    bare.append(bare_step(model, events // 4, processes))
    assert report is not None
    assert report.counts["applied"] == events
    return {
        "events": events,
        "users": users,
        "files": files,
        "processes": processes,
        "history_bytes": sum(path.stat().st_size for path in (root / "history").iterdir()),
        "bare_per_cpu_second": bare,
        "work_cpu_seconds": report.seconds["divide cpu"] + report.seconds["fold cpu"],
        "parts": report.seconds,
        "whole": whole.spent.__dict__,
        "process_bytes": largest.bytes,
        "spill_bytes": report.counts["spill bytes"],
    }


def save(model: Bundle, root: Path, *, users: int, jars: Path) -> dict[str, Any]:
    """What it costs to write memories into the store and into a savepoint, without what a JVM's start costs."""
    write_history(root / "short", users=users, mean=3, files="parquet")
    work = root / "work-short"
    report = warm_up(
        WarmUp(history=str(root / "short"), bundle=model.path, work=work, until_ms=UNTIL_MS, days=DAYS, partitions=10), Silent()
    )
    assert report is not None
    memories = [WorkFolder(work).memories(number) for number in range(report.partitions)]
    with Watch() as loading:
        load(memories, root / "store", model, DaysSettings())
    about = describe(model, until_ms=UNTIL_MS, idle_after_ms=None, users=users)
    saving = []
    for some in (memories[:1], memories):
        with Watch() as watch:
            saved = write_savepoint(some, root / "savepoint", jars, work, about=about, idle_after_ms=None)
        saving.append((saved, watch.spent))
    (few, first), (_, second) = saving
    return {
        "saved_users": users,
        "memory_bytes": report.bytes / users,
        "store_cpu_us": 1e6 * loading.spent.cpu_seconds / users,
        "savepoint_cpu_us": 1e6 * (second.cpu_seconds - first.cpu_seconds) / (users - few),
        "savepoint_start": first.__dict__,
        "savepoint_bytes": sum(path.stat().st_size for path in (root / "savepoint").iterdir()) / users,
    }


class Largest:
    """The most memory that any child process of this one had at any time, as the kernel has it."""

    def __enter__(self) -> "Largest":
        self.bytes = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(0.5):
            for status in Path("/proc").glob("[0-9]*/status"):
                try:
                    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
                except (OSError, ValueError):
                    continue  # it has just ended
                if int(fields["PPid"]) == os.getpid() and "VmHWM" in fields:
                    self.bytes = max(self.bytes, 1024 * int(fields["VmHWM"].split()[0]))


def write_history(folder: Path, *, users: int, mean: int, files: str) -> int:
    """A log in the order of time, a file for each ten days; how many events. Lengths of histories are drawn exponentially."""
    folder.mkdir()
    rng = np.random.default_rng(5)
    lengths_U = np.maximum(1, rng.exponential(mean, users).astype(np.int64))
    total = int(lengths_U.sum())
    user_E = np.repeat(np.arange(users), lengths_U)
    times_E = np.sort(rng.integers(UNTIL_MS - DAYS * DAY_MS, UNTIL_MS, total))
    rng.shuffle(user_E)
    items_E = rng.zipf(1.2, total) % ITEMS + 1
    table = pa.table(
        {
            "user": pa.array([f"user{number}" for number in range(users)]).take(pa.array(user_E)),
            "item_id": items_E,
            "category_id": items_E % CATEGORIES + 1,
            "behaviour": pa.array(BEHAVIOURS).take(pa.array(rng.integers(0, len(BEHAVIOURS), total))),
            "time_ms": times_E,
        }
    )
    size = -(-total // 12)
    for number in range(12):
        part = table.slice(number * size, size)
        if files == "parquet":
            pq.write_table(part, folder / f"part-{number:02d}.parquet")
        else:
            rows = zip(*(column.to_pylist() for column in part.columns), strict=True)
            lines = (
                f'{{"user_id":"{user}","item_id":{item},"category_id":{category},"behaviour":"{kind}","time_ms":{time_ms}}}\n'
                for user, item, category, kind, time_ms in rows
            )
            (folder / f"part-{number:02d}.jsonl").write_text("".join(lines))
    return total


def bare_step(model: Bundle, events: int, processes: int) -> float:
    """Events per CPU-second of nothing but the step, in full batches, while as many processes do the same."""
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        taken = list(pool.map(_step_alone, [str(model.path)] * processes, [events // processes] * processes))
    return sum(done for done, _ in taken) / sum(cpu for _, cpu in taken)


def _step_alone(path: str, events: int) -> tuple[int, float]:
    """Events taken, and CPU seconds of it."""
    keep_freed_memory()
    model = Bundle.open(Path(path))
    step = OnnxStep(model)
    rng = np.random.default_rng(7)
    steps = max(64, events // LANES)
    items = model.items.rows(rng.zipf(1.2, (steps, LANES)) % ITEMS + 1)
    categories = model.categories.rows(rng.integers(1, CATEGORIES, (steps, LANES)))
    states_BF = np.tile(model.initial.state_F, (LANES, 1))
    for number in range(64):
        states_BF = step(states_BF, items[number], categories[number])
    cpu = time.process_time()
    for number in range(steps):
        states_BF = step(states_BF, items[number], categories[number])
    return steps * LANES, time.process_time() - cpu


def table(found: dict[str, Any]) -> str:
    """The figures for people, and the plan."""
    events = found["events"]
    warm = events / found["work_cpu_seconds"]
    bare = float(np.mean(found["bare_per_cpu_second"]))
    both = found["store_cpu_us"] + found["savepoint_cpu_us"]
    start = found["savepoint_start"]
    bytes_each = found["history_bytes"] / events
    rows = [
        ("history", f"{events:,} events of {found['users']:,} users, {found['files']}, {bytes_each:.1f} bytes each"),
        ("bare step", f"{bare:,.0f} events per CPU-second, {LANES} at a time, {found['processes']} processes"),
        ("both passes", f"{warm:,.0f} events per CPU-second, {warm / bare:.2f} of the bare step"),
        ("whole run", f"{events / found['whole']['seconds']:,.0f} events a second, the processes' start included"),
        ("largest process", f"{found['process_bytes'] / 1e6:,.0f} MB"),
        ("on disk between", f"{found['spill_bytes'] / events:.1f} bytes an event"),
        ("a memory", f"{found['memory_bytes']:,.0f} bytes, {found['savepoint_bytes']:,.0f} in a savepoint"),
        ("into the store", f"{found['store_cpu_us']:.0f} CPU-us a user"),
        ("into a savepoint", f"{found['savepoint_cpu_us']:.0f} CPU-us a user, and {start['seconds']:.0f} s to start"),
        ("a billion events", f"{1e9 / warm / 3600:.2f} core hours, {found['spill_bytes'] / events:.0f} GB between"),
        ("a million users", f"{both / 3600:.3f} core hours into store and savepoint, {found['memory_bytes'] / 1e3:.1f} GB"),
        *plan(found, warm, both),
    ]
    return "\n".join(f"{name:<18} {value}" for name, value in rows)


def plan(found: dict[str, Any], warm: float, both_us: float) -> list[tuple[str, str]]:
    """600 million users of 1,000 events each, by arithmetic."""
    events = PLAN_USERS * PLAN_EVENTS_EACH
    fold_h = events / warm / 3600 / _USED
    save_h = PLAN_USERS * both_us / 1e6 / 3600 / _USED
    tb = 1e12
    return [
        ("plan", f"{PLAN_USERS:,} users of {PLAN_EVENTS_EACH:,} events, cores used to {_USED:.0%}"),
        ("  both passes", f"{fold_h:,.0f} core hours"),
        ("  store, savepoint", f"{save_h:,.0f} core hours"),
        ("  history", f"{events * found['history_bytes'] / found['events'] / tb:.1f} TB"),
        ("  on disk between", f"{events * found['spill_bytes'] / found['events'] / tb:.1f} TB"),
        ("  memories", f"{PLAN_USERS * found['memory_bytes'] / tb:.2f} TB, as much in the store and in the savepoint"),
        *((f"  {cores:,} cores", f"{(fold_h + save_h) / cores:.1f} hours") for cores in (100, 500, 1000)),
    ]


def _cpu_seconds() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


if __name__ == "__main__":
    typer.run(main)
