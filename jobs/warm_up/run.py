"""A warm-up from its files to memories: both passes over all cores, and again from where a killed one was."""

import ctypes
import functools
import json
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from jobs.warm_up import inputs, work
from jobs.warm_up.inputs import Task
from jobs.warm_up.work import Plan, WorkFolder
from operators.allocator import keep_freed_memory
from uic import artefact
from uic.bundle import MANIFEST, Bundle, digest
from uic.errors import BadInput, JobError
from uic.forgetting import Forgotten
from uic.letters import LetterBox
from uic.update import Rules, Updater

DAY_MS = 86_400_000
PARTITION_EVENTS = 1_500_000
_MOST_PARTITIONS = 1 << 15
_POLL_S = 1.0


class Progress(Protocol):
    """Who is told how far a pass is."""

    def begin(self, what: str, total: int, done: int) -> None: ...

    def advance(self, events: int) -> None: ...


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """What is to be warmed up. `days` back from `until_ms` the window begins; `processes` 0: one a core.

    This is share `share` of `shares`: of the tasks and partitions, those whose number leaves that remainder. `forgotten`: the
    file of those who are to be forgotten (uic/forgetting.py), whose events are left out.
    """

    history: str
    bundle: Path
    work: Path
    until_ms: int
    days: int
    idle_after_ms: int | None = None
    processes: int = 0
    partitions: int | None = None
    share: int = 0
    shares: int = 1
    forgotten: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """What came of a warm-up. `counts` are over the whole of it, however often it was begun; `seconds` those of its parts."""

    counts: dict[str, int]
    bytes: int
    partitions: int
    tasks: int
    seconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps({**self.__dict__}, indent=1) + "\n"


def warm_up(asked: WarmUp, progress: Progress) -> Report | None:
    """Divide and fold what is not done yet of this share; share 0 waits for the others, closes and reports.

    Raises BadInput where another warm-up was begun in the work folder.
    """
    Bundle.open(asked.bundle)  # before anything is written
    folder = WorkFolder(asked.work, asked.share)
    processes = asked.processes or len(os.sched_getaffinity(0))
    with folder.locked():
        found = inputs.find(asked.history)
        tasks = inputs.cut(found)
        plan = folder.agree(plan_of(asked, found, tasks, processes))
        if folder.report.exists():
            return Report(**json.loads(folder.report.read_text())) if asked.share == 0 else None
        spills = [folder.spill(task.number) for task in tasks]
        parts = [folder.memories(number) for number in range(plan.partitions)]
        partitions = [number for number in _own(asked, plan.partitions) if work.done(parts[number]) is None]
        if any(work.done(path) is None for path in parts):
            with _workers(processes, asked, plan, tasks) as pool:
                missing = [tasks[number] for number in _own(asked, len(tasks)) if work.done(spills[number]) is None]
                _divide(pool, missing, progress)
                _wait_for("the other shares to read", spills, progress)
                _fold(pool, spills, partitions, plan, progress)
        if asked.share != 0:
            return None
        _wait_for("the other shares to fold", parts, progress)
        return _close(folder, spills, parts)


def _own(asked: WarmUp, count: int) -> range:
    return range(asked.share, count, asked.shares)


