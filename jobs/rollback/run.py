"""A rollback over the real job, topics and stores of the settings: planned, begun, gone on with, and proved."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from jobs import topics
from jobs.daily.opening import open_catalogue, open_midnights
from jobs.folder import JobFolder
from jobs.jars import job_jars
from jobs.journals import Waiting
from jobs.rollback.journal import Folder, Journal, Plan
from jobs.rollback.judge import Verified, verify
from jobs.rollback.plan import Asked, Ground, after_the_cut, make_plan
from jobs.rollback.proof import SAMPLE, Report, choose_users, count_left, sample_from_json, sample_to_json
from jobs.rollback.steps import QUARANTINE, Rollback, await_applied
from jobs.rollback.world import ClusterJob, FollowedStore, KafkaTopics, open_stores
from jobs.run import rules
from jobs.settings import Settings
from jobs.verdict import LeftOut
from uic.clock import in_ms
from uic.errors import BadInput
from uic.forgetting import FILE as FORGOTTEN_FILE
from uic.forgetting import Forgotten
from uic.quarantine import Quarantine

_FOLLOWER_S = 60.0


class Outlook(NamedTuple):
    """A plan in figures: events to apply again from the cut on, entries to taint, and how far each store is behind."""

    plan: Plan
    quarantine: Quarantine
    replayed: int
    tainted: int
    behind: list[int]


class Run:
    """One rollback of one job. `stores`: those that follow its snapshots; `waiting`: how it waits, and what it tells."""

    def __init__(
        self,
        settings: Settings,
        asked: Asked,
        *,
        job_dir: Path,
        stores: Sequence[Path],
        url: str | None = None,
        wheel: Path | None = None,
        waiting: Waiting,
    ) -> None:
        folder = JobFolder(job_dir, make=False)
        self.folder = Folder(folder.path)
        self._settings = settings
        self._asked = asked
        self._store_paths = stores
        open_catalogue(settings, job_dir)  # raises where there is none: none is made here
        self._midnights = open_midnights(settings, job_dir, url=url)
        self._job = ClusterJob(settings, folder, url=url, wheel=wheel, timeout_s=settings.daily.savepoint_timeout_s)
        self._topics = KafkaTopics(settings)
        self._waiting = waiting

    def explain(self) -> Outlook:
        """What it would do; changes nothing."""
        if (unfinished := self.folder.unfinished()) is not None:
            raise BadInput(_unfinished(unfinished))
        stores = open_stores(self._store_paths)
        try:
            plan, quarantine = self._plan(stores)
            published = self._topics.published()
            behind = [sum(max(0, end - store.applied().get(each, 0)) for each, end in published.items()) for store in stores]
        finally:
            _close(stores)
        ends = {each: reach.end for each, reach in self._midnights.log.reach().items()}
        tainted = len(after_the_cut(self._midnights.catalogue.entries(), plan))
        return Outlook(plan, quarantine, Journal(plan=plan, goal=ends).replayed, tainted, behind)

    def roll_back(self, sample: int) -> Report:
        """Begin a rollback, or go on with the one that was begun; returns what came of it."""
        stores = open_stores(self._store_paths)
        try:
            unfinished = self.folder.unfinished()
            journal = self._begin(stores, sample) if unfinished is None else self._go_on(unfinished)
            reports: list[Report] = []

            def prove(journal: Journal) -> Report:
                reports.append(self._prove(journal, stores))
                return reports[-1]

            Rollback(
                journal,
                self.folder,
                job=self._job,
                topics=self._topics,
                log=self._midnights.log,
                catalogue=self._midnights.catalogue,
                stores=stores,
                save=self._midnights.take,
                prove=prove,
                waiting=self._waiting,
            ).run()
            # It has served, and nobody who is forgotten later should still be in it.
            (self.folder.of(journal.plan.generation) / SAMPLE).unlink(missing_ok=True)
            return reports[-1]
        finally:
            _close(stores)

    def _plan(self, stores: list[FollowedStore]) -> tuple[Plan, Quarantine]:
        topics.check(self._settings.kafka)
        job_jars(self._settings.stream.jars)
        return make_plan(self._asked, self._ground(stores))

    def _ground(self, stores: list[FollowedStore]) -> Ground:
        midnights = self._midnights
        return Ground(
            job=self._job,
            catalogue=midnights.catalogue,
            log=midnights.log,
            stores=stores,
            store_paths=self._store_paths,
            topic=self._settings.kafka.snapshots,
            days=midnights.days,
            now_ms=midnights.now_ms(),
            margin_ms=midnights.margin_ms,
        )

    def _begin(self, stores: list[FollowedStore], sample: int) -> Journal:
        plan, quarantine = self._plan(stores)
        # A store that nobody writes would be noticed only when the job has stopped.
        await_applied(stores, self._topics.published(), replace(self._waiting, patience_s=_FOLLOWER_S))
        users = choose_users(self._settings, plan, sample)
        memories = {user: stores[0].read(user, plan.day) for user in users}
        self.folder.put(plan.generation, SAMPLE, sample_to_json(memories))
        if not quarantine.is_empty:
            self.folder.put(plan.generation, QUARANTINE, quarantine.to_json())
        journal = Journal(plan=plan)
        self.folder.write(journal)
        return journal

    def _go_on(self, journal: Journal) -> Journal:
        plan = journal.plan
        left_out = self._quarantine(plan)
        if plan.words != self._asked.words or left_out != self._asked.quarantine(plan.cut_ms, left_out.before):
            raise BadInput(_unfinished(journal))
        self._waiting.say(f"going on with the rollback to {plan.day}; done: {', '.join(journal.done) or 'nothing yet'}")
        return journal

    def _quarantine(self, plan: Plan) -> Quarantine:
        path = self.folder.of(plan.generation) / QUARANTINE
        return Quarantine.read(path) if path.exists() else Quarantine(from_ms=plan.cut_ms)

    def _prove(self, journal: Journal, stores: list[FollowedStore]) -> Report:
        plan, stream = journal.plan, self._settings.stream
        record, on = self._job.record()
        left_out = LeftOut(quarantine=self._quarantine(plan), forgotten=Forgotten(self.folder.path.parent / FORGOTTEN_FILE))
        left, users = count_left(self._topics.letters(journal.letters), journal, self._settings.kafka.events)
        memories = sample_from_json((self.folder.of(plan.generation) / SAMPLE).read_text())
        judged = replace(
            rules(stream.lateness_s, stream.idle_after_s, accept_late=on.accept_late),
            not_before_ms=None if stream.not_before is None else in_ms(stream.not_before),
        )
        unverified = None
        try:
            verified = verify(
                self._settings, journal, judged, left_out, memories, stores,
                promoted=None if record.bundle == plan.bundle else Path(record.bundle),
            )  # fmt: skip
        except BadInput as error:  # retention has gone beyond the checkpoint meanwhile; the rollback is done all the same
            memories, verified, unverified = {}, Verified({}, {}, 0), str(error)
        return Report(
            day=plan.day.isoformat(),
            generation=plan.generation,
            entry=plan.entry,
            evidence=journal.evidence,
            fresh=journal.fresh,
            silent=plan.silent,
            replayed=journal.replayed,
            left=dict(left),
            absent=sum(stores[0].read(user) is None for user in users),
            verified=len(memories),
            tied=verified.tied,
            differing=verified.differing,
            undecided=verified.undecided,
            unverified=unverified,
        )


def _unfinished(journal: Journal) -> str:
    done = ", ".join(journal.done) or "nothing yet"
    return (
        f"a rollback to {journal.plan.day} is unfinished (done: {done}): `{journal.plan.command}` goes on with it; another one "
        "can begin when it is finished"
    )


def _close(stores: list[FollowedStore]) -> None:
    for store in stores:
        store.close()
