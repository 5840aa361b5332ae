"""A job, a log and days of a second, for the tests of daily checkpoints; savepoints with the Kafka source's state in them."""

import struct
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from uuid import UUID

from jobs.daily.catalogue import Catalogue
from jobs.daily.cut import LogInMemory
from jobs.daily.midnights import Midnights
from jobs.daily.offsets import EARLIEST, Split
from jobs.record import ClusterRecord, JobRecord
from uic.clock import Days
from uic.errors import JobError

DAY_MS = 1000
FIRST = date(2026, 1, 1)
TOPIC = "events"


class ShortDays(Days):
    """Days of a second each, the first of them at `start_ms`."""

    def __init__(self, start_ms: int = 0, length_ms: int = DAY_MS) -> None:
        super().__init__("UTC")
        self._start_ms = start_ms
        self._length_ms = length_ms

    def day_of(self, time_ms: int) -> date:
        return FIRST + timedelta(days=(time_ms - self._start_ms) // self._length_ms)

    def begins_ms(self, day: date) -> int:
        return self._start_ms + (day - FIRST).days * self._length_ms

    def bounds_ms(self, time_ms: int) -> tuple[int, int]:
        day = self.day_of(time_ms)
        return self.begins_ms(day), self.begins_ms(day + timedelta(days=1))

    def before(self, day: date, count: int = 1) -> date:
        return day - timedelta(days=count)


@dataclass
class FakeJob:
    """A job that has read each partition up to `read`; its savepoints are real enough to be looked into."""

    read: dict[int, int]
    root: Path
    fails: int = 0
    error: Exception = field(default_factory=lambda: JobError("made no savepoint"))
    taken: int = field(default=0, init=False)

    def record(self) -> tuple[JobRecord, ClusterRecord]:
        on = ClusterRecord(
            url="http://127.0.0.1:9",
            job_id="ab" * 16,
            name="uic",
            plan="batched",
            parallelism=1,
            bootstrap="127.0.0.1:9",
            topic=TOPIC,
            partitions=len(self.read),
            wheel="w.whl",
        )
        facts = {"layout": "l", "lineage": "i", "bundle_version": 1, "events": TOPIC, "store": "s", "backend": "hashmap"}
        return JobRecord(run=1, bundle=str(self.root / "bundle"), cluster=on, **facts), on  # type: ignore[arg-type]  # by name

    def savepoint(self, target: Path) -> Path:
        if self.fails > 0:
            self.fails -= 1
            raise self.error
        self.taken += 1
        folder = target / f"savepoint-{self.taken}"
        folder.mkdir()
        return savepoint_of(folder, [("inline", [Split(TOPIC, each, at or EARLIEST) for each, at in self.read.items()])])


@dataclass
class World:
    """Midnights over a fake job, a log in memory and a clock that is moved by hand."""

    root: Path
    partitions: int = 2
    margin_ms: int = 50
    now_ms: int = 0
    kept: int = 3
    day_ms: int = DAY_MS

    def __post_init__(self) -> None:
        self.log = LogInMemory({each: [] for each in range(self.partitions)})
        self.job = FakeJob(dict.fromkeys(range(self.partitions), 0), self.root)
        self.said: list[str] = []
        self.midnights = Midnights(
            catalogue=Catalogue(self.root / "daily"),
            job=self.job,
            log=self.log,
            days=ShortDays(length_ms=self.day_ms),
            kept=self.kept,
            lead_ms=self.day_ms // 5,
            margin_ms=self.margin_ms,
            now_ms=lambda: self.now_ms,
            say=self.said.append,
        )

    def event(self, partition: int, *, skew_ms: int = 0) -> None:
        """The log takes one in now, by a clock that may be ahead or behind; it never runs backwards within the partition."""
        times = self.log.times_ms[partition]
        times.append(max([self.now_ms + skew_ms, *times[-1:]]))

    def read_all(self) -> None:
        self.job.read = {each: len(times) for each, times in self.log.times_ms.items()}


def text(value: str) -> bytes:
    return struct.pack(">H", len(value.encode())) + value.encode()


def element(split: Split, version: int = 0) -> bytes:
    inner = text(split.topic) + struct.pack(">iqq", split.partition, split.offset, -(1 << 63))
    return struct.pack(">iii", len(inner) + 8, version, len(inner)) + inner


def savepoint_of(folder: Path, subtasks: list[tuple[str, list[Split]]], version: int = 0) -> Path:
    """A `_metadata` with the source's state in the ways that Flink stores bytes, between other state."""
    # The enumerator's: where partitions began, in a form of its own.
    metadata = bytes.fromhex("4960672d000000060000000000000003") + text("events-topic") + b"\0\0\0\x1c" + text("a")
    for number, (where, content) in enumerate(subtasks):
        # The operator state's own head has the state's name in it again.
        stored, places = b"\0\0\0\6\0\0\1\0\x11SourceReaderState\0\0\0\1\0\0\0\1" + text("VALUE_SERIALIZER"), []
        for split in content:
            places.append(len(stored))
            stored += element(split, version)
        metadata += b"\4\0\0\0\1" + text("SourceReaderState") + struct.pack(f">Bi{len(places)}q", 0, len(places), *places)
        name = str(UUID(int=number))
        if where == "inline":
            metadata += b"\1" + text(f"file:/gone/{name}") + struct.pack(">i", len(stored)) + stored
        else:
            (folder / name).write_bytes(stored)
            size = struct.pack(">q", len(stored))
            uri = text((folder / name).as_uri().replace("file:///", "file:/"))
            metadata += b"\2" + size + uri if where == "file" else b"\6" + text(name) + size
        metadata += b"\0\0\0\0"
    (folder / "_metadata").write_bytes(metadata)
    return folder
