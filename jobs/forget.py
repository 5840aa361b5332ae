"""`uic user forget`: nothing stays of a user, and no rollback, replay or restart brings them back.

In this order, each step safe to be killed in and to be done again:

1. The job folder's file says that nothing of the user counts (uic/forgetting.py): every start from now on heeds that.
2. A deletion in the snapshots topic, or in a store that nobody else writes, makes the user unreadable.
3. The running job is asked to drop the memory in keyed state. Its answer is a deletion of its own, after all it had published;
   it says how far the old life reached, and that is noted in the file: what the log takes in later begins anew.
4. The store is waited for until it has come past that deletion.

Where a second job runs beside this one to take its place (`uic bundle migrate`), the same is done there.
"""

import json
import time
import uuid
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from uic.codec import NO_TIME, read_header
from uic.errors import BadInput, JobError, UicError
from uic.forgetting import FILE, Entry, Forgotten, Later

if TYPE_CHECKING:
    from jobs.folder import JobFolder
    from jobs.forget_topics import Place
    from jobs.record import JobRecord
    from jobs.settings import Settings

_MOST_NAMED = 5


@dataclass
class Report:
    """What was done: `erased` from where; `still` where there is something of the user and until when; `to_do` by a person."""

    erased: list[str] = field(default_factory=list)
    still: list[str] = field(default_factory=list)
    to_do: list[str] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        return not self.to_do


def forget_command(
    ctx: typer.Context,
    user: Annotated[str, typer.Argument(help="The user.")],
    later_events: Annotated[
        Literal["start-anew", "drop"], typer.Option(help="What becomes of events that come later: a new user's, or dropped.")
    ] = "start-anew",
    job_dir: Annotated[Path | None, typer.Option(help="The job's folder; default: stream.job_dir of uic.yaml.")] = None,
    store: Annotated[Path | None, typer.Option(help="The online store; default: store.path of uic.yaml.")] = None,
    wait_s: Annotated[float, typer.Option(help="How long job and store may take.")] = 60.0,
    output: Annotated[Literal["text", "json"], typer.Option(help="For people or for programs.")] = "text",
) -> None:
    """Forget a user: unreadable in the store, gone from the running job, not brought back by any rollback or replay.

    Says which savepoints and topics still hold something of them, and until when. Exit code 1 where something is left to do;
    the command can be run again at any time. Example: uic user forget 196 --later-events drop
    """
    from jobs.score import check_user

    check_user(user)
    settings: Settings = ctx.obj
    later: Later = "drop" if later_events == "drop" else "anew"
    report = forget(settings, user, later, job_dir=job_dir, store=store, wait_s=wait_s)
    if output == "json":
        said = {"user": user, "is_done": report.is_done, "erased": report.erased, "still": report.still, "to_do": report.to_do}
        typer.echo(json.dumps(said, indent=2))
    else:
        for title, lines in (("forgotten", report.erased), ("still there", report.still), ("left to do", report.to_do)):
            for line in lines:
                typer.echo(f"{title + ':':<13} {line}")
    if not report.is_done:
        raise typer.Exit(1)


def forget(
    settings: "Settings", user: str, later: Later, *, job_dir: Path | None = None, store: Path | None = None, wait_s: float = 60
) -> Report:
    """Forget a user of this job and this store; raises UicError where that cannot even begin."""
    from jobs.bundles.migration import Migrations, settings_of
    from jobs.folder import JobFolder

    folder = JobFolder(job_dir or settings.stream.job_dir, make=False)
    record = folder.record()
    if record is None:
        raise BadInput(f"{folder.path}: no job was started in this folder yet, so there is nothing to forget; see --job-dir")
    report = Report()
    if record.cluster is None:
        _forget_embedded(folder, record, user, later, report)
    else:
        _forget_on_cluster(settings, folder, record, user, later, store or settings.store.path, wait_s, report)
    _note_savepoints(settings, folder, report)
    _note_evidence(folder, report)
    if (journal := Migrations(folder.path).unfinished()) is not None and journal.runs_beside:
        second = settings_of(settings, journal.plan)
        beside = forget(second, user, later, wait_s=wait_s)
        report.erased += beside.erased
        report.still += beside.still
        report.to_do += beside.to_do
    return report


def _forget_on_cluster(
    settings: "Settings",
    folder: "JobFolder",
    record: "JobRecord",
    user: str,
    later: Later,
    store: Path,
    wait_s: float,
    report: Report,
) -> None:
    from jobs import forget_store, forget_topics, topics
    from jobs.cluster.rest import Cluster

    kafka, on = settings.kafka, record.cluster
    assert on is not None
    if on.topic != kafka.events:
        raise BadInput(f"kafka.events: {kafka.events}, but the job of {folder.path} reads {on.topic}; use its settings")
    topics.check(kafka, [kafka.events, kafka.snapshots])
    forgotten = Forgotten(folder.path / FILE)
    reached_ms = forget_topics.log_end_ms(kafka, user)
    opened = Entry(None, later, _now_ms())
    forgotten.note(user, opened)
    token = uuid.uuid4().hex
    place = forget_topics.delete(kafka, user, token)
    report.erased.append(f"topic {kafka.snapshots}: a deletion at offset {place.offset} of partition {place.partition}")
    try:
        is_running: bool | None = Cluster(on.url).is_alive(on.job_id)
    except UicError as error:
        is_running = None
        report.to_do.append(f"it cannot be told whether the job runs; run this command again when it can: {error}")
    if is_running:
        answer = _ask(settings, folder, user, reached_ms, token, place, wait_s, report)
        if answer is not None:
            place, reached_ms = answer
            forgotten.note(user, opened._replace(until_ms=None if later == "drop" else reached_ms))
    elif is_running is not None:
        with folder.locked(30, lambda _: None):  # nobody starts it meanwhile
            # Asked again: it may have ended just now.
            reached_ms = forget_topics.log_end_ms(kafka, user)
            forgotten.note(user, opened._replace(until_ms=None if later == "drop" else reached_ms))
        report.erased.append("the job: it does not run; whichever state it goes on from, the user's does not count")
    forget_store.forget(store, user, place, forgotten, wait_s, report)
    for topic, kept_ms in forget_topics.kept_ms(kafka).items():
        until = "for ever" if kept_ms is None else f"for {kept_ms / 86_400_000:.1f} days"
        report.still.append(f"topic {topic}: its events, {until}: that is the log's owner to say (retention.ms)")
    report.still.append(f"topic {kafka.snapshots}: older memories, until the broker has compacted it")


