"""The folder of one streaming job: who works in it, what it belongs to, and where it goes on.

job.json             the runs so far: bundle layout and lineage, store, events; pid of launcher and JVM, or the cluster
lock                 held by the launcher and inherited by its JVM: free means that both are gone
checkpoints/run-N/   Flink's checkpoints and the closing savepoint of run N
condemned.jsonl      checkpoints that nothing may go on from (operators/condemned.py)
rollbacks/           what each rollback did, and the savepoint before it (jobs/rollback/journal.py)
letters.sqlite       dead letters, late events, duplicates
progress.json ...    how far the job is (operators/progress.py)
logs/                Flink's log and what the JVM printed
"""

import fcntl
import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from jobs import checkpoints, flink_metadata
from jobs.blobs import BlobForm
from jobs.flink_metadata import why_incomplete
from jobs.record import FORMAT, ClusterRecord, JobRecord
from operators import condemned
from uic import artefact
from uic.errors import EnvironmentProblem, JobError

__all__ = ["ClusterRecord", "JobFolder", "JobRecord"]

KIND = "streaming-job"
LEAST_FREE_BYTES = 256 << 20
_WORTH_SAYING_BYTES = 100 << 20
_KEPT_RUNS = 3


class JobFolder:
    """A job folder that is known to be ours. With `make` it is made where there is none, and checked to be writable."""

    def __init__(self, path: Path, *, make: bool = True) -> None:
        self.path = path.absolute()
        self.logs = self.path / "logs"
        self.temporary = self.path / "tmp"
        if not make:
            artefact.check_is(path, KIND)
            return
        artefact.check_may_write(self.path, KIND, replace=True)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if artefact.kind_of(self.path) is None:
                artefact.mark(self.path, KIND)
            free = shutil.disk_usage(self.path).free
        except OSError as error:
            raise EnvironmentProblem(f"{self.path}: the job folder cannot be written: {error.strerror}") from error
        if free < LEAST_FREE_BYTES:
            raise EnvironmentProblem(
                f"{self.path}: {free >> 20} MB are free on its disk, a job needs at least {LEAST_FREE_BYTES >> 20} MB"
            )

    @contextmanager
    def locked(self, wait_s: float, say: Callable[[str], None]) -> Iterator[IO[str]]:
        """Be the only job in this folder; waits for a dying predecessor, then raises JobError naming who holds it."""
        with (self.path / "lock").open("a") as file:
            give_up_at = time.monotonic() + wait_s
            has_said = False
            while not _try_lock(file):
                record = self.record()
                holder = "another process" if record is None else f"process {record.launcher_pid} (JVM {record.jvm_pid})"
                if time.monotonic() > give_up_at:
                    raise JobError(
                        f"{self.path}: {holder} has worked in this job folder for the last {wait_s:.0f} s; "
                        "stop it, or use another --job-dir"
                    )
                if not has_said:
                    say(f"waiting up to {wait_s:.0f} s for {holder} to leave {self.path}")
                    has_said = True
                time.sleep(0.1)
            yield file

    def record(self) -> JobRecord | None:
        """What job.json says, None before the first run."""
        path = self.path / "job.json"
        try:
            content = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise JobError(f"{path}: cannot be read: {error}") from error
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        if found != FORMAT:
            raise JobError(f"{path}: this release reads format {FORMAT}, got {found}")
        try:
            return JobRecord.from_json(content)
        except TypeError as error:
            raise JobError(f"{path}: its fields are not those of this release: {error}") from error

    def write(self, record: JobRecord) -> None:
        artefact.write_atomically(self.path / "job.json", record.to_json())

    def checkpoints_of(self, run: int) -> Path:
        return self.path / "checkpoints" / f"run-{run:06d}"

    def newest_checkpoint(self, say: Callable[[str], None]) -> Path | None:
        """The newest complete checkpoint or savepoint; says which ones it passed over, and why."""
        return self._newest(why_incomplete, say)

    def newest_intact_checkpoint(self, say: Callable[[str], None], form: BlobForm | None = None) -> Path | None:
        """The newest one that is complete, not condemned, and in which every memory is as it was written.

        `form` is what the memories should be like (`checkpoints.form_of` a bundle). Says which ones it passed over, and why.
        """

        def why_not(candidate: Path) -> str | None:
            return why_incomplete(candidate) or self.why_condemned(candidate) or _why_damaged(candidate, form, say)

        return self._newest(why_not, say)

    def _newest(self, why_not: Callable[[Path], str | None], say: Callable[[str], None]) -> Path | None:
        for candidate in self._in_this_generation():
            problem = why_not(candidate)
            if problem is None:
                return candidate
            say(f"{candidate}: {problem}; going on from the one before it")
        return None

    def _in_this_generation(self) -> list[Path]:
        """The candidates from the last rollback on, and what it went back to."""
        record = self.record()
        if record is None:
            return self.candidates()
        found = [path for path in self.candidates() if self.run_of(path) >= record.first_run]
        return found if record.begins_with is None else [*found, Path(record.begins_with)]

    def why_condemned(self, checkpoint: Path) -> str | None:
        """Why nothing may go on from this checkpoint, None where nobody has said so."""
        about = [entry.why for entry in condemned.read(self.path) if entry.is_about(checkpoint)]
        return f"the job has condemned it: {about[-1]}" if about else None

    def remove_old_runs(self) -> None:
        """Drop the checkpoints of runs before the last few that have a complete one, and a predecessor's temporary files."""
        complete = {self.run_of(path) for path in self.candidates() if why_incomplete(path) is None}
        oldest_kept = min(sorted(complete)[-_KEPT_RUNS:], default=0)
        for path in (self.path / "checkpoints").glob("run-*"):
            if _number(path.name) < oldest_kept:
                shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir()

    def candidates(self) -> list[Path]:
        """Checkpoints and savepoints, complete or not, newest first: by run, then by the number that Flink gave them."""
        root = self.path / "checkpoints"
        found = [*root.glob("run-*/*/chk-*"), *root.glob("run-*/savepoint-*")]
        return sorted(found, key=lambda path: (self.run_of(path), _order(path)))[::-1]

    def run_of(self, checkpoint: Path) -> int:
        return _number(checkpoint.relative_to(self.path / "checkpoints").parts[0])


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _why_damaged(checkpoint: Path, form: BlobForm | None, say: Callable[[str], None]) -> str | None:
    size = checkpoints.size_of(checkpoint)
    if size >= _WORTH_SAYING_BYTES:
        say(f"{checkpoint}: reading its {size >> 20} MB to see whether every memory is as it was written")
    found = checkpoints.inspect(checkpoint, form)
    return None if found.is_intact else f"this checkpoint is damaged: {found.why()}"


def _order(path: Path) -> tuple[int, bool]:
    """By number; a savepoint whose number cannot be read closes its run."""
    is_savepoint = path.name.startswith("savepoint")
    number = flink_metadata.number(path)
    if number is None:
        number = sys.maxsize if is_savepoint else _number(path.name)
    return number, is_savepoint


def _number(name: str) -> int:
    match = re.search(r"-(\d+)$", name)
    return int(match.group(1)) if match else 0
