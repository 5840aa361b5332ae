"""How fast a job is and what it costs: events taken in and CPU time of its TaskManager, sampled over time."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

EVERY_S = 0.5
_TICKS = 100  # a second, in /proc; a constant of Linux' interface
# A thread of the TaskManager is told by the beginning of its name, which Linux cuts after 15 characters.
_PARTS = (
    ("Source: read ev", "source"),
    ("update memory", "update"),
    ("Kafka Fetcher", "kafka consumer"),
    ("Source Data Fet", "kafka consumer"),
    ("kafka-producer-", "kafka producer"),
    ("rocksdb", "rocksdb"),
    ("G1 ", "gc"),
    ("GC Thread", "gc"),
    ("C1 Comp", "jit"),
    ("C2 Comp", "jit"),
    ("AsyncOperations", "checkpoint"),
    ("flink-pekko", "flink rpc"),
    ("Flink Netty", "flink network"),
)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A moment: events taken in by the update operator, CPU-seconds of all processes, and of the JVM's threads by part."""

    at_s: float
    events: int
    cpu_s: float
    threads: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Window:
    """Between two samples. Parts of the JVM's CPU time are shares of the whole, Python's processes included."""

    events: int
    seconds: float
    cpu_seconds: float
    threads: dict[str, float]

    @property
    def per_cpu_second(self) -> float:
        return self.events / self.cpu_seconds

    @property
    def per_second(self) -> float:
        return self.events / self.seconds

    @classmethod
    def between(cls, first: Sample, last: Sample) -> "Window":
        cpu_s = last.cpu_s - first.cpu_s
        parts = {name: (last.threads[name] - first.threads.get(name, 0.0)) / cpu_s for name in last.threads}
        shares = {name: share for name, share in sorted(parts.items(), key=lambda each: -each[1]) if share >= 0.005}
        return cls(events=last.events - first.events, seconds=last.at_s - first.at_s, cpu_seconds=cpu_s, threads=shares)


@dataclass
class Sampler:
    """Takes samples in a thread of its own, between `start` and `stop`. `count` tells the events so far."""

    pid: int
    count: Callable[[], int]
    samples: list[Sample] = field(default_factory=list)
    _ends: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ends.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ends.wait(EVERY_S):
            try:
                events = self.count()
                self.samples.append(
                    Sample(at_s=time.time(), events=events, cpu_s=cpu_seconds(self.pid), threads=thread_seconds(self.pid))
                )
            except (psutil.Error, OSError):
                continue


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of its children, those that have ended included."""
    total = 0.0
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def thread_seconds(pid: int) -> dict[str, float]:
    """The same of one process's threads, by what they do; and of its child processes, as `processes`."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            name, _, rest = task.joinpath("stat").read_text().partition("(")[2].rpartition(") ")
        except OSError:
            continue
        fields = rest.split()
        seconds[_part(name)] += (int(fields[11]) + int(fields[12])) / _TICKS
    for process in psutil.Process(pid).children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        seconds["processes"] += times.user + times.system
    return dict(seconds)


def _part(name: str) -> str:
    return next((part for begins, part in _PARTS if name.startswith(begins)), "other")
