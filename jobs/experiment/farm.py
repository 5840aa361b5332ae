"""Many runs in processes of their own: what is done is not done again, and how long the rest will take is told from it."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from jobs.experiment.task import Task
from model.experiments.arms import Json
from uic.errors import JobError, UicError

Say = Callable[[str], None]


@dataclass
class Farm:
    """Runs tasks, `jobs` at a time, each by `through` + the command of one run; with no jobs one by one in this process.

    said   what stays (a line for each run), moving   what changes (where the running ones are)
    """

    jobs: int
    through: Sequence[str]
    said: Say
    moving: Say
    _taken: dict[str, list[float]] = field(default_factory=dict)
    _running: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    _at: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _left: dict[str, Task] = field(default_factory=dict)
    _is_over: bool = False
    _of_days: bool = False

    def run(self, tasks: Sequence[Task]) -> None:
        """All tasks; those that fail are named at the end, when the others are done."""
        distinct = {task.run.name: task for task in tasks}
        done = {name: task for name, task in distinct.items() if task.is_done}
        self._left = {name: task for name, task in distinct.items() if name not in done}
        for task in done.values():
            self._taken.setdefault(task.arm, []).append(task.figures()["seconds"])
        self._of_days = len({task.data for task in tasks}) > 1
        self.said(f"{len(distinct)} runs: {len(done)} are trained already, {len(self._left)} are left")
        failed: list[str] = []
        with ThreadPoolExecutor(max(1, self.jobs)) as pool:
            try:
                for failure in pool.map(self._one, list(self._left.values())):
                    failed += [] if failure is None else [failure]
            except BaseException:
                self._stop()
                pool.shutdown(cancel_futures=True)
                raise
        if failed:
            raise JobError(
                f"{len(failed)} of {len(distinct)} runs failed; asked again, the others are not repeated:\n" + "\n".join(failed)
            )

    def estimate_s(self) -> float | None:
        """Seconds that the runs left will take, by those that are done; None before there is one."""
        everything = [seconds for arm in self._taken.values() for seconds in arm]
        if not everything:
            return None
        usual = statistics.mean(everything)
        each = [statistics.mean(self._taken.get(task.arm, [usual])) for task in self._left.values()]
        return sum(each) / max(1, self.jobs)

    def _one(self, task: Task) -> str | None:
        if self._is_over:
            return None
        began = time.monotonic()
        failure = self._in_process(task) if self.jobs else self._here(task)
        if failure is not None:
            return f"  {self._name(task)}: {failure}"
        with self._lock:
            self._left.pop(task.run.name, None)
            figures = task.figures()
            self._taken.setdefault(task.arm, []).append(time.monotonic() - began)
            self.said(
                f"{self._name(task)}: validation AUC {figures['valid']['auc']:.4f} in epoch {figures['best_epoch']}, "
                f"test {figures['test']['auc']:.4f}; {time.monotonic() - began:.0f} s.  {self._standing()}"
            )
        return None

    def _here(self, task: Task) -> str | None:
        from jobs.experiment.work import work

        try:
            work(task, lambda **at: self._move(task, at))
        except UicError as error:
            return f"{type(error).__name__}: {error}"
        return None

    def _in_process(self, task: Task) -> str | None:
        """Why it failed, or None."""
        name, log = task.run.name, task.run.with_suffix(".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        # One thread each, also where torch is not asked for it: many small operations, and `jobs` of these processes.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        with log.open("a") as errors:
            process = subprocess.Popen(
                [*self.through, sys.executable, "-m", "jobs.experiment.work"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment,
            )  # fmt: skip
            with self._lock:
                self._running[name] = process
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):  # it ended at once; its exit code and its log say why
                process.stdin.write(task.to_json())
                process.stdin.close()
            for line in process.stdout:
                if line.startswith("{"):  # what a run is started through may have words of its own
                    self._move(task, json.loads(line))
            code = process.wait()
        with self._lock:
            self._running.pop(name, None)
            self._at.pop(name, None)
        if code or not task.is_done:
            last = (log.read_text().strip().splitlines() or [f"exit code {code}"])[-1]
            return f"{last} (all of it: {log})"
        return None

    def _name(self, task: Task) -> str:
        return f"{task.arm}, seed {task.seed}" + (f", {task.data.name}" if self._of_days else "")

    def _standing(self) -> str:
        left = self.estimate_s()
        return f"{len(self._left)} left" + (f", about {duration(left)}" if left and self._left else "")

    def _move(self, task: Task, at: Json) -> None:
        with self._lock:
            share = f" {at['share']:.0%}" if "share" in at else ""
            self._at[task.run.name] = f"{self._name(task)} epoch {at['epoch']}/{at['of_epochs']}{share}"
            self.moving("; ".join(self._at.values()) + f"  ({self._standing()})")

    def _stop(self) -> None:
        self._is_over = True
        with self._lock:
            for process in self._running.values():
                process.terminate()


def duration(seconds: float) -> str:
    """A time as a person says it.

    >>> duration(42), duration(4200)
    ('42 s', '1 h 10 min')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
