"""One run of `python -m benchmarks.rtp`: how much is measured, what stays the same in all parts, and where results are kept."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import typer

from benchmarks.load import bundle as load_bundle
from benchmarks.rtp import people
from benchmarks.rtp.people import Histories
from uic.bundle import Bundle

SECONDS = {"fig7": 20.0, "length": 90.0, "steady": 600.0, "overload": 30.0, "rolling": 40.0, "soak": 300.0, "feast": 30.0}
WARM_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is run. `users` have histories of each of `lengths`; `many` users have short ones, for what is updated."""

    lengths: tuple[int, ...] = (50, 100, 200, 500, 1000, 5000)
    users: int = 200
    many: int = 10_000
    rate: float = 500.0
    updates: float = 1000.0
    warm_s: float = WARM_S

    @property
    def shortest(self) -> int:
        return min(self.lengths)


QUICK = Sizes(lengths=(5, 20), users=8, many=20, rate=50, updates=100, warm_s=0.2)


@dataclass
class Run:
    """What has been found so far; `seconds`, where given, is the window of every part, `given` the bundle."""

    sizes: Sizes
    work: Path
    out: Path
    seconds: float | None = None
    given: Path | None = None
    found: dict[str, Any] = field(default_factory=dict)  # JSON

    @cached_property
    def bundle(self) -> Bundle:
        return load_bundle(self.work / "bundle") if self.given is None else Bundle.open(self.given)

    @cached_property
    def histories(self) -> Histories:
        return Histories.draw(self.bundle, self.sizes.users, max(self.sizes.lengths))

    @cached_property
    def store(self) -> Path:
        """Memories of every length."""
        path = self.work / "store"
        people.write_memories(path, self.bundle, people.fold(self.bundle, self.histories, self.sizes.lengths))
        return path

    @cached_property
    def updated_store(self) -> Path:
        """Memories of many users with the shortest history, which are updated while they are read."""
        path, length = self.work / "updated", self.sizes.shortest
        histories = Histories.draw(self.bundle, self.sizes.many, length)
        people.write_memories(path, self.bundle, people.fold(self.bundle, histories, (length,)))
        return path

    def many_bodies(self) -> list[bytes]:
        count = min(self.sizes.many, 5000)
        return people.bodies(people.users_of(self.sizes.shortest, self.sizes.many), count)

    def window_s(self, part: str) -> float:
        return SECONDS[part] if self.seconds is None else self.seconds

    @contextmanager
    def updates(self) -> Iterator[dict[str, Any]]:
        """Memories are updated meanwhile; what was done stands in the dictionary at the end."""
        sizes, done = self.sizes, dict[str, Any]()
        arguments = (self.bundle.path, self.updated_store, sizes.many, sizes.shortest, sizes.updates)
        command = [sys.executable, "-m", "benchmarks.rtp.updater", *map(str, arguments)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            try:
                assert process.stdout.readline() == b"ready\n", "the updater has failed; its words stand above"
                yield done
            finally:
                process.terminate()
                said = process.communicate(timeout=60)[0]
            done.update(json.loads(said))

    def note(self, part: str, row: dict[str, Any]) -> None:
        """Keep a result at once: what comes later may fail."""
        self.found.setdefault(part, []).append(row)
        (self.out / "result.json").write_text(json.dumps(self.found, indent=1) + "\n")
        typer.echo(f"{part}: {_shown(row)}")


def _shown(value: Any) -> Any:  # JSON
    if isinstance(value, dict):
        return {key: _shown(each) for key, each in value.items() if key not in ("histogram", "samples")}
    return round(value, 2) if isinstance(value, float) else value
