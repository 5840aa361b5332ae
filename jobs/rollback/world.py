"""What a rollback acts on: a job, its topics and the online stores that follow it. Protocols, and the real ones."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from jobs.daily.cut import EventLog
from jobs.folder import JobFolder
from jobs.record import ClusterRecord, JobRecord
from jobs.rollback.journal import Offsets, Plan
from jobs.settings import Settings
from uic.errors import JobError, UicError
from uic.memory import Numbers
from uic.store.contract import Source, StoreIdentity
from uic.store.lineage import Lineage

if TYPE_CHECKING:
    from jobs.cluster.rest import Cluster
    from jobs.letter_topics import Kind, TopicLetter

KINDS: tuple["Kind", ...] = ("dead", "late")
_SLOTS_S = 60.0
_UPDATE = "update memory"
# Of what comes out: timers have fired by then. Of what comes in, Flink tells that of the control stream too, which has none.
_WATERMARK = ".update_memory.currentOutputWatermark"


class Job(Protocol):
    """The job that is rolled back."""

    def record(self) -> tuple[JobRecord, ClusterRecord]: ...

    def is_alive(self) -> bool:
        """Whether the job of the record is on its cluster and has not ended."""
        ...

    def stop(self, evidence: Path) -> str | None:
        """End it, all of its state in a savepoint below `evidence`; None where it could make none and was ended without."""
        ...

    def start(self, plan: Plan, quarantine: str | None, job_id: str) -> None:
        """Start it under this id from the plan's savepoint, in the plan's generation; returns when it runs."""
        ...

    def cancel(self, job_id: str) -> None:
        """End a job that was started under this id, if there is one."""
        ...

    def covered(self) -> Offsets | None:
        """Up to which offset the newest completed checkpoint of this run has read each partition; None before the first.

        Negative where it has read nothing yet.
        """
        ...

    def watermark_ms(self) -> int | None:
        """How far the log has come at all update operators; None where nobody says. May be some seconds old."""
        ...

    def settled(self) -> None:
        """From now on there is nothing to be silent about: later runs need not know."""
        ...


class Topics(Protocol):
    """The topics that the job writes."""

    def published(self) -> Offsets:
        """The end of each partition of the snapshots."""
        ...

    def letters_end(self) -> Mapping[str, Offsets]:
        """The same of dead letters and late events, by kind."""
        ...

    def letters(self, since: Mapping[str, Offsets]) -> Iterable["TopicLetter"]: ...


class FollowedStore(Protocol):
    """An online store that follows the snapshots topic, as this process can see it."""

    @property
    def identity(self) -> StoreIdentity: ...

    @property
    def lineage(self) -> Lineage: ...

    @property
    def source(self) -> Source | None: ...

    @property
    def zone(self) -> str: ...

    def read(self, user_id: str, as_of: date | None = None) -> bytes | None: ...

    def begin_generation(self, generation: int, cut_ms: int) -> None: ...

    def applied(self) -> Offsets:
        """Up to which offset it has applied each partition."""
        ...

    def close(self) -> None: ...


def covered(job: Job, log: EventLog) -> Offsets | None:
    """The same as the job says, with the first offset there is where it has read nothing."""
    offsets = job.covered()
    if offsets is None or all(offset >= 0 for offset in offsets.values()):
        return offsets
    reach = log.reach()
    return {partition: reach[partition].first if offset < 0 else offset for partition, offset in offsets.items()}


class ClusterJob:
    """A submitted job, in its folder and on its cluster. `wheel`: this project's code, for the start."""

    def __init__(
        self,
        settings: Settings,
        folder: JobFolder,
        *,
        url: str | None = None,
        wheel: Path | None = None,
        timeout_s: float = 3600.0,
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._url = url
        self._wheel = wheel
        self._timeout_s = timeout_s

    def record(self) -> tuple[JobRecord, ClusterRecord]:
        from jobs.daily.job import ClusterJob as DailyJob

        return DailyJob(self._folder, self._settings.kafka).record()

    def is_alive(self) -> bool:
        return self._cluster().is_alive(self.record()[1].job_id)

    def stop(self, evidence: Path) -> str | None:
        cluster, (_, on) = self._cluster(), self.record()
        with self._folder.locked(30, lambda _: None):
            try:
                return str(cluster.stop(on.job_id, evidence, format_type="CANONICAL", timeout_s=self._timeout_s))
            except JobError:
                # One that fails over and over makes no savepoint. Its memories are to go; it must not go on.
                if cluster.is_alive(on.job_id):
                    cluster.cancel(on.job_id)
                return None

    def start(self, plan: Plan, quarantine: str | None, job_id: str) -> None:
        from jobs.submit import Generation, Submission, submit

        record, on = self.record()
        self._await_slots(on.parallelism)
        interval_s = on.checkpoint_interval_s
        submission = Submission(
            bundle=Path(plan.bundle),
            job_dir=self._folder.path,
            url=self._url or on.url,
            name=on.name,
            plan=on.plan,
            parallelism=on.parallelism,
            backend=record.backend,
            checkpoint_interval_s=self._settings.stream.checkpoint_interval_s if interval_s is None else interval_s,
            wheel=self._wheel,
            restore=Path(plan.savepoint),
            accept_late=on.accept_late,
            flink=on.flink,
            generation=Generation(number=plan.generation, silent_before_ms=plan.cut_ms, quarantine=quarantine),
            job_id=job_id,
        )
        submit(self._settings, submission, resumes=True)

    def cancel(self, job_id: str) -> None:
        if self._cluster().is_alive(job_id):
            self._cluster().cancel(job_id)

    def covered(self) -> Offsets | None:
        from jobs.daily.offsets import splits

        _, on = self.record()
        last = self._cluster().checkpoints(on.job_id).last
        if last is None:
            return None
        try:
            return {each.partition: each.offset for each in splits(Path(last.path)) if each.topic == on.topic}
        except OSError:  # a newer one has taken its place meanwhile
            return None

    def watermark_ms(self) -> int | None:
        cluster, (_, on) = self._cluster(), self.record()
        vertex = cluster.job(on.job_id).vertex(_UPDATE)
        if vertex is None:
            return None
        found = [int(value) for value in cluster.subtask_metrics(on.job_id, vertex.id, _WATERMARK).values()]
        return min(found) if len(found) == vertex.parallelism else None

    def settled(self) -> None:
        with self._folder.locked(30, lambda _: None):
            record = self._folder.record()
            assert record is not None
            self._folder.write(replace(record, silent_before_ms=0))

    def _await_slots(self, wanted: int) -> None:
        # A job that has ended gives its slots back a moment later. If it does not, submitting says what to do.
        give_up_at = time.monotonic() + _SLOTS_S
        while self._cluster().overview().slots_available < wanted and time.monotonic() < give_up_at:
            time.sleep(0.2)

    def _cluster(self) -> "Cluster":
        from jobs.cluster.rest import Cluster

        return Cluster(self._url or self.record()[1].url)


class KafkaTopics:
    """The topics of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._kafka = settings.kafka

    def published(self) -> Offsets:
        return self._ends(self._kafka.snapshots)

    def letters_end(self) -> Mapping[str, Offsets]:
        return {"dead": self._ends(self._kafka.dead), "late": self._ends(self._kafka.late)}

    def letters(self, since: Mapping[str, Offsets]) -> Iterable["TopicLetter"]:
        from jobs.letter_topics import LetterTopics

        with LetterTopics(self._kafka) as topics:
            for kind in KINDS:
                for partition, begin in since[kind].items():
                    yield from topics.letters(kind, partition, begin)

    def _ends(self, topic: str) -> Offsets:
        from jobs.cluster.lag import partitions

        return {each: found.end for each, found in partitions(self._kafka.model_copy(update={"events": topic})).items()}


class StoreOnDisk:
    """A store, in one part or several or in Redis, opened for reading beside its follower."""

    def __init__(self, path: Path) -> None:
        from uic.store.sharded import open_to_read, parts_of

        self._store = open_to_read(path)
        self._parts = parts_of(self._store)

    @property
    def identity(self) -> StoreIdentity:
        return self._store.identity

    @property
    def lineage(self) -> Lineage:
        return self._store.lineage

    @property
    def source(self) -> Source | None:
        return self._parts[0].source

    @property
    def zone(self) -> str:
        return self._store.zone

    @property
    def numbers(self) -> Numbers:
        return self._store.numbers

    def read(self, user_id: str, as_of: date | None = None) -> bytes | None:
        self._store.refresh()
        return self._store.read(user_id, as_of)

    def begin_generation(self, generation: int, cut_ms: int) -> None:
        self._store.begin_generation(generation, cut_ms)

    def applied(self) -> Offsets:
        self._store.refresh()
        return {partition: at.offset for part in self._parts for partition, at in part.positions().items()}

    def close(self) -> None:
        self._store.close()


def open_stores(paths: Iterable[Path]) -> list[FollowedStore]:
    """All of them, or none and the error."""
    opened: list[FollowedStore] = []
    try:
        for path in paths:
            opened.append(StoreOnDisk(path))
    except UicError:
        for store in opened:
            store.close()
        raise
    return opened
