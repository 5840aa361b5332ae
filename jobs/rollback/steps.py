"""What a rollback does, step by step. Each step can be done again where it was begun: killed anywhere, it goes on.

pin      keep the daily checkpoint that is gone back to, whatever the days kept
stop     end the job; its savepoint is the evidence
apply    wait until the stores have what it had published
fence    begin the generation in every store: from now on all reads are as of the cut
taint    mark the daily checkpoints that have read on beyond the cut
start    start the job from the one of the day, silent up to the cut, without what is in quarantine from there on
replay   wait until it has read what there was when it was stopped
settle   wait until it has published every user whom it changed before the cut
save     take a daily checkpoint of it
follow   wait until the stores have what it has published
report   say what came of it, let go of the pin
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from jobs.daily.catalogue import Catalogue
from jobs.daily.cut import EventLog
from jobs.daily.entry import Entry
from jobs.journals import Waiting, take_steps
from jobs.rollback.journal import FINISHED, STARTED, Folder, Journal, Offsets
from jobs.rollback.plan import after_the_cut
from jobs.rollback.proof import Report
from jobs.rollback.world import FollowedStore, Job, Topics, covered
from uic.errors import BadInput, JobError

QUARANTINE, REPORT, EVIDENCE = "quarantine.json", "report.json", "evidence"


def await_applied(stores: Sequence[FollowedStore], published: Offsets, waiting: Waiting) -> None:
    """Wait until every store has applied the snapshots up to there."""

    def left() -> int:
        return sum(_to_go(store.applied(), published) for store in stores)

    waiting.until_none(left, "snapshots that the store has not applied", "`uic store follow` must be running for each store")


class Rollback:
    """One rollback, from wherever its journal says it is."""

    def __init__(
        self,
        journal: Journal,
        folder: Folder,
        *,
        job: Job,
        topics: Topics,
        log: EventLog,
        catalogue: Catalogue,
        stores: Sequence[FollowedStore],
        save: Callable[[], Entry],
        prove: Callable[[Journal], Report],
        waiting: Waiting,
    ) -> None:
        self.journal = journal
        self._folder = folder
        self._job = job
        self._topics = topics
        self._log = log
        self._catalogue = catalogue
        self._stores = stores
        self._save = save
        self._prove = prove
        self._waiting = waiting

    @property
    def steps(self) -> Mapping[str, Callable[[], str]]:
        """In their order; each returns in words what it did."""
        return {
            "pin": self._pin,
            "stop": self._stop,
            "apply": self._apply,
            "fence": self._fence,
            "taint": self._taint,
            STARTED: self._start,
            "replay": self._replay,
            "settle": self._settle,
            "save": self._save_one,
            "follow": self._follow,
            FINISHED: self._report,
        }

    def run(self) -> None:
        """Do what is not done yet; the journal is written after each step."""
        take_steps(self.steps, self.journal.done, self._note_done, self._waiting)

    def _note_done(self, step: str) -> None:
        self._note(done=(*self.journal.done, step))

    def _note(self, **facts: object) -> None:
        self.journal = replace(self.journal, **facts)  # type: ignore[arg-type]  # its own fields, by name
        self._folder.write(self.journal)

    def _pin(self) -> str:
        plan = self.journal.plan
        self._catalogue.pin(self._catalogue.find(plan.entry), plan.name)
        return f"daily checkpoint {plan.entry} is pinned"

    def _stop(self) -> str:
        evidence = self._folder.of(self.journal.plan.generation) / EVIDENCE
        evidence.mkdir(exist_ok=True)
        made = self._job.stop(evidence) if self._job.is_alive() else None
        if made is None:
            # Perhaps it was made by one who was killed before they could say so.
            made = max((str(path.parent) for path in evidence.glob("savepoint-*/_metadata")), default=None)
        reach = self._log.reach()
        self._note(
            evidence=made,
            goal={partition: each.end for partition, each in reach.items()},
            published=dict(self._topics.published()),
            letters={kind: dict(ends) for kind, ends in self._topics.letters_end().items()},
        )
        kept = f"its state is kept in {made}" if made else "it made no savepoint; its checkpoints stay in the job's folder"
        return f"the job has stopped; {kept}"

    def _apply(self) -> str:
        await_applied(self._stores, self.journal.published, self._waiting)
        return "the stores have applied all that the job had published"

    def _fence(self) -> str:
        plan = self.journal.plan
        for store in self._stores:
            store.begin_generation(plan.generation, plan.cut_ms)
        return f"every read is as of {plan.day} now: generation {plan.generation} has begun"

    def _taint(self) -> str:
        later = after_the_cut(self._catalogue.entries(), self.journal.plan)
        for entry in later:
            self._catalogue.change(entry, lambda now: replace(now, tainted=f"undone by a {self.journal.plan.name}"))
        return f"{len(later)} later daily checkpoints are tainted"

    def _start(self) -> str:
        journal = self.journal
        if journal.attempts and self._job.record()[1].job_id == journal.attempts[-1]:
            return f"job {journal.attempts[-1]} was started"
        for job_id in journal.attempts:
            self._job.cancel(job_id)
        job_id = uuid.uuid4().hex
        self._note(attempts=(*journal.attempts, job_id))
        quarantine = self._folder.of(journal.plan.generation) / QUARANTINE
        self._job.start(journal.plan, str(quarantine) if quarantine.exists() else None, job_id)
        return f"job {job_id} goes on from {journal.plan.savepoint}"

    def _replay(self) -> str:
        def left() -> int:
            self._check_alive()
            return _to_go(covered(self._job, self._log) or self.journal.plan.offsets, self.journal.goal)

        self._waiting.until_none(left, "events to be applied again", "`uic job status` shows how the job is")
        return "the job has caught up with what there was when it was stopped"

    def _settle(self) -> str:
        plan = self.journal.plan
        if plan.silent == 0:
            return "the checkpoint was taken exactly at the cut: no user is to be settled"

        def left() -> int:
            self._check_alive()
            watermark_ms = self._job.watermark_ms()
            # Before the first event there is none, or the smallest number there is.
            return plan.cut_ms if watermark_ms is None else max(0, plan.cut_ms - 1 - max(0, watermark_ms))

        self._waiting.until_none(
            left,
            "ms of log time to the cut",
            "It ends with the next event; where idle users leave, with one in every partition",
        )
        return f"users who had events between the checkpoint and the cut ({plan.silent:,}) are published"

    def _save_one(self) -> str:
        entry = self._save()
        if _to_go(entry.offsets, self.journal.goal) > 0:
            raise JobError(f"{entry.id}: its offsets {dict(entry.offsets)} are before the goal {dict(self.journal.goal)}")
        self._note(fresh=entry.id, published=dict(self._topics.published()))
        return f"daily checkpoint {entry.id} has the new memories"

    def _follow(self) -> str:
        await_applied(self._stores, self.journal.published, self._waiting)
        return "the stores have caught up"

    def _report(self) -> str:
        plan = self.journal.plan
        # One that was in the making when the job was stopped has come since.
        self._taint()
        report = self._prove(self.journal)
        self._folder.put(plan.generation, REPORT, report.to_json())
        with suppress(BadInput):  # it was removed by hand
            self._catalogue.unpin(self._catalogue.find(plan.entry), plan.name)
        self._job.settled()
        return f"done: {self._folder.of(plan.generation) / REPORT}"

    def _check_alive(self) -> None:
        if not self._job.is_alive():
            raise JobError(
                "the job has ended before it had caught up: `uic job status` says why, `uic job resume` starts it again; then "
                "run this command again, it goes on here"
            )


def _to_go(at: Offsets, goal: Offsets) -> int:
    return sum(max(0, end - at.get(partition, 0)) for partition, end in goal.items())
