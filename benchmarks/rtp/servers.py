"""The servers of a run as processes: ours by `uic serve`, DIEN's by benchmarks/rtp/dien_server.py; and what they use."""

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.rtp.generator import HOST
from jobs.dev.node import Node, free_port
from serving.metrics import STAGES
from uic.errors import EnvironmentProblem

_ROOT = Path(__file__).parents[2]
# Of both servers alike: requests scored at once, and how long one may take. ONNX Runtime has one thread a call.
THREADS = 2
TIME_S = 10.0


class Usage(NamedTuple):
    """What a process holds and has used; `handles` but for callers' connections, which are theirs to close.

    `loop_ran_s`, `loop_waited_s`: how long its first thread, the event loop's, has run, and waited for a core.
    """

    cpu_s: float
    loop_ran_s: float
    loop_waited_s: float
    rss_bytes: int
    handles: int
    connections: int
    threads: int


class Served:
    """A server that can be asked what it holds, uses and counts."""

    def __init__(self, node: Node) -> None:
        self.node = node
        assert node.port is not None
        self.port = node.port

    def usage(self) -> Usage:
        process = psutil.Process(self.node.pid)
        with process.oneshot():
            times = process.cpu_times()
            callers = [each for each in process.net_connections("tcp") if each.raddr and each.laddr.port == self.port]
            handles = process.num_fds() - len(callers)
            memory = process.memory_info().rss
            # Nanoseconds, of the thread whose number is the process's; psutil does not know them.
            ran_ns, waited_ns, _ = map(int, Path(f"/proc/{process.pid}/schedstat").read_text().split())
            return Usage(
                times.user + times.system, ran_ns / 1e9, waited_ns / 1e9, memory, handles, len(callers), process.num_threads()
            )

    def stages(self) -> dict[str, tuple[float, float]]:
        """Of each stage, how many seconds it took so far and how often (serving/metrics.py)."""
        with urllib.request.urlopen(f"http://{HOST}:{self.port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found = {
            (sample.name, sample.labels.get("stage", "")): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        return {stage: (found[("uic_serve_seconds_sum", stage)], found[("uic_serve_seconds_count", stage)]) for stage in STAGES}


def mean_ms(before: Mapping[str, tuple[float, float]], after: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Where a request's milliseconds went, between two looks at `stages`."""
    return {
        stage: 1000 * (seconds - before[stage][0]) / max(1.0, count - before[stage][1])
        for stage, (seconds, count) in after.items()
    }


@contextmanager
def ours(work: Path, bundle: Path, store: Path | str, *, name: str = "ours", **settings: object) -> Iterator[Served]:
    """`uic serve`; `settings` are those of `serve` in uic.yaml."""
    asked = {"threads": THREADS, "time_s": TIME_S, "drain_s": 0, **settings}
    environment = {f"UIC__SERVE__{key.upper()}": str(value) for key, value in asked.items()}
    command = ["-m", "jobs.cli", "serve", "--bundle", str(bundle), "--store", str(store), "--port"]
    with _running(work, name, command, environment) as served:
        yield served


@contextmanager
def dien(work: Path, bundle: Path, graphs: Path, store: Path, lengths: Sequence[int]) -> Iterator[Served]:
    command = ["-m", "benchmarks.rtp.dien_server", str(bundle), str(graphs), str(store), ",".join(map(str, lengths))]
    with _running(work, "dien", command, {}) as served:
        yield served


@contextmanager
def _running(work: Path, name: str, command: list[str], environment: Mapping[str, str]) -> Iterator[Served]:
    port = free_port()
    node = Node(
        name,
        command=lambda _: [sys.executable, *command, str(port)],
        environment={**os.environ, "PYTHONPATH": str(_ROOT), "UIC__SERVE__HOST": HOST, **environment},
        log=work / f"{name}.log",
        port=port,
        is_ready=lambda: is_ready(port),
    )
    work.mkdir(parents=True, exist_ok=True)
    node.start()
    try:
        node.wait_ready()
        yield Served(node)
        if not node.is_running():
            raise EnvironmentProblem(f"{name} ended while it was measured; {node.log} says why")
    finally:
        node.stop()


def is_ready(port: int, path: str = "/readyz") -> bool:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
