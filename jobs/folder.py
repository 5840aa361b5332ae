"""The folder of one streaming job: who works in it, what it belongs to, and where it goes on.

job.json             the runs so far: bundle layout and lineage, store, events; pid of launcher and JVM, or the cluster
lock                 held by the launcher and inherited by its JVM: free means that both are gone
checkpoints/run-N/   Flink's checkpoints and the closing savepoint of run N
letters.sqlite       dead letters, late events, duplicates
progress.json ...    how far the job is (operators/progress.py)
logs/                Flink's log and what the JVM printed
"""

import dataclasses
import fcntl
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from uic import artefact
from uic.errors import EnvironmentProblem, JobError

KIND = "streaming-job"
LEAST_FREE_BYTES = 256 << 20
_METADATA = "_metadata"
_METADATA_MAGIC = bytes.fromhex("4960672d")
_KEPT_RUNS = 3
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ClusterRecord:
    """Where a submitted job runs and what it reads. `plan`: batched or per-event. `wheel`: our code on the workers.

    `partitions` is the topic's count at the first submit: with another one, users would change their partition.
    """

    url: str
    job_id: str
    name: str
    plan: str
    parallelism: int
    bootstrap: str
    topic: str
    partitions: int
    wheel: str


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """What job.json says. The state in the checkpoints fits this layout and lineage, and was published to this store.

    `cluster` is None where the job runs in this machine's embedded Flink.
    """

    run: int
    layout: str
    lineage: str
    bundle_version: int
    bundle: str
    events: str
    store: str
    backend: str
    launcher_pid: int = 0
    jvm_pid: int = 0
    cluster: ClusterRecord | None = None
    format: int = _FORMAT

    def to_json(self) -> str:
        content = dataclasses.asdict(self)
        if self.cluster is None:
            del content["cluster"]  # so that a release without clusters still reads it
        return json.dumps(content, indent=2) + "\n"

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "JobRecord":
        """The record in `content`; raises TypeError for fields missing or unknown."""
        cluster = content.get("cluster")
        return cls(**{**content, "cluster": None if cluster is None else ClusterRecord(**cluster)})


class JobFolder:
    """A job folder that is known to be ours."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.logs = self.path / "logs"
        self.temporary = self.path / "tmp"
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
        if found != _FORMAT:
            raise JobError(f"{path}: this release reads format {_FORMAT}, got {found}")
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
        for candidate in self._candidates():
            problem = _why_incomplete(candidate)
            if problem is None:
                return candidate
            say(f"{candidate}: {problem}; going on from the one before it")
        return None

    def remove_old_runs(self) -> None:
        """Drop the checkpoints of runs before the last few that have a complete one, and a predecessor's temporary files."""
        complete = {self._run_of(path) for path in self._candidates() if _why_incomplete(path) is None}
        oldest_kept = min(sorted(complete)[-_KEPT_RUNS:], default=0)
        for path in (self.path / "checkpoints").glob("run-*"):
            if _number(path.name) < oldest_kept:
                shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir()

    def _candidates(self) -> list[Path]:
        """Checkpoints and savepoints, newest first: by run, then by checkpoint; a savepoint closes its run."""
        root = self.path / "checkpoints"
        found = [*root.glob("run-*/*/chk-*"), *root.glob("run-*/savepoint-*")]
        return sorted(found, key=lambda path: (self._run_of(path), path.name.startswith("savepoint"), _number(path.name)))[::-1]

    def _run_of(self, path: Path) -> int:
        return _number(path.relative_to(self.path / "checkpoints").parts[0])


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _why_incomplete(checkpoint: Path) -> str | None:
    try:
        with (checkpoint / _METADATA).open("rb") as file:
            head = file.read(len(_METADATA_MAGIC))
    except OSError:
        return "this checkpoint was not completed (no _metadata)"
    return None if head == _METADATA_MAGIC else f"this checkpoint is damaged (_metadata begins with {head.hex() or 'nothing'})"


def _number(name: str) -> int:
    match = re.search(r"-(\d+)$", name)
    return int(match.group(1)) if match else 0
