"""Can this day be gone back to, and how? Everything is asked before anything is changed."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from jobs import checkpoints
from jobs.daily.catalogue import Catalogue
from jobs.daily.cut import Cut, EventLog, find_cut
from jobs.daily.entry import Entry
from jobs.daily.keeping import usable
from jobs.daily.retention import check_retention
from jobs.flink_metadata import why_incomplete
from jobs.record import JobRecord
from jobs.rollback.journal import Plan
from jobs.rollback.world import FollowedStore, Job, covered
from uic.bundle import Bundle
from uic.clock import Days
from uic.errors import BadInput, JobError, StoreError
from uic.quarantine import Quarantine
from uic.store.opening import check_identity


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a person wants: a day, the bundle to go on with (None: the job's), and what to leave out from the day on.

    `words`: the same as arguments of `uic rollback`.
    """

    words: tuple[str, ...]
    day: date
    bundle: Path | None = None
    users: frozenset[str] = frozenset()
    items: frozenset[int] = frozenset()
    sources: frozenset[str] = frozenset()
    between_ms: tuple[tuple[int, int], ...] = ()

    def quarantine(self, cut_ms: int, earlier: Quarantine | None) -> Quarantine:
        """The rules of the new generation: these, and those of earlier rollbacks to earlier cuts."""
        rules = Quarantine(from_ms=cut_ms, users=self.users, items=self.items, sources=self.sources, between_ms=self.between_ms)
        return rules.after(earlier)


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What a rollback stands on. `topic`: the snapshots that the stores must follow; `margin_ms`: how far clocks may differ."""

    job: Job
    catalogue: Catalogue
    log: EventLog
    stores: Sequence[FollowedStore]
    store_paths: Sequence[Path]
    topic: str
    days: Days
    now_ms: int
    margin_ms: int


def make_plan(asked: Asked, ground: Ground) -> tuple[Plan, Quarantine]:
    """The plan, and what it leaves out; raises UicError, with the way out, where the day cannot be gone back to."""
    record, on = ground.job.record()
    bundle = Bundle.open(Path(record.bundle) if asked.bundle is None else asked.bundle)
    _check_bundle(bundle, record)
    cut_ms = ground.days.begins_ms(asked.day)
    if cut_ms > ground.now_ms:
        raise BadInput(f"--to {asked.day}: this day has not begun in {ground.days.zone}")
    for store, path in zip(ground.stores, ground.store_paths, strict=True):
        _check_store(store, path, bundle, ground)
        store.read("anybody", asked.day)  # says which days are kept where this is none of them
    cut = find_cut(ground.log, cut_ms, now_ms=ground.now_ms, margin_ms=ground.margin_ms)
    if cut is None:
        raise JobError(f"--to {asked.day}: the day has begun too lately to be known in every partition; try again in a minute")
    _check_come_so_far(ground, cut, asked.day)
    entry = _entry(asked.day, cut, cut_ms, ground)
    _check_entry(entry, ground, bundle)
    begun = [store.lineage.active or 0 for store in ground.stores]
    plan = Plan(
        words=asked.words,
        day=asked.day,
        zone=ground.days.zone,
        cut_ms=cut_ms,
        cut=dict(cut.offsets),
        entry=entry.id,
        savepoint=str(ground.catalogue.savepoint(entry)),
        offsets=dict(entry.offsets),
        generation=1 + max([record.generation, *begun]),
        bundle=str(bundle.path.absolute()),
        stores=tuple(str(path.absolute()) for path in ground.store_paths),
        run=record.run,
        job_id=on.job_id,
    )
    earlier = None if record.quarantine is None else Quarantine.read(Path(record.quarantine))
    return plan, asked.quarantine(cut_ms, earlier)


def after_the_cut(entries: Collection[Entry], plan: Plan) -> list[Entry]:
    """The entries of the runs left behind that have read on beyond the cut, or stand for a later day."""
    return [
        entry
        for entry in entries
        if entry.tainted is None and entry.run <= plan.run and (entry.day > plan.day or not entry.fits(plan.cut))
    ]


def _check_bundle(bundle: Bundle, record: JobRecord) -> None:
    for name, new in bundle.identity._asdict().items():
        if (old := getattr(record, name)) != new:
            raise BadInput(
                f"--bundle {bundle.path}: of {name} {new}, the job's memories are of {name} {old}. Only a bundle trained on "
                "from theirs can go on with them; any other begins with a warm-up (`uic warm-up`) into another job"
            )


def _check_store(store: FollowedStore, path: Path, bundle: Bundle, ground: Ground) -> None:
    check_identity(store.identity, bundle.identity, path)
    if store.zone != ground.days.zone:
        raise BadInput(f"{path}: its days are those of {store.zone}, days.zone says {ground.days.zone}; use the store's zone")
    if store.source is None or store.source.topic != ground.topic:
        follows = "no topic" if store.source is None else store.source.topic
        raise StoreError(
            f"{path}: it follows {follows}, the job publishes to {ground.topic}; name the stores that `uic store follow` writes"
        )


def _check_come_so_far(ground: Ground, cut: Cut, day: date) -> None:
    at = covered(ground.job, ground.log) if ground.job.is_alive() else None
    for partition, offset in sorted(cut.offsets.items()):
        if at is not None and at.get(partition, offset) < offset:
            raise JobError(
                f"--to {day}: the job has not come to this day in partition {partition}: its newest checkpoint is at offset "
                f"{at[partition]:,}, the day begins at {offset:,}. Wait until it is there, or go back to an earlier day"
            )


def _entry(day: date, cut: Cut, cut_ms: int, ground: Ground) -> Entry:
    entries = ground.catalogue.entries()
    if cut.at_front:
        # The true cut may be before what is left of the log; only a clock can say that nothing of the day was read.
        entries = [each for each in entries if each.taken_ms + ground.margin_ms <= cut_ms]
    entry = usable(entries, cut.offsets)
    if entry is None:
        tainted = [each for each in entries if each.tainted is not None and each.fits(cut.offsets)]
        why = (
            f"the last one that would do, {tainted[0].id}, is tainted ({tainted[0].tainted})"
            if tainted
            else "all there are have read on beyond its begin"
            if entries
            else "there is none in the catalogue"
        )
        raise BadInput(
            f"--to {day}: no daily checkpoint can stand for this day: {why}. `uic checkpoint list` shows which days can be "
            "gone back to"
        )
    reach = ground.log.reach()
    lost = check_retention([entry], reach, None, kept_days=0, lead_ms=0)
    if lost.lost:
        raise JobError(f"--to {day}: {lost.problems[0]}. Go back to a later day; the topic's retention.ms must be longer")
    return entry


def _check_entry(entry: Entry, ground: Ground, bundle: Bundle) -> None:
    """Raise unless the savepoint is whole and of this bundle's memories."""
    for name, found, wanted in (
        ("layout", entry.layout, bundle.identity.layout),
        ("lineage", entry.lineage, bundle.identity.lineage),
    ):
        if found != wanted:
            raise BadInput(
                f"daily checkpoint {entry.id}: its memories are of {name} {found}, {bundle.path} is of {name} {wanted}: the "
                "bundle was replaced since. Go back to a later day, or begin with a warm-up into another job"
            )
    savepoint = ground.catalogue.savepoint(entry)
    wrong = ground.catalogue.wrong_files(entry) or [text for text in (why_incomplete(savepoint),) if text is not None]
    if not wrong:
        found_in = checkpoints.inspect(savepoint, checkpoints.form_of(bundle.path))
        wrong = [] if found_in.is_intact else [found_in.why()]
    if wrong:
        raise JobError(
            f"daily checkpoint {entry.id} is damaged: {wrong[0]}. `uic checkpoint delete {entry.id}` lets the one before it "
            "stand in, which takes longer to catch up"
        )
