"""Which files a history consists of, and how they are cut into tasks that each fit in memory.

A history is a file, a folder with files of events at any depth, or a pattern; a dataset of `uic data prepare` is one too.
What stands in the names of partition folders (`day=2017-11-25/`) is passed over, and so are hidden files and those that begin
with an underscore.
"""

import glob
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from uic import artefact
from uic.errors import BadInput

JSONL = (".jsonl", ".ndjson")
PARQUET = (".parquet",)
TASK_BYTES = 128 << 20
TASK_ROWS = 1_500_000
_LOOKED_AT = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Input:
    """One file: `fingerprint` is the SHA-256 of its first and last megabyte, which in a Parquet file holds its statistics."""

    path: str
    size: int
    fingerprint: str

    @property
    def is_parquet(self) -> bool:
        return self.path.endswith(PARQUET)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A part of one input: the lines that begin in bytes [begin, end), or row groups [begin, end). `events`: about so many."""

    number: int
    input: Input
    begin: int
    end: int
    events: int


def find(history: str) -> list[Input]:
    """The files of a history in the order of their names; raises BadInput where there are none."""
    path = Path(history)
    if path.is_dir():
        is_dataset = artefact.kind_of(path) == "dataset"
        paths = [path / "events.parquet"] if is_dataset else sorted(each for each in path.rglob("*") if _is_events(each, path))
        what = "files of events (*.jsonl, *.ndjson, *.parquet)"
    else:
        paths = [Path(each) for each in sorted(glob.glob(history, recursive=True)) if Path(each).is_file()]  # noqa: PTH207  # absolute patterns too
        what = "a file, or a pattern that some match"
        for each in paths:
            if each.suffix not in JSONL + PARQUET:
                raise BadInput(f"{each}: expected a file of events, {', '.join(JSONL + PARQUET)}; got {each.suffix or 'none'}")
    if not paths:
        raise BadInput(f"{history}: expected {what}, found none")
    return [_look_at(each) for each in paths]


def _is_events(path: Path, root: Path) -> bool:
    parts = path.relative_to(root).parts
    return path.suffix in JSONL + PARQUET and path.is_file() and not any(part.startswith((".", "_")) for part in parts)


def _look_at(path: Path) -> Input:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            seen = hashlib.sha256(file.read(_LOOKED_AT))
            file.seek(max(0, size - _LOOKED_AT))
            seen.update(file.read())
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error
    return Input(path=str(path.absolute()), size=size, fingerprint=seen.hexdigest())


def cut(inputs: Sequence[Input]) -> list[Task]:
    """The tasks of a history, the same ones every time."""
    tasks: list[Task] = []
    for each in inputs:
        for begin, end, events in _parquet_parts(each) if each.is_parquet else _line_parts(each):
            tasks.append(Task(number=len(tasks), input=each, begin=begin, end=end, events=events))
    return tasks


def _line_parts(source: Input) -> list[tuple[int, int, int]]:
    with Path(source.path).open("rb") as file:
        sample = file.read(_LOOKED_AT)
    line_bytes = max(1, len(sample) // max(1, sample.count(b"\n")))
    starts = range(0, source.size, TASK_BYTES)
    return [
        (start, min(start + TASK_BYTES, source.size), min(TASK_BYTES, source.size - start) // line_bytes) for start in starts
    ]


def _parquet_parts(source: Input) -> list[tuple[int, int, int]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(source.path)
    except (OSError, pa.ArrowException) as error:
        raise BadInput(f"{source.path}: expected a Parquet file: {error}") from error
    parts: list[tuple[int, int, int]] = []
    begin = rows = 0
    for group in range(metadata.num_row_groups):
        rows += metadata.row_group(group).num_rows
        if rows >= TASK_ROWS or group == metadata.num_row_groups - 1:
            parts.append((begin, group + 1, rows))
            begin, rows = group + 1, 0
    return parts
