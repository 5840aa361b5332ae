"""A raw log larger than memory, prepared: does the memory that this takes grow with the lines?

    python -m benchmarks.large_log                                          20 million lines, and a quarter of them
    python -m benchmarks.large_log --lines 100000000 --memory-mb 500        as many as the true file has; 13 GB of disk

A synthetic UserBehavior.csv (large_log_source.py) goes through `uic data prepare taobao`, the command itself in a process of
its own, at both lengths and with one bound of memory. Memory is what the process tree has for itself, without libraries' files,
sampled twenty times a second; disk is the hidden folder beside the result, once a second. It fails where the long log's peak is
more than 1.3 times that of the short one.
"""

import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple

import psutil
import typer

from benchmarks.large_log_source import write_log
from model.data.dataset import Dataset

MOST_TIMES = 1.3
_EVERY_S = 0.05
_DISK_EVERY = 20
_STAGE = re.compile(r" *[\d.]+ s  ([^:\n]*)")


@dataclass
class Watch:
    """The most memory a process tree has had for itself at each stage, and its folder's most bytes, until the process ends."""

    process: psutil.Process
    folder: Path
    stage: str = "starting"
    memory_bytes: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    disk_bytes: int = 0

    def run(self) -> None:
        samples = 0
        while self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE:
            try:
                tree = [each.memory_info() for each in (self.process, *self.process.children(recursive=True))]
            except psutil.NoSuchProcess:
                continue
            self.memory_bytes[self.stage] = max(self.memory_bytes[self.stage], sum(each.rss - each.shared for each in tree))
            if samples % _DISK_EVERY == 0:
                self.disk_bytes = max(self.disk_bytes, _size(self.folder))
            samples += 1
            time.sleep(_EVERY_S)


class Cost(NamedTuple):
    """Of one length."""

    lines: int
    log_bytes: int
    decoded_bytes: int
    seconds: float
    cpu_s: float
    memory_bytes: dict[str, int]
    disk_bytes: int
    result_bytes: int
    log: dict[str, int]
    """Distinct users, items and categories."""

    @property
    def peak_bytes(self) -> int:
        return max(self.memory_bytes.values())


def cost(folder: Path, lines: int, memory_mb: int) -> Cost:
    """Make a log and prepare it."""
    log, out = folder / "UserBehavior.csv", folder / "prepared" / "taobao"
    decoded_bytes = write_log(log, lines)
    out.parent.mkdir()
    words = ["data", "prepare", "taobao", "--source", str(log), "--out", str(out), "--memory-mb", str(memory_mb)]
    started, cpu_s = time.perf_counter(), _children_s()
    command = subprocess.Popen([sys.executable, "-m", "jobs.cli", *words], stdout=subprocess.PIPE, text=True)
    assert command.stdout is not None
    watch = Watch(psutil.Process(command.pid), out.parent)
    watcher = threading.Thread(target=watch.run)
    watcher.start()
    for line in command.stdout:
        if stage := _STAGE.match(line):
            typer.echo(line.rstrip())
            watch.stage = stage[1]
    watcher.join()
    if command.wait():
        raise SystemExit(f"uic data prepare taobao ended with {command.returncode}")
    return Cost(
        lines=lines,
        log_bytes=log.stat().st_size,
        decoded_bytes=decoded_bytes,
        seconds=time.perf_counter() - started,
        cpu_s=_children_s() - cpu_s,
        memory_bytes=dict(watch.memory_bytes),
        disk_bytes=watch.disk_bytes,
        result_bytes=_size(out),
        log=Dataset.open(out).stats["log"],
    )


def _children_s() -> float:
    """CPU time of all processes that were started here and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _size(folder: Path) -> int:
    sizes = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                sizes += (Path(path) / name).stat().st_size
            except FileNotFoundError:  # what was spilled comes and goes
                continue
    return sizes


def main(
    lines: Annotated[int, typer.Option(help="Lines of the long log; the short one has a quarter.")] = 20_000_000,
    memory_mb: Annotated[
        int, typer.Option(help="`--memory-mb` of the command: what the log may take while it is sorted.")
    ] = 200,
    work: Annotated[Path | None, typer.Option(help="Where logs and datasets may be put for the while.")] = None,
) -> None:
    """Prepare both, and print the figures."""
    rows, peaks = [], []
    for count in (lines // 4, lines):
        with tempfile.TemporaryDirectory(dir=work, prefix="uic-large-log-") as folder:
            typer.echo(f"{count:,} lines")
            found = cost(Path(folder), count, memory_mb)
            rows.append(_row(found))
            peaks.append(found.peak_bytes)
            typer.echo("; ".join(f"{stage} {held / 2**20:,.0f} MiB" for stage, held in found.memory_bytes.items()))
    typer.echo(
        "| lines | users | items | log | as columns | time | lines/s | lines per CPU-s | peak: memory | disk | dataset |"
    )
    typer.echo("|---|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        typer.echo(row)
    times = peaks[1] / peaks[0]
    typer.echo(f"four times the lines take {times:.2f} times the memory; at most {MOST_TIMES} is wanted")
    raise typer.Exit(times > MOST_TIMES)


def _row(found: Cost) -> str:
    mib = 2**20
    cells = (
        f"{found.lines:,}",
        f"{found.log['users']:,}",
        f"{found.log['items']:,}",
        f"{found.log_bytes / mib:,.0f} MiB",
        f"{found.decoded_bytes / mib:,.0f} MiB",
        f"{found.seconds:,.0f} s",
        f"{found.lines / found.seconds:,.0f}",
        f"{found.lines / found.cpu_s:,.0f}",
        f"{found.peak_bytes / mib:,.0f} MiB",
        f"{found.disk_bytes / mib:,.0f} MiB",
        f"{found.result_bytes / mib:,.0f} MiB",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    typer.run(main)
