"""Checkpoints that nothing may go on from: the job notes one when a memory of it fails its CRC, and resuming passes it over.

One JSON line each in the job's folder, appended in one write, so that several workers may do it at once.
"""

import json
import os
import time
from pathlib import Path
from typing import NamedTuple

FILE = "condemned.jsonl"


class Condemned(NamedTuple):
    """One entry. `checkpoint` is a path or URI of its folder, or its name alone, such as chk-17."""

    checkpoint: str
    why: str
    time_ms: int

    def is_about(self, folder: Path) -> bool:
        """Whether this is about the checkpoint in `folder`; a name alone is about those that were there at that time."""
        named = self.checkpoint.removeprefix("file:").rstrip("/")
        if "/" in named:
            return os.path.normpath("/" + named.lstrip("/")) == os.path.normpath(folder.absolute())
        if named != folder.name:
            return False
        try:
            return (folder / "_metadata").stat().st_mtime_ns // 1_000_000 <= self.time_ms
        except OSError:
            return True


def condemn(job_dir: Path, checkpoint: str, why: str) -> None:
    """Note that nothing may go on from this checkpoint, and why."""
    entry = Condemned(checkpoint, why, time.time_ns() // 1_000_000)
    line = json.dumps(entry._asdict()).encode() + b"\n"
    descriptor = os.open(job_dir / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(job_dir: Path) -> list[Condemned]:
    """All entries, oldest first; a line cut off by the end of a machine is passed over."""
    try:
        lines = (job_dir / FILE).read_text().splitlines()
    except FileNotFoundError:
        return []
    entries = []
    for line in lines:
        try:
            entries.append(Condemned(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return entries
