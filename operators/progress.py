"""How far the job is, as its operators write it about once a second for the launcher; never read back by the job itself."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

READ_FILE = "progress.json"
UPDATE_FILE = "applied.json"
# The launcher makes this file to end a run: the reader pauses, so that the savepoint is quick and the counts are exact.
STOP_FILE = "stop"
_EVERY_S = 0.5
_T = TypeVar("_T", "ReadProgress", "UpdateProgress")


@dataclass(frozen=True, kw_only=True)
class ReadProgress:
    """What the reader has read; counts are over the whole life of the job folder, `run` tells the run that wrote it.

    `events_before` is the count at which this run went on. `is_paused`: nothing more is read, because the launcher asked so.
    """

    run: int
    file: str
    offset: int
    bytes_read: int
    total_bytes: int
    lines: int
    events: int
    events_before: int
    is_at_end: bool
    is_paused: bool
    notices: list[str]


@dataclass(frozen=True, kw_only=True)
class UpdateProgress:
    """What the update operator has done in this run; what was replayed after a crash counts again."""

    run: int
    applied: int
    duplicate: int
    late: int


class Pace:
    """Says when it is time to write again."""

    def __init__(self) -> None:
        self._next = 0.0

    def is_due(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + _EVERY_S
        return True


def write(path: Path, progress: ReadProgress | UpdateProgress) -> None:
    """Replace the file in one rename. Not flushed to the disk: it is of use only while this machine runs."""
    partial = path.with_name(f".{path.name}")
    partial.write_text(json.dumps(asdict(progress)))
    partial.replace(path)


def read(path: Path, kind: type[_T], run: int) -> _T | None:
    """The progress that run number `run` has written, None before its first."""
    try:
        progress = kind(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return progress if progress.run == run else None