def plan_of(asked: WarmUp, found: list[inputs.Input], tasks: list[Task], processes: int) -> Plan:
    """What is to be done, as the work folder keeps it."""
    events = sum(task.events for task in tasks)
    partitions = asked.partitions or max(2 * processes, -(-events // PARTITION_EVENTS))
    if not 1 <= partitions <= _MOST_PARTITIONS:
        raise BadInput(
            f"--partitions: expected 1 to {_MOST_PARTITIONS}, got {partitions}; divide a history of {events:,} events by user "
            "into several, and warm each up by itself"
        )
    return Plan(
        inputs=found,
        from_ms=asked.until_ms - asked.days * DAY_MS,
        until_ms=asked.until_ms,
        bundle=str(asked.bundle.absolute()),
        bundle_digest=str(digest(asked.bundle / MANIFEST)["sha256"]),
        idle_after_ms=asked.idle_after_ms,
        partitions=partitions,
    )


def _divide(pool: ProcessPoolExecutor, missing: list[Task], progress: Progress) -> None:
    events = {task.number: task.events for task in missing}
    progress.begin("reading", sum(events.values()), 0)
    _each(pool, _divide_one, events, lambda number: progress.advance(events[number]))


def _fold(pool: ProcessPoolExecutor, spills: list[Path], partitions: list[int], plan: Plan, progress: Progress) -> None:
    declared = [work.done(path) for path in spills]
    events = sum(each.counts["events"] for each in declared if each is not None) // plan.partitions
    progress.begin("folding", events * len(partitions), 0)
    _each(pool, _fold_one, partitions, lambda _: progress.advance(events))


def _wait_for(what: str, paths: list[Path], progress: Progress) -> None:
    """Wait until all of these files are declared, by whoever does them."""
    missing = {path for path in paths if work.done(path) is None}
    if missing:
        progress.begin(f"waiting for {what}", len(missing), 0)
    while missing:
        time.sleep(_POLL_S)
        left = {path for path in missing if work.done(path) is None}
        progress.advance(len(missing) - len(left))
        missing = left


def _each(pool: ProcessPoolExecutor, do: Callable[[int], None], numbers: Iterable[int], is_done: Callable[[int], None]) -> None:
    try:
        pending = {pool.submit(do, number): number for number in numbers}
        for future in as_completed(pending):
            future.result()
            is_done(pending[future])
    except BrokenProcessPool as error:
        raise JobError(
            "a process of the warm-up was killed, perhaps for want of memory; the same command goes on where it was. "
            "--processes takes fewer of them"
        ) from error


def _close(folder: WorkFolder, spills: list[Path], parts: list[Path]) -> Report:
    """Gather counts and letters, and remove what pass 1 left. Killed here, it does the same again."""
    counts: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    size = 0
    box = LetterBox(folder.letters)
    try:
        for path in spills + parts:
            declared = work.done(path)
            assert declared is not None
            counts.update(declared.counts)
            seconds.update(declared.seconds)
            size += declared.bytes if path.suffix == ".memories" else 0
            for letter in declared.letters:
                box.put(**letter._asdict())
    finally:
        box.close()
    report = Report(counts=+counts, bytes=size, partitions=len(parts), tasks=len(spills), seconds=dict(seconds))
    artefact.write_atomically(folder.report, report.to_json())
    for path in spills:
        path.unlink(missing_ok=True)
    return report


def _workers(processes: int, asked: WarmUp, plan: Plan, tasks: list[Task]) -> ProcessPoolExecutor:
    # Started afresh: a copy of this process would share its threads' locks.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, context, _begin, (os.getpid(), asked, plan, tasks))


class _Worker:
    """What a process of the pool has at hand."""

    def __init__(self, asked: WarmUp, plan: Plan, tasks: list[Task]) -> None:
        self.folder = WorkFolder(asked.work, asked.share)
        self.forgotten = None if asked.forgotten is None else Forgotten(asked.forgotten)
        self.plan = plan
        self.tasks = tasks

    @functools.cached_property
    def bundle(self) -> Bundle:
        return Bundle.open(Path(self.plan.bundle))

    @functools.cached_property
    def updater(self) -> Updater:
        from uic.runtime import OnnxStep

        keep_freed_memory()
        return self.bundle.updater(OnnxStep(self.bundle), Rules(idle_after_ms=self.plan.idle_after_ms))


_worker: _Worker | None = None


def _begin(parent: int, asked: WarmUp, plan: Plan, tasks: list[Task]) -> None:
    global _worker
    # A worker must not outlive the one that holds the folder's lock.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    import jobs.warm_up.divide
    import jobs.warm_up.part  # noqa: F401  # what is imported here is not counted as work

    _worker = _Worker(asked, plan, tasks)


def _divide_one(number: int) -> None:
    from jobs.warm_up.divide import divide

    assert _worker is not None
    divide(_worker.folder, _worker.plan, _worker.tasks[number], _worker.bundle.accepted, _worker.forgotten)


def _fold_one(partition: int) -> None:
    from jobs.warm_up.part import fold_partition

    assert _worker is not None
    fold_partition(_worker.folder, _worker.plan, _worker.tasks, partition, _worker.updater, sorted(_worker.bundle.accepted))
