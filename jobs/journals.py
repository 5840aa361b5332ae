"""Long work on a job in steps that are each noted when they are done: killed at any moment, the same command goes on.

    JOB_DIR/<kind>/lock                  held by the one that is at work
    JOB_DIR/<kind>/<name>/journal.json   what was asked, and which steps are done; replaced as a whole after each

A rollback (jobs/rollback) and a migration (jobs/bundles) are such work; what their journals say is their own.
"""

import fcntl
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from uic import artefact
from uic.errors import JobError

FILE = "journal.json"


class Journalled(Protocol):
    """What every journal can say."""

    @property
    def key(self) -> int:
        """Which work of its kind it is."""

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to do."""

    def to_json(self) -> str:
        """The text of its file."""


_J = TypeVar("_J", bound=Journalled)


class Journals(ABC, Generic[_J]):
    """All work of one kind on one job. `command` is what a person calls it by."""

    def __init__(self, path: Path, command: str) -> None:
        self.path = path.absolute()
        self._command = command

    @abstractmethod
    def of(self, key: int) -> Path:
        """The folder of one."""

    @abstractmethod
    def read(self, text: str, place: Path) -> _J:
        """What `to_json` wrote; raises JobError, naming the place, for anything else."""

    def journals(self) -> list[_J]:
        """All that were begun, the oldest first."""
        return [self.read(path.read_text(encoding="utf-8"), path) for path in sorted(self.path.glob(f"*/{FILE}"))]

    def unfinished(self) -> _J | None:
        """The one that has to be gone on with before there can be another."""
        return next((journal for journal in self.journals() if not journal.is_over), None)

    def write(self, journal: _J) -> None:
        self.put(journal.key, FILE, journal.to_json())

    def put(self, key: int, name: str, text: str) -> None:
        """A file beside the journal."""
        self.of(key).mkdir(parents=True, exist_ok=True)
        artefact.write_atomically(self.of(key) / name, text)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one at work; raises JobError at once where another is."""
        self.path.mkdir(exist_ok=True)
        with (self.path / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise JobError(
                    f"{self.path}: another `{self._command}` is at work on this job; wait for it, or stop it"
                ) from None
            yield


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """How a step waits. `patience_s`: for how long nothing may move; `show` is told how much is to go, `say` what is done."""

    patience_s: float = 600.0
    poll_s: float = 0.2
    say: Callable[[str], None] = lambda _: None
    show: Callable[[str], None] = lambda _: None

    def until_none(self, left: Callable[[], int], what: str, way_out: str) -> None:
        """Wait until nothing is left; raises JobError where for `patience_s` it does not become less."""
        least, moved = None, time.monotonic()
        while (now := left()) > 0:
            if least is None or now < least:
                least, moved = now, time.monotonic()
            elif time.monotonic() - moved > self.patience_s:
                raise JobError(
                    f"for {self.patience_s:.0f} s nothing has moved: {now:,} {what}. {way_out}; then run the command again, it "
                    "goes on here"
                )
            self.show(f"{now:,} {what}")
            time.sleep(self.poll_s)


def take_steps(
    steps: Mapping[str, Callable[[], str]], done: Collection[str], note: Callable[[str], None], waiting: Waiting
) -> None:
    """Take in their order the steps that are not done yet, each noted by name as soon as it is; each says what it did."""
    for number, (name, take) in enumerate(steps.items(), 1):
        if name in done:
            continue
        waiting.show(f"{number} of {len(steps)}: {name}")
        said = take()
        note(name)
        waiting.say(f"{number:2} of {len(steps)}  {said}")
