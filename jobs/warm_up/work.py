"""The folder of a warm-up: what it is about, what is done, and so where a killed one goes on.

plan.json              inputs, window, bundle and rules; one that says otherwise is refused
lock-S                 held by whoever does share S here
spill/task-N.spill     pass 1: the events of a task, divided by user into partitions; removed when all is folded
spill/task-N.json      ... that it is whole, where in it each partition lies, and what was left
memories/part-N.memories  pass 2: the memories of a partition's users (uic/warm/packed.py)
memories/part-N.json   ... that it is whole, and what was left
letters.sqlite         events that were not applied, as of a job (uic/letters.py)
report.json            what came of it all

A file is written under another name, flushed and renamed; its JSON comes after it. What has no JSON is not there. Several
machines may work in one folder that they share, each at a share of its own.
"""

import dataclasses
import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from jobs.warm_up.inputs import Input
from uic import artefact
from uic.errors import BadInput, JobError
from uic.letters import Letter

KIND = "warm-up"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that the result depends on. `bundle` is its path, `bundle_digest` that of its manifest."""

    inputs: list[Input]
    from_ms: int
    until_ms: int
    bundle: str
    bundle_digest: str
    idle_after_ms: int | None
    partitions: int
    format: int = FORMAT


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON beside a file that is whole: its bytes, what was counted and left, and (begin, size, CRC-32C) of its regions."""

    bytes: int
    counts: dict[str, int]
    letters: list[Letter]
    seconds: dict[str, float]
    regions: list[tuple[int, int, int]] = []


class WorkFolder:
    """The folder of one warm-up, made if there is none; `share` is what is done here by this process and its workers."""

    def __init__(self, path: Path, share: int = 0) -> None:
        self.path = path.absolute()
        self._share = share
        self.letters = self.path / "letters.sqlite"
        self.report = self.path / "report.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one at this share; raises ForeignDirectory for a folder of something else, JobError where another works.

        What a killed predecessor left half-written is removed.
        """
        artefact.check_may_write(self.path, KIND, replace=True)
        self.path.mkdir(parents=True, exist_ok=True)
        artefact.mark(self.path, KIND)
        for name in ("spill", "memories"):
            (self.path / name).mkdir(exist_ok=True)
        with (self.path / f"lock-{self._share}").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise JobError(
                    f"{self.path}: another warm-up does share {self._share} in this folder; wait for it, or use another --work"
                ) from None
            for path in self.path.glob(f"*/.{self._share}.*"):
                path.unlink()
            yield

    def agree(self, plan: Plan) -> Plan:
        """Write the plan, or check that it is the one that was begun here; the number of partitions is the one begun with."""
        path = self.path / "plan.json"
        if not path.exists():
            # Of several machines that begin at once, one writes it.
            with tempfile.NamedTemporaryFile("w", dir=self.path, prefix=".plan.") as file:
                file.write(json.dumps(dataclasses.asdict(plan), indent=1) + "\n")
                file.flush()
                os.fsync(file.fileno())
                with suppress(FileExistsError):
                    os.link(file.name, path)
        begun = self.plan()
        for name in ("format", "inputs", "from_ms", "until_ms", "bundle_digest", "idle_after_ms"):
            old, new = getattr(begun, name), getattr(plan, name)
            if old != new:
                raise BadInput(
                    f"{self.path}: a warm-up was begun here with {name} {_short(old, new)}, now it is {_short(new, old)}; "
                    "go on with the same, or use another --work"
                )
        return dataclasses.replace(plan, partitions=begun.partitions)

    def plan(self) -> Plan:
        content = json.loads((self.path / "plan.json").read_text())
        return Plan(**{**content, "inputs": [Input(**each) for each in content["inputs"]]})

    def finish(self, path: Path, write: Callable[[BinaryIO], None]) -> int:
        """Write a file so that it is whole or not there; its size. `declare` says so afterwards."""
        partial = path.with_name(f".{self._share}.{path.name}.{os.getpid()}")
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        return path.stat().st_size

    def spill(self, task: int) -> Path:
        return self.path / "spill" / f"task-{task:06d}.spill"

    def memories(self, partition: int) -> Path:
        return self.path / "memories" / f"part-{partition:06d}.memories"


def done(path: Path) -> Done | None:
    """What is said of a file that is whole, None where it is not there yet."""
    try:
        return msgspec.json.decode(path.with_suffix(".json").read_bytes(), type=Done)
    except FileNotFoundError:
        return None


def declare(path: Path, what: Done) -> None:
    """Say that the file is whole."""
    artefact.write_atomically(path.with_suffix(".json"), msgspec.json.encode(what).decode())


def _short(value: Any, other: Any) -> str:  # a field of a plan, of any type
    """A value for people; of two lists, the entries that the other has not."""
    if isinstance(value, list):
        only = [f"{each.path} ({each.size} bytes)" for each in value if each not in other]
        return f"{len(value)} files, among them {', '.join(only[:3]) or 'no other'}"
    return str(value)
