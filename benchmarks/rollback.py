"""What the cut of a rollback costs in a store of a million users: python -m benchmarks.rollback

A sharded RocksDB is filled with memories of the default preset, one of every user from before a midnight and one of some users
from after it. Then `begin_generation` goes back to that midnight. Timed: the cut, and the first read afterwards by another
process that had the store open all the while. Counted: RocksDB's own number of writes, which grows by one with each key put or
deleted, the bytes that the kernel was asked to write, and the files that changed. Every user of a sample is then read: it must
be the memory of before the midnight, from the process that cut and from the other one.
"""

import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

from uic.clock import Days
from uic.codec import Codec, Columns, read_header
from uic.memory import MemoryLayout
from uic.store.contract import StoreIdentity
from uic.store.rocksdb import RocksStore
from uic.store.sharded import ShardedStore
from uic.variant import preset

DAY = date(2026, 11, 22)
DAYS = Days("UTC")
PARTITIONS = 4
_BLOCK = 2_000


class Written(NamedTuple):
    """What a store and its process have written so far."""

    operations: int
    bytes: int
    files: dict[str, tuple[int, int]]


def main(
    users: Annotated[int, typer.Option(help="Users in the store.")] = 1_000_000,
    later: Annotated[float, typer.Option(help="Share of them who have a memory from after the midnight too.")] = 0.2,
    shards: Annotated[int, typer.Option(help="RocksDBs that they are in.")] = 2,
    cuts: Annotated[int, typer.Option(help="How often it is cut; the later ones go back to the same midnight again.")] = 5,
    sample: Annotated[int, typer.Option(help="Users to read afterwards.")] = 1_000,
    work: Annotated[Path | None, typer.Option(help="Where the store may be put for the while.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON of what was measured.")] = None,
) -> None:
    """Fill a store, cut, count."""
    with tempfile.TemporaryDirectory(dir=work, prefix="uic-rollback-") as folder:
        found = measure(Path(folder) / "store", users, later, shards, cuts, sample)
    typer.echo(json.dumps(found, indent=1))
    if out is not None:
        out.write_text(json.dumps(found, indent=1) + "\n")


def measure(path: Path, users: int, later: float, shards: int, cuts: int, sample: int) -> dict[str, Any]:
    codec = Codec(MemoryLayout(preset("default")))
    identity = StoreIdentity(layout=codec.layout.layout_name, lineage="benchmark")
    cut_ms = DAYS.begins_ms(DAY)
    store = ShardedStore.create_or_open(path, identity, shards=shards, partitions=PARTITIONS, zone="UTC")
    filled = time.perf_counter()
    for first, count in ((cut_ms - 3_600_000, users), (cut_ms + 3_600_000, round(users * later))):
        for start in range(0, count, _BLOCK):
            names = [f"u{number}" for number in range(start, min(start + _BLOCK, count))]
            _fill(store, names, _memories(codec, len(names), first + start // _BLOCK, sequence=1 + (first > cut_ms)))
    filled = time.perf_counter() - filled
    chosen = [f"u{number}" for number in np.random.default_rng(7).choice(users, min(sample, users), replace=False)]
    before = {user: store.read(user, DAY) for user in chosen}
    assert all(blob is not None and read_header(blob).log_time_ms < cut_ms for blob in before.values())
    assert any(store.read(user) != before[user] for user in chosen)

    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    reader = multiprocessing.get_context("spawn").Process(target=_read, args=(path, chosen, theirs))
    reader.start()
    assert ours.recv() == "open"
    rows: list[dict[str, Any]] = []
    for generation in range(1, cuts + 1):
        was = _written(store, path)
        started = time.perf_counter()
        store.begin_generation(generation, cut_ms)
        took = time.perf_counter() - started
        ours.send(chosen[0])
        assert ours.recv() == before[chosen[0]]
        seen = time.perf_counter() - started
        now = _written(store, path)
        rows.append(
            {
                "cut_ms": 1000 * took,
                "seen_by_another_process_ms": 1000 * seen,
                "rocksdb_writes": now.operations - was.operations,
                "bytes_written": now.bytes - was.bytes,
                "files_changed": sorted(name for name in now.files if now.files[name] != was.files.get(name)),
            }
        )
    ours.send(None)
    assert ours.recv() == before
    reader.join()
    assert {user: store.read(user) for user in chosen} == before
    size = sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
    result = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "users": users, "memories": users + round(users * later), "memory_bytes": codec.size, "shards": shards,
        "store_bytes": size, "filled_s": round(filled, 1), "sample_read_right": len(chosen),
        "median_cut_ms": statistics.median(row["cut_ms"] for row in rows), "cuts": rows,
    }  # fmt: skip
    store.close()
    return result


def _memories(codec: Codec, count: int, log_time_ms: int, *, sequence: int) -> Iterator[bytes]:
    rng = np.random.default_rng(log_time_ms)
    columns = Columns(
        states_BF=rng.standard_normal((count, codec.layout.size_F), dtype=np.float32),
        rings=[rng.bytes(16 * codec.layout.ring_size)] * count,
        sequences=[sequence] * count,
        last_times_ms=[log_time_ms] * count,
        log_times_ms=[log_time_ms] * count,
        generations=[0] * count,
    )
    packed = codec.encode_packed(columns, bundle_version=1)
    return (bytes(packed[at * codec.size : (at + 1) * codec.size]) for at in range(count))


def _fill(store: ShardedStore, names: list[str], blobs: Iterator[bytes]) -> None:
    for name, blob in zip(names, blobs, strict=True):
        store.write(name, blob)


def _written(store: ShardedStore, path: Path) -> Written:
    io = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    files = {
        str(each.relative_to(path)): (each.stat().st_size, each.stat().st_mtime_ns)
        for each in path.rglob("*")
        if each.is_file()
    }
    return Written(sum(_db(shard).latest_sequence_number() for shard in store.shards), int(io["wchar"]), files)


def _db(shard: RocksStore) -> Any:  # a RocksDB, for which its library ships no such type
    return shard._db


def _read(path: Path, users: list[str], asked: Connection) -> None:
    """Another process, which has the store open from before the first cut on."""
    store = ShardedStore.open_to_read(path)
    store.read(users[0])
    asked.send("open")
    while (user := asked.recv()) is not None:
        asked.send(store.read(user))
    asked.send({each: store.read(each) for each in users})
    store.close()


if __name__ == "__main__":
    typer.run(main)