def _ask(
    settings: "Settings",
    folder: "JobFolder",
    user: str,
    reached_ms: int,
    token: str,
    place: "Place",
    wait_s: float,
    report: Report,
) -> "tuple[Place, int] | None":
    """Let the running job drop the memory; its deletion, and how far the old life reached. None: it does not heed that."""
    from jobs import forget_topics
    from jobs.bundles.promote import running
    from operators import control

    try:
        address = running(folder.path).address
    except JobError as error:
        report.to_do.append(f"the job cannot be asked now, run this command again: {error}")
        return None
    message = control.Forget(to=address, user=user, until_ms=reached_ms, token=token)
    forget_topics.ask(settings.kafka, message)
    try:
        answer = forget_topics.wait_for_answer(settings.kafka, message, place, wait_s)
    finally:
        forget_topics.take_back(settings.kafka, message)
    if answer is None:
        report.to_do.append(
            f"the job has not answered within {wait_s:g} s; `uic job status` tells how it is. Run this command again; any "
            "start from now on leaves the user out"
        )
        return None
    report.erased.append("the running job: its memory of the user has gone from keyed state, and from every checkpoint to come")
    return answer.place, answer.until_ms


def _forget_embedded(folder: "JobFolder", record: "JobRecord", user: str, later: Later, report: Report) -> None:
    """The job of `uic job run`, which writes its store itself: it must not run now."""
    from jobs import forget_store

    forgotten = Forgotten(folder.path / FILE)
    opened = Entry(None, later, _now_ms())
    forgotten.note(user, opened)
    try:
        with folder.locked(1, lambda _: None):
            path = Path(record.store)
            with forget_store.to_write(path) as writer:
                blob = None if writer is None else writer.latest(user.encode())
                # In files log time is the event's own, which may be ahead of the clock. Noted first: the store forgets it.
                reached_ms = max(opened.asked_ms, NO_TIME if blob is None else read_header(blob).log_time_ms)
                forgotten.note(user, opened._replace(until_ms=None if later == "drop" else reached_ms))
                if writer is not None:
                    writer.forget(user)
                    report.erased.append(f"{path}: the memory, daily and kept copies")
        report.erased.append("the job: whichever state it goes on from, the user's does not count, nor do events of before now")
    except JobError as error:
        report.to_do.append(f"stop it, then run this command again; no start from now on brings the user back: {error}")
    report.still.append(
        f"{record.events}: its events are whoever's writes them; {folder.path}/letters.sqlite: those not applied"
    )


def _note_savepoints(settings: "Settings", folder: "JobFolder", report: Report) -> None:
    """What Flink could go on from and was taken before now: the user's bytes are in it, and count for nothing."""
    from jobs.daily.catalogue import KIND, Catalogue
    from jobs.daily.opening import catalogue_path
    from uic import artefact

    path = catalogue_path(settings, folder.path)
    entries = Catalogue(path, make=False).entries() if artefact.kind_of(path) == KIND else []
    for entry in sorted(entries, key=lambda each: each.taken_ms):
        until = f"until {entry.day + timedelta(days=settings.days.kept)}, or later where newer ones fail"
        if entry.pins:
            until = f"for ever: pinned ({'; '.join(entry.pins)}); `uic checkpoint unpin {entry.id}` lets it go"
        report.still.append(f"daily checkpoint {entry.day} ({entry.id}): {until}")
    found = folder.candidates()
    if found:
        names = ", ".join(each.name for each in found[:_MOST_NAMED]) + (" ..." if len(found) > _MOST_NAMED else "")
        report.still.append(
            f"{len(found)} checkpoints and savepoints in {folder.path} ({names}): a run's checkpoints until newer ones have "
            "completed, those of earlier runs until the third start after them"
        )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _note_evidence(folder: "JobFolder", report: Report) -> None:
    """What rollbacks have left: nobody goes on from it, and nothing but a person removes it."""
    from jobs.rollback.journal import FOLDER
    from jobs.rollback.proof import SAMPLE
    from jobs.rollback.steps import EVIDENCE

    for path in sorted((folder.path / FOLDER).glob("generation-*")):
        if any((path / EVIDENCE).glob("*")):
            report.still.append(f"{path / EVIDENCE}: the state before that rollback, until you remove it; nothing needs it")
        if (path / SAMPLE).exists():
            report.still.append(f"{path / SAMPLE}: perhaps, until that rollback has ended; `uic rollback` goes on with it")
