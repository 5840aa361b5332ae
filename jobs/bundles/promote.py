"""`uic bundle promote`: a bundle becomes the model of a running job, in all of its subtasks or in none.

First every subtask makes the bundle ready beside the active one, and says whether it may follow. Only when all have said so
does the second message make them swap. So a bundle that one of them refuses is applied by nobody.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.cluster.status import cluster_record
from jobs.folder import JobFolder
from jobs.settings import KafkaSettings, Settings
from operators import bundle_status, control
from operators.bundle_status import BundleStatus
from operators.deployment import CACHE
from uic.bundle import Bundle
from uic.errors import BadInput, BundleError, JobError, UicError
from uic.promotion import Standing, migration_plan, needs_migration, refusals
from uic.registry import Entry, Registry, digest_of

if TYPE_CHECKING:
    from jobs.record import ClusterRecord, JobRecord

POLL_S = 0.1
_ASK_AGAIN_S = 10.0
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Running:
    """A job that heeds control messages: where they are to be addressed, and what its subtasks apply."""

    folder: JobFolder
    record: "JobRecord"
    on: "ClusterRecord"
    address: str
    statuses: dict[int, BundleStatus]

    @property
    def active(self) -> int:
        """The oldest version that any subtask applies: what a successor must be able to follow."""
        return min(status.version for status in self.statuses.values())


def running(job_dir: Path) -> Running:
    """The job of this folder; raises JobError or BadInput where it takes no control messages now."""
    from jobs.cluster.rest import Cluster

    folder = JobFolder(job_dir, make=False)
    record, on = cluster_record(folder)
    if not Cluster(on.url).is_alive(on.job_id):
        raise JobError(
            f"{job_dir}: its job does not run on {on.url}; `uic job resume` starts it, with whichever bundle you name"
        )
    statuses = bundle_status.read_all(job_dir, record.run)
    if sorted(statuses) != list(range(on.parallelism)):
        raise JobError(
            f"{job_dir}: {len(statuses)} of {on.parallelism} subtasks have said which bundle they apply; the job is not open "
            "yet, or was started by a release without control messages. See `uic job status`"
        )
    address = statuses[0].address
    return Running(folder=folder, record=record, on=on, address=address, statuses=statuses)


def promote(settings: Settings, job_dir: Path, version: int, say: Say) -> None:
    """Let all subtasks of the running job swap to this bundle; raises BundleError if it is refused, JobError at a timeout."""
    from jobs import topics

    registry = Registry(settings.registry.url)
    entry = registry.get(version)
    if entry.retired_ms is not None:
        raise BadInput(f"bundle {version}: it was retired; push another one")
    job = running(job_dir)
    topics.check(settings.kafka, [settings.kafka.control])
    check(registry, entry, job)
    deadline_s = settings.registry.promote_timeout_s
    message = {"to": job.address, "version": version, "url": registry.url, "digest": entry.digest}
    say(f"asking {job.on.parallelism} subtasks to make bundle {version} ready beside {job.active}")
    prepare = control.Prepare(**message, issued_ms=_now_ms())  # type: ignore[arg-type]  # by name
    try:
        _ask(settings.kafka, job, prepare, say, deadline_s, again=True)
    except BundleError as error:
        registry.note_refused(version, str(error), _now_ms())
        raise
    swap = control.Promote(**message, issued_ms=_now_ms())  # type: ignore[arg-type]  # by name
    _ask(settings.kafka, job, swap, say, deadline_s, again=False)
    registry.note_promoted(version, _now_ms())
    with job.folder.locked(30, say):
        copy = job.folder.path / CACHE / entry.folder
        job.folder.write(dataclasses.replace(job.record, bundle=str(copy), bundle_version=version))


def check(registry: Registry, entry: Entry, job: Running) -> None:
    """Ask the rules before anybody is asked to load anything; raises BundleError with every reason, and the plan if any.

    Where the active bundle is out of reach from here, the workers decide alone: they have it.
    """
    active = _active(registry, job)
    if active is None:
        return
    before = Standing.of(active)
    new = Standing.of(registry.fetch(entry, job.folder.path / CACHE))
    if reasons := refusals(before, new):
        words = [f"bundle {entry.version} cannot follow {before.version} in the running job:", *reasons]
        if needs_migration(before, new):
            way = f"The way is a second job, which `uic bundle migrate {entry.version} --history HISTORY` makes:"
            words += [way, *migration_plan(before.version, entry.version)]
        registry.note_refused(entry.version, " ".join(reasons), _now_ms())
        raise BundleError("\n".join(words))


def _active(registry: Registry, job: Running) -> Bundle | None:
    path, status = Path(job.record.bundle), min(job.statuses.values(), key=lambda each: each.version)
    try:
        if digest_of(path) == status.digest:
            return Bundle.open(path)
        entry = registry.find(status.version)
        return None if entry is None else registry.fetch(entry, job.folder.path / CACHE)
    except (OSError, UicError):
        return None


def _ask(kafka: KafkaSettings, job: Running, message: control.Message, say: Say, timeout_s: float, *, again: bool) -> None:
    """Send a message and wait until every subtask has done as it says; raises BundleError where one refuses.

    `again`: sent once more from time to time, since a worker that was lost forgets what it made ready.
    """
    word = "promoted" if isinstance(message, control.Promote) else "ready"
    subtasks, give_up_at = job.on.parallelism, time.monotonic() + timeout_s
    done, ask_at = -1, 0.0
    while True:
        if time.monotonic() >= ask_at:
            send(kafka, message)
            ask_at = time.monotonic() + (_ASK_AGAIN_S if again else timeout_s + 1)
        statuses = bundle_status.read_all(job.folder.path, job.record.run)
        for status in statuses.values():
            if status.answer == "refused" and status.answers_ms == message.issued_ms:
                raise BundleError(f"bundle {message.version}: refused by subtask {status.subtask}: {status.why}")
        now_done = sum(_has_done(status, message) for status in statuses.values())
        if now_done != done:
            done = now_done
            say(f"bundle {message.version} is {word} in {done} of {subtasks} subtasks")
        if done >= subtasks:
            return
        if time.monotonic() > give_up_at:
            raise JobError(
                f"bundle {message.version}: {word} in {done} of {subtasks} subtasks after {timeout_s:g} s; "
                + (
                    "the message is in the log, the others will heed it when they come to it: `uic bundle list` shows them"
                    if word == "promoted"
                    else "nothing was swapped; `uic job status` shows how the job is"
                )
            )
        time.sleep(POLL_S)


def _has_done(status: BundleStatus, message: control.Message) -> bool:
    if isinstance(message, control.Promote):
        return status.digest == message.digest
    return status.answer == "ready" and status.answers_ms == message.issued_ms


def send(kafka: KafkaSettings, message: control.Message) -> None:
    """Write a control message; returns when the broker has acknowledged it."""
    from confluent_kafka import KafkaError, Producer

    from jobs.kafka import client_config

    failed: list[str] = []

    def note(error: "KafkaError | None", _: object) -> None:
        if error is not None:
            failed.append(error.str())

    producer = Producer({**client_config(kafka), "acks": "all", "log_level": 0})
    kind = "promote" if isinstance(message, control.Promote) else "prepare"
    producer.produce(
        kafka.control, control.to_json(message), f"{kind} {message.version} {message.to}".encode(), on_delivery=note
    )
    left = producer.flush(30)
    if failed or left:
        raise JobError(
            f"{kafka.bootstrap}: topic {kafka.control} did not take the message: {failed[0] if failed else 'no answer'}"
        )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
