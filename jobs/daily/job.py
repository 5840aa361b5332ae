"""The job whose daily checkpoints are taken, as far as the catalogue needs it."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from jobs.folder import JobFolder
from jobs.record import ClusterRecord, JobRecord
from jobs.settings import KafkaSettings
from uic.errors import BadInput


class Job(Protocol):
    """Something that savepoints can be taken of."""

    def record(self) -> tuple[JobRecord, ClusterRecord]:
        """What it is now, and where it runs; raises BadInput where it was never submitted."""
        ...

    def savepoint(self, target: Path) -> Path:
        """Take one below `target`, canonical, and return where it is; raises UicError where none was made."""
        ...


class ClusterJob:
    """The job of a job folder, on its cluster (`url`: on another address than the one it was submitted to)."""

    def __init__(
        self,
        folder: JobFolder,
        kafka: KafkaSettings,
        *,
        url: str | None = None,
        timeout_s: float = 3600.0,
        progress: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._folder = folder
        self._kafka = kafka
        self._url = url
        self._timeout_s = timeout_s
        self._progress = progress

    def record(self) -> tuple[JobRecord, ClusterRecord]:
        from jobs.cluster.status import cluster_record

        record, on = cluster_record(self._folder)
        if on.topic != self._kafka.events:
            raise BadInput(
                f"kafka.events: {self._kafka.events}, but the job of {self._folder.path} reads {on.topic}; use the settings "
                "it was submitted with"
            )
        return record, on

    def savepoint(self, target: Path) -> Path:
        from jobs.cluster.rest import Cluster

        _, on = self.record()
        # Canonical: either backend can go on from it, and every memory in it can be seen.
        return Cluster(self._url or on.url).savepoint(
            on.job_id, target, format_type="CANONICAL", timeout_s=self._timeout_s, progress=self._progress
        )
