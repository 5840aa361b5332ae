"""Can this bundle be gone over to, and how? Everything is asked before anything is changed."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jobs.bundles.migration import Plan
from jobs.cluster.status import cluster_record
from jobs.daily.cut import EventLog
from jobs.folder import JobFolder
from jobs.jars import job_jars
from jobs.rollback.journal import why_not_to_start
from jobs.score import open_pair
from jobs.settings import Settings
from jobs.warm_up import inputs
from jobs.warm_up.command import read_time
from jobs.warm_up.savepoint import check_savepoint
from operators.deployment import CACHE
from uic.bundle import Bundle
from uic.clock import Days
from uic.errors import BadInput
from uic.promotion import Standing, needs_migration
from uic.registry import Registry
from uic.store import moved
from uic.store.place import absolute, words


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What `uic bundle migrate` is told; None: what the settings say, or what goes without saying."""

    version: int
    history: str | None
    days: int
    until: str | None
    overlap_s: int
    into: Path | None
    job_dir: Path | None
    store: Path | None

    @property
    def words(self) -> tuple[str, ...]:
        """The same as arguments."""
        told = {
            "--history": self.history, "--days": self.days, "--until": self.until, "--overlap-s": self.overlap_s,
            "--into": self.into, "--job-dir": self.job_dir, "--store": self.store,
        }  # fmt: skip
        return str(self.version), *(word for name, value in told.items() if value is not None for word in (name, str(value)))


def make_plan(asked: Asked, settings: Settings, log: EventLog) -> Plan:
    """The plan; raises UicError, with the way out, where it cannot be carried out."""
    if asked.history is None:
        raise BadInput("--history: expected the recorded events up to T: what memories of another space are made of")
    job_dir = (asked.job_dir or settings.stream.job_dir).absolute()
    record, on = cluster_record(JobFolder(job_dir, make=False))
    if (why := why_not_to_start(job_dir)) is not None:
        raise BadInput(why)
    if on.topic != settings.kafka.events:
        raise BadInput(f"kafka.events: {settings.kafka.events}, but the job of {job_dir} reads {on.topic}; use its settings")
    into = (asked.into or job_dir.with_name(f"{job_dir.name}-{asked.version}")).absolute()
    store = absolute(asked.store or settings.store.path)
    active = Bundle.open(Path(record.bundle))
    registry = Registry(settings.registry.url)
    entry = registry.get(asked.version)
    if entry.retired_ms is not None:
        raise BadInput(f"bundle {asked.version}: it was retired; push another one")
    if not needs_migration(Standing.of(active), Standing.of(registry.fetch(entry, job_dir / CACHE))):
        raise BadInput(
            f"bundle {asked.version}: it is of the layout and lineage of {record.bundle_version}, which the job applies: "
            f"`uic bundle promote {asked.version}` lets the job go over to it as it runs"
        )
    if (sent := moved.newest(store)) is not None:
        raise BadInput(
            f"{words(store)}: an earlier migration has sent its readers to {words(sent.store)}; use the settings of that one"
        )
    _, memories = open_pair(active.path, store)  # raises where they do not belong together
    memories.close()
    job_jars(settings.stream.jars)
    check_savepoint(into / "savepoint", settings.stream.jars)
    inputs.find(asked.history)
    days, now_ms = Days(settings.days.zone), time.time_ns() // 1_000_000
    until_ms = days.begins_ms(days.day_of(now_ms)) if asked.until is None else read_time("--until", asked.until)
    if until_ms > now_ms:
        raise BadInput(
            f"--until: recorded and live events meet at the hand-over, which is not in the future; got {asked.until}"
        )
    start_ms = until_ms - 1000 * asked.overlap_s
    return Plan(
        words=asked.words,
        version=asked.version,
        from_version=record.bundle_version,
        bundle=str(into / "bundles" / entry.folder),
        history=str(Path(asked.history).absolute()),
        days=asked.days,
        until_ms=until_ms,
        start_ms=start_ms,
        begins=_begins(log, start_ms, settings.kafka.events),
        store=str(store),
        into=str(into),
        generation=record.generation + 1,
        run_generation=record.generation,
        quarantine=record.quarantine,
    )


def _begins(log: EventLog, start_ms: int, topic: str) -> dict[int, int]:
    """From which offset on the second job reads; raises BadInput where events from then on may be gone."""
    reach, first_at = log.reach(), log.first_at(start_ms)
    begins = {}
    for partition, (first, end) in sorted(reach.items()):
        found = first_at[partition]
        begins[partition] = end if found is None else found
        if found == first > 0:
            raise BadInput(
                f"{topic}-{partition}: its first event is of {when(start_ms)} or later: of what was before, some is gone, and "
                "history ends at T. Take a later --until, with a history up to there"
            )
    return begins


def when(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(sep=" ", timespec="seconds")
