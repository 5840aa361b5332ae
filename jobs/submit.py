"""`uic job submit` and `uic job resume`: the job on a real cluster, from Kafka to Kafka."""

import dataclasses
import os
import sys
import uuid
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.checkpoints import form_of
from jobs.console import Display
from jobs.folder import JobFolder
from jobs.gateway import start_jvm
from jobs.jars import job_jars
from jobs.java import find_java
from jobs.kafka import java_properties
from jobs.plan import Choice, choose_plan
from jobs.record import ClusterRecord, JobRecord
from jobs.rollback.journal import why_not_to_start
from jobs.run import rules
from jobs.settings import KafkaSettings, Settings
from jobs.warm_up.handover import check_handover
from jobs.wheel import find_wheel
from uic.bundle import Bundle
from uic.clock import in_ms
from uic.errors import BadInput, JobError

if TYPE_CHECKING:
    from jobs.cluster.rest import Cluster
    from jobs.graph import KafkaTopics

START_S = 120
RETAINED = "execution.checkpointing.num-retained"
LEAST_RETAINED = 3
_JOB_ID = "$internal.pipeline.job-id"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What `uic job submit` is told, beside uic.yaml; the last two are a rollback's."""

    bundle: Path
    job_dir: Path
    url: str
    name: str
    plan: str
    parallelism: int
    backend: str
    checkpoint_interval_s: float
    wheel: Path | None = None
    restore: Path | None = None
    accept_late: bool = False
    flink: dict[str, str] = dataclasses.field(default_factory=dict)
    generation: "Generation | None" = None
    job_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What a rollback begins, with the savepoint that its submission restores."""

    number: int
    silent_before_ms: int
    quarantine: str | None


def submit(settings: Settings, submission: Submission, *, resumes: bool) -> JobRecord:
    """Check everything, start the job, wait until it runs. Raises before anything is started where something is wrong.

    `resumes`: go on from the newest intact checkpoint of the job folder; otherwise the folder must hold no state. A new
    generation goes on from the savepoint to restore instead.
    """
    from jobs import topics
    from jobs.cluster.rest import Cluster

    bundle = Bundle.open(submission.bundle)
    if submission.restore is not None:
        check_handover(submission.restore, bundle, settings)
    jars = job_jars(settings.stream.jars)
    choice = choose_plan(submission.plan, settings.stream.jars)
    start = read_start(settings.kafka.start)
    java = find_java(dict(os.environ))
    with Display() as display:
        folder = JobFolder(submission.job_dir)
        with folder.locked(30, display.say) as lock:
            before = folder.record()
            if submission.generation is None and (why := why_not_to_start(folder.path)) is not None:
                raise JobError(why)
            cluster = Cluster(submission.url)
            _check_cluster(cluster, submission, before)
            partitions = topics.check(settings.kafka)[settings.kafka.events].partitions
            restore_from = _restore_from(folder, submission, before, bundle, partitions, display, resumes=resumes)
            wheel = find_wheel(submission.wheel, folder.path / "wheel")
            display.say(f"{choice.name} plan, {wheel.name}, from {restore_from or settings.kafka.start}")
            record = _record(settings, submission, before, bundle, choice, partitions, wheel)
            folder.remove_old_runs()
            # It makes the job graph and ends: what C2 would compile pays off later than that.
            options = f"-XX:TieredStopAtLevel=1 {submission.flink.get('env.java.opts.all', '')}"
            jvm = start_jvm(java.executable, log_dir=folder.logs, options=options, lock=lock, jars=jars)
            try:
                job_id = _start(settings, submission, record, choice, jars, wheel, restore_from, start)
            finally:
                jvm.stop()
            assert record.cluster is not None
            record = dataclasses.replace(record, cluster=dataclasses.replace(record.cluster, job_id=job_id))
            folder.write(record)
            display.say(f"job {job_id} is submitted; waiting until it runs")
            cluster.wait_until_running(job_id, START_S)
            return record


def read_start(text: str) -> str | int:
    """Where a fresh job starts: earliest, latest, committed, or epoch milliseconds from a time with its zone; raises BadInput.

    >>> read_start("1970-01-01T08:00:01+08:00")
    1000
    """
    if text in ("earliest", "latest", "committed"):
        return text
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        raise BadInput(
            "kafka.start: expected earliest, latest, committed or a time with its zone (2017-11-26T00:00:00+08:00), "
            f"got {text!r}"
        )
    return in_ms(when)


def kafka_topics(kafka: KafkaSettings, start: str | int) -> "KafkaTopics":
    """What the graph needs to know of Kafka."""
    from jobs.graph import KafkaTopics

    return KafkaTopics(
        properties=java_properties(kafka),
        group=kafka.group,
        start=start,
        events=kafka.events,
        snapshots=kafka.snapshots,
        late=kafka.late,
        dead=kafka.dead,
        partitions=kafka.partitions,
        control=kafka.control,
    )


def _check_cluster(cluster: "Cluster", submission: Submission, before: JobRecord | None) -> None:
    if before is not None and before.cluster is not None and cluster.is_alive(before.cluster.job_id):
        raise JobError(
            f"{submission.job_dir}: its job {before.cluster.job_id} is still on {submission.url}; `uic job stop` ends it first"
        )
    kept = int(cluster.configuration().get(RETAINED, "1"))
    if kept < LEAST_RETAINED:
        raise JobError(
            f"{submission.url}: the cluster retains {kept} checkpoints, at least {LEAST_RETAINED} are needed to go back behind "
            f"a damaged one. Set {RETAINED}: {LEAST_RETAINED} in the JobManager's config.yaml; a job's own has no effect"
        )
    free = cluster.overview().slots_available
    if free < submission.parallelism:
        raise JobError(
            f"{submission.url}: {free} slots are free, the job wants {submission.parallelism}. "
            "Start more TaskManagers, stop another job, or use a smaller --parallelism"
        )


def _restore_from(
    folder: JobFolder,
    submission: Submission,
    before: JobRecord | None,
    bundle: Bundle,
    partitions: int,
    display: Display,
    *,
    resumes: bool,
) -> Path | None:
    if before is None:
        if resumes:
            raise BadInput(f"{folder.path}: no job was ever started in this folder; `uic job submit` starts one")
        return None if submission.restore is None else submission.restore.absolute()
    if not resumes:
        if folder.candidates():
            raise JobError(
                f"{folder.path}: it holds the state of an earlier run. `uic job resume` goes on from it; "
                "to read the log from its beginning, use another --job-dir"
            )
        return None if submission.restore is None else submission.restore.absolute()
    for name, new in bundle.identity._asdict().items():
        if (old := getattr(before, name)) != new:
            raise JobError(
                f"{folder.path}: its state was made by a bundle of {name} {old} ({before.bundle}), {submission.bundle} is of "
                f"{name} {new}. Resume with a bundle of that {name}, or use another --job-dir and replay the log into it"
            )
    if bundle.manifest.version < before.bundle_version:
        display.say(f"bundle {bundle.manifest.version} is older than {before.bundle_version}, which the job applied last")
    if before.cluster is not None and before.cluster.partitions != partitions:
        raise JobError(
            f"topic {before.cluster.topic}: it had {before.cluster.partitions} partitions when the job was started, now it has "
            f"{partitions}: users have changed their partition, and their events would be applied out of order. "
            "Make a new topic with the count you want, copy the events into it, and start a job with another --job-dir"
        )
    if submission.generation is not None:
        assert submission.restore is not None
        return submission.restore.absolute()
    found = folder.newest_intact_checkpoint(display.say, form_of(submission.bundle))
    if found is None:
        raise JobError(
            f"{folder.path}: none of its checkpoints can be used. To read the log from its beginning, use another --job-dir"
        )
    if before.backend != submission.backend and not found.name.startswith("savepoint"):
        raise JobError(
            f"{found}: a checkpoint of backend {before.backend}, which {submission.backend} cannot read. "
            f"Resume with --backend {before.backend}, then `uic job stop` leaves a savepoint for either"
        )
    return found


def _record(
    settings: Settings,
    submission: Submission,
    before: JobRecord | None,
    bundle: Bundle,
    choice: Choice,
    partitions: int,
    wheel: Path,
) -> JobRecord:
    run = 1 if before is None else before.run + 1
    return JobRecord(
        run=run,
        layout=bundle.identity.layout,
        lineage=bundle.identity.lineage,
        bundle_version=bundle.manifest.version,
        bundle=str(submission.bundle.absolute()),
        events=settings.kafka.events,
        store=settings.kafka.snapshots,
        backend=submission.backend,
        launcher_pid=os.getpid(),
        cluster=ClusterRecord(
            url=submission.url,
            job_id="",
            name=submission.name,
            plan=choice.name,
            parallelism=submission.parallelism,
            bootstrap=settings.kafka.bootstrap,
            topic=settings.kafka.events,
            partitions=partitions,
            wheel=str(wheel),
            checkpoint_interval_s=submission.checkpoint_interval_s,
            accept_late=submission.accept_late,
            flink=submission.flink,
        ),
        **_generation(submission, before, run),
    )


def _generation(submission: Submission, before: JobRecord | None, run: int) -> dict[str, Any]:  # fields of JobRecord
    """What a rollback changes in the record, and every later run keeps."""
    new = submission.generation
    if new is None:
        kept = ("generation", "silent_before_ms", "quarantine", "first_run", "begins_with")
        return {} if before is None else {name: getattr(before, name) for name in kept}
    assert submission.restore is not None
    return {
        "generation": new.number,
        "silent_before_ms": new.silent_before_ms,
        "quarantine": new.quarantine,
        "first_run": run,
        "begins_with": str(submission.restore.absolute()),
    }


def _start(
    settings: Settings,
    submission: Submission,
    record: JobRecord,
    choice: Choice,
    jars: list[Path],
    wheel: Path,
    restore_from: Path | None,
    start: str | int,
) -> str:
    from jobs import environment
    from jobs.graph import Plan, add_wheel, kafka_graph
    from operators.settings import UpdateSettings

    stream = settings.stream
    job_dir = submission.job_dir.absolute()
    checkpoints = JobFolder(job_dir).checkpoints_of(record.run)
    flink = environment.cluster_configuration(
        url=submission.url,
        jars=jars,
        checkpoints=checkpoints,
        backend=submission.backend,
        interval_s=submission.checkpoint_interval_s,
        parallelism=submission.parallelism,
        restore_from=restore_from,
        # An id that was noted before tells a job that was started from one that was not.
        extra={**submission.flink, **({} if submission.job_id is None else {_JOB_ID: submission.job_id})},
    )
    update = UpdateSettings(
        bundle=record.bundle,
        job_dir=str(job_dir),
        run=record.run,
        rules=dataclasses.replace(
            rules(stream.lateness_s, stream.idle_after_s, accept_late=submission.accept_late),
            not_before_ms=None if stream.not_before is None else in_ms(stream.not_before),
        ),
        max_ahead_ms=1000 * stream.max_ahead_s,
        store=None,
        direct=None if stream.direct is None else str(stream.direct),
        metrics_port=stream.metrics_port,
        metrics_host=stream.metrics_host,
        checkpoints=str(checkpoints),
        restored_from=None if restore_from is None else str(restore_from),
        generation=record.generation,
        zone=settings.days.zone,
        numbers=settings.store.numbers,
        address=uuid.uuid4().hex,
        silent_before_ms=record.silent_before_ms,
        quarantine=record.quarantine,
    )
    plan = Plan(
        is_batched=choice.is_batched,
        python=sys.executable,
        batch=stream.batch,
        wait_ms=stream.batch_wait_ms,
        ships_wheel=True,
    )
    topics = kafka_topics(settings.kafka, start)

    def build(flow: Any) -> None:  # a PyFlink environment
        add_wheel(flow, wheel, plan)
        kafka_graph(flow, topics, update, plan)

    try:
        return environment.start(flink, build, submission.name).job_id
    except Exception as error:
        raise JobError(f"{submission.url}: the job was not accepted: {environment.innermost(str(error))}") from error
