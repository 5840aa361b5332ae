"""Pass 1: the events of one task, divided by user into partitions, in one file on disk.

The task is taken in chunks that fit in memory. A partition's part of a chunk is an Arrow stream (lz4) with a CRC-32C of its
own, so that pass 2 reads those parts of every task and nothing else.
"""

import functools
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.warm_up import work
from jobs.warm_up.inputs import Task
from jobs.warm_up.read import SCHEMA, Left, read
from jobs.warm_up.work import Done, Plan, WorkFolder
from uic.errors import JobError
from uic.forgetting import Forgotten

_IPC = pa.ipc.IpcWriteOptions(compression="lz4")
Region = tuple[int, int, int]
CHUNK_ROWS = 1_500_000


def divide(folder: WorkFolder, plan: Plan, task: Task, accepted: frozenset[str], forgotten: Forgotten | None = None) -> None:
    """Read a task, leave what is no event and what is to be forgotten, and write the rest by partition."""
    started, cpu = time.perf_counter(), time.process_time()
    left = Left()
    tables = read(task, accepted=accepted, from_ms=plan.from_ms, until_ms=plan.until_ms, left=left)
    codes = pa.array(sorted(accepted), pa.string())
    regions: list[Region] = []

    def write(file: BinaryIO) -> None:
        for chunk in _chunks(tables):
            if forgotten is not None and not forgotten.is_empty:
                there = chunk.num_rows
                chunk = _without(chunk, forgotten)
                left.counts["forgotten"] += there - chunk.num_rows
            left.counts["events"] += chunk.num_rows
            behaviours = pc.index_in(chunk.column("behaviour"), value_set=codes).cast(pa.int16())
            coded = chunk.set_column(chunk.schema.get_field_index("behaviour"), "behaviour", behaviours)
            for part in _parts(coded, plan.partitions):
                sink = pa.BufferOutputStream()
                with pa.ipc.new_stream(sink, part.schema, options=_IPC) as stream:
                    stream.write_table(part)
                data = sink.getvalue().to_pybytes()
                regions.append((file.tell(), len(data), google_crc32c.value(data)))
                file.write(data)

    path = folder.spill(task.number)
    size = left.counts["spill bytes"] = folder.finish(path, write)
    seconds = {"divide": time.perf_counter() - started, "divide cpu": time.process_time() - cpu}
    work.declare(path, Done(bytes=size, counts=left.counts, letters=left.letters, seconds=seconds, regions=regions))


def _chunks(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The rows in chunks of about CHUNK_ROWS; the last may be empty."""
    gathered = [SCHEMA.empty_table()]
    for table in tables:
        gathered.append(table)
        if sum(each.num_rows for each in gathered) >= CHUNK_ROWS:
            yield pa.concat_tables(gathered)
            gathered = [SCHEMA.empty_table()]
    yield pa.concat_tables(gathered)


def _without(table: pa.Table, forgotten: Forgotten) -> pa.Table:
    """The events that count; those of one who is to be forgotten are only counted, a letter would keep them."""
    users = pc.dictionary_encode(table.column("user").combine_chunks())
    # After this time a user's events count; nobody else has one before the first.
    untils = [forgotten.until_ms(user) for user in users.dictionary.to_pylist()]
    until_U = np.array([-1 if until_ms is None else until_ms for until_ms in untils], dtype=np.int64)
    if not (until_U >= 0).any():
        return table
    return table.filter(pa.array(table.column("time_ms").to_numpy() > until_U[users.indices.to_numpy()]))


def _parts(table: pa.Table, partitions: int) -> Iterator[pa.Table]:
    """The rows of each partition, in the order in which they were recorded."""
    users = pc.dictionary_encode(table.column("user").combine_chunks()) if table.num_rows else None
    if users is None:
        yield from [table] * partitions
        return
    homes = np.array(
        [zlib.crc32(user) % partitions for user in users.dictionary.cast(pa.binary()).to_pylist()], dtype=np.uint16
    )
    home_E: NDArray[np.uint16] = homes[users.indices.to_numpy()]
    by_home = table.take(np.argsort(home_E, kind="stable"))
    ends = np.cumsum(np.bincount(home_E, minlength=partitions)).tolist()
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        yield by_home.slice(start, end - start)


@functools.cache
def _regions(path: Path) -> NDArray[np.int64]:
    declared = work.done(path)
    assert declared is not None  # pass 2 begins when pass 1 is over
    return np.array(declared.regions, dtype=np.int64)


def regions_of(folder: WorkFolder, tasks: int, partition: int, partitions: int) -> Iterator[tuple[int, pa.Table]]:
    """The parts that each task has of a partition, with the task's number; raises JobError for bytes that have changed."""
    for number in range(tasks):
        path = folder.spill(number)
        for begin, size, crc in _regions(path)[partition::partitions].tolist():
            with path.open("rb") as file:
                file.seek(begin)
                data = file.read(size)
            if google_crc32c.value(data) != crc:
                raise JobError(
                    f"{path}: {size} bytes from {begin} on are not what was written; remove {path.stem}.* there and run the "
                    "warm-up again"
                )
            yield number, pa.ipc.open_stream(data).read_all()
