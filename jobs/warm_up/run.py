"""A warm-up from its files to memories: both passes over all cores, and again from where a killed one was."""

import ctypes
import functools
import json
import multiprocessing
import os
import signal
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
from uic.letters import LetterBox
from uic.update import Rules, Updater

DAY_MS = 86_400_000
PARTITION_EVENTS = 1_500_000
_MOST_PARTITIONS = 1 << 15


class Progress(Protocol):
    """Who is told how far a pass is."""

    def begin(self, what: str, total: int, done: int) -> None: ...

    def advance(self, events: int) -> None: ...


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """What is to be warmed up. `days` back from `until_ms` the window begins; `processes`: one a core."""

    history: str
    bundle: Path
    work: Path
    until_ms: int
    days: int
    idle_after_ms: int | None = None
    processes: int = 0
    partitions: int | None = None


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


def warm_up(asked: WarmUp, progress: Progress) -> Report:
    """Divide and fold what is not done yet. Raises BadInput where another warm-up was begun in the work folder."""
    Bundle.open(asked.bundle)  # before anything is written
    folder = WorkFolder(asked.work)
    processes = asked.processes or len(os.sched_getaffinity(0))
    with folder.locked():
        found = inputs.find(asked.history)
        tasks = inputs.cut(found)
        plan = folder.agree(plan_of(asked, found, tasks, processes))
        _remove_partial(folder)
        if folder.report.exists():
            return Report(**json.loads(folder.report.read_text()))
        partitions = [number for number in range(plan.partitions) if work.done(folder.memories(number)) is None]
        with _workers(processes, folder, plan, tasks) as pool:
            if partitions:
                _divide(pool, folder, tasks, progress)
                _fold(pool, folder, plan, partitions, progress)
        return _close(folder, plan, tasks)


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


def _divide(pool: ProcessPoolExecutor, folder: WorkFolder, tasks: list[Task], progress: Progress) -> None:
    missing = [task for task in tasks if work.done(folder.spill(task.number)) is None]
    total = sum(task.events for task in tasks)
    progress.begin("reading", total, total - sum(task.events for task in missing))
    events = {task.number: task.events for task in missing}
    _each(pool, _divide_one, events, lambda number: progress.advance(events[number]))


def _fold(pool: ProcessPoolExecutor, folder: WorkFolder, plan: Plan, partitions: list[int], progress: Progress) -> None:
    spilled = [work.done(folder.spill(number)) for number in range(len(list((folder.path / "spill").glob("*.spill"))))]
    total = sum(each.counts["events"] for each in spilled if each is not None)
    share = total // plan.partitions
    progress.begin("folding", total, total - share * len(partitions))
    _each(pool, _fold_one, partitions, lambda _: progress.advance(share))


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


def _close(folder: WorkFolder, plan: Plan, tasks: list[Task]) -> Report:
    """Gather counts and letters, and remove what pass 1 left. Killed here, it does the same again."""
    counts: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    size = 0
    box = LetterBox(folder.letters)
    try:
        for path in [
            *(folder.spill(task.number) for task in tasks),
            *(folder.memories(number) for number in range(plan.partitions)),
        ]:
            declared = work.done(path)
            assert declared is not None
            counts.update(declared.counts)
            seconds.update(declared.seconds)
            size += declared.bytes if path.suffix == ".memories" else 0
            for letter in declared.letters:
                box.put(**letter._asdict())
    finally:
        box.close()
    report = Report(counts=+counts, bytes=size, partitions=plan.partitions, tasks=len(tasks), seconds=dict(seconds))
    artefact.write_atomically(folder.report, report.to_json())
    for task in tasks:
        folder.spill(task.number).unlink(missing_ok=True)
    return report


def _remove_partial(folder: WorkFolder) -> None:
    for name in ("spill", "memories"):
        for path in (folder.path / name).glob(".*"):
            path.unlink()


def _workers(processes: int, folder: WorkFolder, plan: Plan, tasks: list[Task]) -> ProcessPoolExecutor:
    # Started afresh: a copy of this process would share its threads' locks.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, context, _begin, (os.getpid(), folder.path, plan, tasks))


class _Worker:
    """What a process of the pool has at hand."""

    def __init__(self, path: Path, plan: Plan, tasks: list[Task]) -> None:
        self.folder = WorkFolder(path)
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


def _begin(parent: int, path: Path, plan: Plan, tasks: list[Task]) -> None:
    global _worker
    # A worker must not outlive the one that holds the folder's lock.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    _worker = _Worker(path, plan, tasks)


def _divide_one(number: int) -> None:
    from jobs.warm_up.divide import divide

    assert _worker is not None
    divide(_worker.folder, _worker.plan, _worker.tasks[number], _worker.bundle.accepted)


def _fold_one(partition: int) -> None:
    from jobs.warm_up.part import fold_partition

    assert _worker is not None
    fold_partition(_worker.folder, _worker.tasks, partition, _worker.updater, sorted(_worker.bundle.accepted))
