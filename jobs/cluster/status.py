"""How a submitted job is: gathered from its folder, its cluster and its topic, each of which may be out of reach."""

import dataclasses
import time
from dataclasses import dataclass, field
from typing import Any

from jobs.cluster import lag
from jobs.cluster.facts import ENDED, Checkpoint, Failure, JobDetails
from jobs.cluster.rest import Cluster, UnknownJob
from jobs.folder import JobFolder
from jobs.record import ClusterRecord, JobRecord
from jobs.settings import KafkaSettings
from uic.errors import BadInput, EnvironmentProblem, UicError

_UPDATE = "update memory"
_SOURCE = "read events"
_RATE = "numRecordsInPerSecond"


@dataclass(frozen=True, kw_only=True)
class Status:
    """What is known of a job; None is what nobody could say.

    `events_per_s` is Flink's mean over the last minute. `problems` are for a person to mend, each with its way out.
    """

    record: ClusterRecord
    run: int
    url: str
    state: str | None = None
    since_ms: int | None = None
    restarts: int | None = None
    checkpoint: Checkpoint | None = None
    failed_checkpoints: int | None = None
    restored_from: str | None = None
    events_per_s: float | None = None
    unread: int | None = None
    uncovered: int | None = None
    partitions: int | None = None
    failure: Failure | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def is_well(self) -> bool:
        return self.state == "RUNNING" and not self.problems

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "is_well": self.is_well}


def cluster_record(folder: JobFolder) -> tuple[JobRecord, ClusterRecord]:
    """The folder's record and its cluster's part; raises BadInput where no job was ever submitted from it."""
    record = folder.record()
    if record is None:
        raise BadInput(f"{folder.path}: no job was started in this folder yet; `uic job submit` starts one")
    if record.cluster is None:
        raise BadInput(
            f"{folder.path}: its job runs in this machine's embedded Flink (`uic job run`), not on a cluster; "
            "stop it with Ctrl-C or SIGTERM"
        )
    return record, record.cluster


def status(folder: JobFolder, kafka: KafkaSettings, url: str | None = None) -> Status:
    """Ask everybody; who does not answer becomes a problem, what the others say is still told."""
    record, on = cluster_record(folder)
    known: dict[str, Any] = {"record": on, "run": record.run, "url": url or on.url}
    problems: list[str] = []
    read: dict[int, int] = {}
    try:
        read = _ask_cluster(Cluster(url or on.url), on, known, problems)
    except UnknownJob:
        problems.append(
            f"{url or on.url} does not know the job: it has ended, or the JobManager was started anew. {_way_on(folder)}"
        )
    except EnvironmentProblem as error:
        problems.append(f"{error}. {_way_on(folder)}")
    except UicError as error:
        problems.append(str(error))
    try:
        _ask_kafka(kafka.model_copy(update={"bootstrap": on.bootstrap, "events": on.topic}), on, read, known, problems)
    except UicError as error:
        problems.append(f"lag is not known: {error}")
    state = known.get("state")
    if state in ENDED:
        problems.append(f"the job has ended: it is {state}. {_way_on(folder)}")
    return Status(**known, problems=problems)


def _ask_cluster(cluster: Cluster, on: ClusterRecord, known: dict[str, Any], problems: list[str]) -> dict[int, int]:
    """Fill in what the cluster says; returns what the source has read, by partition."""
    job = cluster.job(on.job_id)
    known |= {"state": job.state, "since_ms": job.since_ms, "failure": cluster.last_failure(on.job_id)}
    checkpoints = cluster.checkpoints(on.job_id)
    known |= {
        "checkpoint": checkpoints.last,
        "failed_checkpoints": checkpoints.failed,
        "restored_from": checkpoints.restored_from,
    }
    if checkpoints.last_failure is not None and checkpoints.last is None:
        problems.append(f"no checkpoint was completed: {checkpoints.last_failure}")
    if job.is_over:
        return {}
    if waiting := [f"{vertex.name} {vertex.state}" for vertex in job.vertices if vertex.state != "RUNNING"]:
        slots = cluster.overview()
        problems.append(
            f"{len(waiting)} of {len(job.vertices)} steps do not run: {', '.join(waiting)}; {slots.slots_available} of "
            f"{slots.slots_total} slots are free, the job needs {on.parallelism}"
        )
    known["restarts"] = cluster.restarts(on.job_id)
    known["events_per_s"] = _rate(cluster, job)
    source = job.vertex(_SOURCE)
    return {} if source is None else lag.read_offsets(cluster.subtask_metrics(job.id, source.id, lag.CURRENT), on.topic)


def _rate(cluster: Cluster, job: JobDetails) -> float | None:
    update = job.vertex(_UPDATE)
    return None if update is None else cluster.vertex_sum(job.id, update.id, _RATE)


def _ask_kafka(
    kafka: KafkaSettings, on: ClusterRecord, read: dict[int, int], known: dict[str, Any], problems: list[str]
) -> None:
    log = lag.partitions(kafka)
    known["partitions"] = len(log)
    known["unread"], known["uncovered"] = lag.lag(log, read)
    if len(log) != on.partitions:
        problems.append(
            f"topic {on.topic} had {on.partitions} partitions when the job was submitted, now it has {len(log)}: users have "
            "changed their partition, the job does not read the new ones. Send no more events; let the job read what is there, "
            "`uic job stop`, then start a job with another --job-dir on a new topic into which all events are copied"
        )


def _way_on(folder: JobFolder) -> str:
    newest = folder.newest_checkpoint(lambda _: None)
    shown = newest and (newest.relative_to(folder.path) if newest.is_relative_to(folder.path) else newest)
    return (
        "There is no checkpoint to go on from; `uic job submit` with another --job-dir reads the log from its beginning"
        if newest is None
        else f"`uic job resume` goes on from {shown}"
    )


def age_s(ms: int) -> float:
    """How long ago a time of the epoch was."""
    return max(0.0, time.time() - ms / 1000)
