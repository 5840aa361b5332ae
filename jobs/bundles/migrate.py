"""What a migration does, step by step. Each step can be done again where it was begun: killed anywhere, it goes on.

topics    make the topics of the second job, and the file of its settings
warm-up   fold the history with the new bundle, into the second store and into a savepoint
start     start the second job from that savepoint
catch-up  wait until it has read what there is, and the second store has applied what it published
verify    hold the memories and scores of a sample of users against an offline fold; where any differs, it ends here
switch    catch up once more, then send all readers to the second store and the new bundle, in one rename
retire    stop the first job with a savepoint, retire its bundle

Until the switch everything that anybody reads is the first job's, and the migration can be given up.
"""

import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from jobs import topics
from jobs.bundles.migration import FINISHED, SWITCHED, Journal, Migrations, settings_of, to_yaml
from jobs.bundles.migration_proof import Proof
from jobs.daily.cut import EventLog
from jobs.folder import JobFolder
from jobs.journals import Waiting, take_steps
from jobs.rollback.steps import await_applied
from jobs.rollback.world import ClusterJob, KafkaTopics, StoreOnDisk, covered
from jobs.settings import Settings
from jobs.warm_up.run import Progress, WarmUp
from uic import artefact
from uic.bundle import Bundle
from uic.codec import read_header
from uic.errors import BadInput, JobError
from uic.forgetting import FILE as FORGOTTEN
from uic.forgetting import Forgotten, share
from uic.registry import Registry
from uic.store import sharded
from uic.store.moved import Pair, move
from uic.store.place import words
from uic.store.sharded import open_to_write

REPORT = "report.json"
Prove = Callable[[Journal, Settings, Mapping[int, int]], Proof]


class Migration:
    """One migration, from wherever its journal says it is."""

    def __init__(
        self,
        journal: Journal,
        settings: Settings,
        *,
        job_dir: Path,
        log: EventLog,
        prove: Prove,
        waiting: Waiting,
        progress: Progress,
        url: str | None = None,
        wheel: Path | None = None,
    ) -> None:
        self.journal = journal
        self._settings = settings
        self._second = settings_of(settings, journal.plan)
        self._folder = Migrations(job_dir)
        self._job_dir = job_dir
        self._old = ClusterJob(settings, JobFolder(job_dir, make=False), url=url, timeout_s=settings.daily.savepoint_timeout_s)
        self._log = log
        self._prove = prove
        self._waiting = waiting
        self._progress = progress
        self._url = url
        self._wheel = wheel

    @property
    def steps(self) -> Mapping[str, Callable[[], str]]:
        """In their order; each returns in words what it did."""
        return {
            "topics": self._topics,
            "warm-up": self._warm_up,
            "start": self._start,
            "catch-up": self._catch_up,
            "verify": self._verify,
            SWITCHED: self._switch,
            FINISHED: self._retire,
        }

    def run(self) -> None:
        """Do what is not done yet; the journal is written after each step."""
        take_steps(self.steps, self.journal.done, self._note_done, self._waiting)

    def give_up(self) -> None:
        """The way back: end the second job. Raises BadInput where readers have gone over already."""
        if SWITCHED in self.journal.done:
            raise BadInput(
                f"readers have gone over to bundle {self.journal.plan.version}: there is no way back by itself; run "
                f"`{self.journal.plan.command}` to its end, then migrate to bundle {self.journal.plan.from_version} anew"
            )
        for job_id in self.journal.attempts:
            self._old.cancel(job_id)
        self._note(abandoned=True)

    def _note_done(self, step: str) -> None:
        self._note(done=(*self.journal.done, step))

    def _note(self, **facts: object) -> None:
        self.journal = replace(self.journal, **facts)  # type: ignore[arg-type]  # its own fields, by name
        self._folder.write(self.journal)

    def _topics(self) -> str:
        plan = self.journal.plan
        registry = Registry(self._settings.registry.url)
        registry.fetch(registry.get(plan.version), Path(plan.bundle).parent)
        artefact.write_atomically(plan.config, to_yaml(self._second))
        made = topics.create(self._second.kafka)
        topics.check(self._second.kafka)
        return f"the second job's topics are there ({', '.join(made) or 'none was missing'}), its settings in {plan.config}"

    def _warm_up(self) -> str:
        from jobs.warm_up.handover import FILE, describe
        from jobs.warm_up.load import check_store, load
        from jobs.warm_up.run import warm_up
        from jobs.warm_up.savepoint import write_savepoint
        from jobs.warm_up.work import WorkFolder

        plan, stream, days = self.journal.plan, self._settings.stream, self._settings.days
        bundle, ledger = Bundle.open(Path(plan.bundle)), self._job_dir / FORGOTTEN
        if sharded.is_sharded(Path(plan.store)):
            like = sharded.read(Path(plan.store))
            sharded.make(plan.new_store, shards=like.shards, partitions=like.partitions)
        numbers = self._settings.store.numbers
        check_store(plan.new_store, bundle, days, numbers)
        idle_after_ms = None if stream.idle_after_s is None else 1000 * stream.idle_after_s
        asked = WarmUp(
            history=plan.history, bundle=bundle.path, work=plan.work, until_ms=plan.until_ms, days=plan.days,
            idle_after_ms=idle_after_ms, forgotten=ledger,
        )  # fmt: skip
        report = warm_up(asked, self._progress)
        assert report is not None  # the whole of it is done here
        users = report.counts.get("users", 0)
        files = [WorkFolder(plan.work).memories(number) for number in range(report.partitions)]
        self._progress.begin(f"writing {words(plan.new_store)}", users, 0)
        forgotten = Forgotten(ledger)
        load(files, plan.new_store, bundle, days, numbers=numbers, forgotten=forgotten, is_done=self._progress.advance)
        if not (plan.savepoint / FILE).exists():
            self._progress.begin(f"writing {plan.savepoint}", users, 0)
            about = describe(bundle, until_ms=plan.until_ms, idle_after_ms=idle_after_ms, users=users)
            write_savepoint(
                files, plan.savepoint, stream.jars, plan.work, about=about, idle_after_ms=idle_after_ms,
                is_done=self._progress.advance,
            )  # fmt: skip
        applied = report.counts.get("applied", 0)
        return (
            f"{applied:,} events are folded into memories of {users:,} users, in {words(plan.new_store)} and {plan.savepoint}"
        )

    def _start(self) -> str:
        from jobs.submit import Generation, Submission, submit

        plan, folder = self.journal.plan, JobFolder(self.journal.plan.job_dir)
        record = folder.record()
        if record is not None and record.cluster is not None and record.cluster.job_id in self.journal.attempts[-1:]:
            return f"job {record.cluster.job_id} was started"
        for job_id in self.journal.attempts:
            self._old.cancel(job_id)
        job_id = uuid.uuid4().hex
        self._note(attempts=(*self.journal.attempts, job_id))
        # Whoever is forgotten by one of the two jobs, is so by both.
        share(self._job_dir / FORGOTTEN, folder.path / FORGOTTEN)
        self._drop_forgotten()
        before, on = self._old.record()
        interval_s = on.checkpoint_interval_s
        submission = Submission(
            bundle=Path(plan.bundle),
            job_dir=folder.path,
            url=self._url or on.url,
            name=f"{on.name.removesuffix(f'-{plan.from_version}')}-{plan.version}",
            plan=on.plan,
            parallelism=on.parallelism,
            backend=before.backend,
            checkpoint_interval_s=self._settings.stream.checkpoint_interval_s if interval_s is None else interval_s,
            wheel=self._wheel,
            restore=plan.savepoint,
            accept_late=on.accept_late,
            flink=on.flink,
            generation=Generation(number=plan.generation, silent_before_ms=0, quarantine=plan.quarantine),
            job_id=job_id,
        )
        submit(self._second, submission, resumes=False)
        self._waiting.say(f"now run, until the migration is over and after it:  {follow_command(self.journal)}")
        return f"job {job_id} runs beside the first, from {plan.savepoint}"

    def _drop_forgotten(self) -> None:
        """Whoever was forgotten since the warm-up had read them; from now on `uic user forget` knows of both jobs."""
        ledger = Forgotten(self._job_dir / FORGOTTEN)
        if ledger.is_empty:
            return
        identity, days = Bundle.open(Path(self.journal.plan.bundle)).identity, self._settings.days
        with closing(open_to_write(self.journal.plan.new_store, identity, zone=days.zone, kept=days.kept)) as store:
            for user in [user for user in store.users() if ledger.until_ms(user) is not None]:
                blob = store.read(user)
                if blob is not None and ledger.is_gone(user, read_header(blob).log_time_ms):
                    store.forget(user)

    def _catch_up(self) -> str:
        self._until_caught_up()
        return "the second job has caught up, and so has its store"

    def _verify(self) -> str:
        goal = self._ends()
        self._until_caught_up(goal)
        proof = self._prove(self.journal, self._second, goal)
        plan = self.journal.plan
        self._folder.put(plan.version, REPORT, proof.to_json())
        if not proof.holds:
            raise JobError(
                f"{len(proof.differing)} of {proof.users} users have other memories than an offline fold makes, such as "
                f"{', '.join(f'{user!r} ({why})' for user, why in list(proof.differing.items())[:3])}; scores differ by up to "
                f"{proof.score_difference:.2g}. Nothing was switched. {self._folder.of(plan.version) / REPORT} has all of "
                f"them; `{plan.command}` verifies again, --give-up ends the second job"
            )
        self._note(goal=goal)
        return (
            f"{proof.users:,} users have the memories that an offline fold makes ({proof.tied} tied, {proof.absent} absent), "
            f"and scores within {proof.score_difference:.1g} of theirs"
        )

    def _switch(self) -> str:
        plan = self.journal.plan
        record, _ = self._old.record()
        if record.generation != plan.run_generation:
            raise JobError(
                f"{self._job_dir}: the job was rolled back since the migration began (generation {plan.run_generation}, now "
                f"{record.generation}), and the second one was not: `{plan.command} --give-up`, and begin again"
            )
        self._until_caught_up()
        move(Path(plan.store), Pair(plan.new_store, Path(plan.bundle)))
        return f"readers have gone over to {words(plan.new_store)}, read with bundle {plan.version}"

    def _retire(self) -> str:
        plan = self.journal.plan
        evidence = Path(plan.into) / "retired"
        evidence.mkdir(exist_ok=True)
        made = self._old.stop(evidence) if self._old.is_alive() else None
        if made is None:
            # Perhaps it was made by one who was killed before they could say so.
            made = max((str(path.parent) for path in evidence.glob("savepoint-*/_metadata")), default=None)
        self._note(evidence=made)
        registry, now_ms = Registry(self._settings.registry.url), time.time_ns() // 1_000_000
        registry.note_promoted(plan.version, now_ms)
        if registry.find(plan.from_version) is not None:
            registry.note_retired(plan.from_version, now_ms)
        kept = f"its last state is kept in {made}" if made else "it was not running any more"
        return f"the job of bundle {plan.from_version} is retired; {kept}"

    def _until_caught_up(self, goal: Mapping[int, int] | None = None) -> None:
        """Wait until all events up to the goal (None: those there are now) are in the second store."""
        goal = self._ends() if goal is None else goal
        plan = self.journal.plan
        job = ClusterJob(self._second, JobFolder(plan.job_dir, make=False), url=self._url)

        def left() -> int:
            if not job.is_alive():
                raise JobError(
                    f"the second job has ended: `uic --config {plan.config} job status` says why, `... job resume` starts it "
                    f"again; then `{plan.command}` goes on here"
                )
            at = covered(job, self._log) or plan.begins
            return sum(max(0, end - at.get(partition, 0)) for partition, end in goal.items())

        self._waiting.until_none(left, "events that the second job has not read", "`uic job status` shows how it is")
        store = StoreOnDisk(plan.new_store)
        try:
            await_applied([store], KafkaTopics(self._second).published(), self._waiting)
        except JobError as error:
            raise JobError(f"{error}: {follow_command(self.journal)}") from error
        finally:
            store.close()

    def _ends(self) -> Mapping[int, int]:
        return {partition: reach.end for partition, reach in self._log.reach().items()}


def follow_command(journal: Journal) -> str:
    """What writes the second store."""
    return f"uic --config {journal.plan.config} store follow --bundle {journal.plan.bundle}"
