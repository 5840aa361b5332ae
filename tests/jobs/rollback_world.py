"""What a rollback meets, in memory: a cluster, a follower and a log of a few events; killed in any effect."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from midnight_world import savepoint_of

from jobs.daily.catalogue import Catalogue
from jobs.daily.cut import LogInMemory
from jobs.daily.entry import Entry
from jobs.daily.midnights import Midnights
from jobs.daily.offsets import Split
from jobs.journals import Waiting
from jobs.letter_topics import TopicLetter
from jobs.record import ClusterRecord, JobRecord
from jobs.rollback.journal import Folder, Journal, Offsets, Plan
from jobs.rollback.plan import Asked, Ground, make_plan
from jobs.rollback.proof import Report
from jobs.rollback.steps import Rollback
from uic.bundle import Bundle
from uic.clock import Days
from uic.quarantine import Quarantine
from uic.store.contract import InMemoryStore, Source, StoreIdentity

DAYS = Days("UTC")
DAY = date(2026, 1, 10)
CUT_MS = DAYS.begins_ms(DAY)
TOPIC = "events"
FARM = "farm"
# (user, ms from the cut), partition by partition: five before the checkpoint, then some up to the cut, then the day itself.
EVENTS = {
    0: [("a", -9000), ("b", -8000), ("a", -7000), ("c", -500), ("a", -400), (FARM, 0), ("a", 100), (FARM, 200), ("d", 300)],
    1: [("x", -9000), ("y", -8000), ("x", -300), ("x", 50), (FARM + "2", 60)],
}
BARRIER = {0: 3, 1: 2}
USERS = ["a", "b", "c", "d", "x", "y", FARM, FARM + "2"]


class Killed(BaseException):
    """kill -9: nobody gets to clean up."""


@dataclass
class Killer:
    """Strikes at the given tick, the first time."""

    at: int | None = None
    ticks: int = 0

    def tick(self) -> None:
        self.ticks += 1
        if self.ticks == self.at:
            raise Killed

    def over(self, thing: Any, *names: str) -> Any:
        """The thing, with these of its methods struck before or after."""
        return _Mortal(thing, self, names)


class _Mortal:
    def __init__(self, thing: Any, killer: Killer, names: Iterable[str]) -> None:
        self._thing, self._killer, self._names = thing, killer, names

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._thing, name)
        if name not in self._names:
            return found

        def mortal(*arguments: Any, **named: Any) -> Any:
            self._killer.tick()
            answer = found(*arguments, **named)
            self._killer.tick()
            return answer

        return mortal


class Followed(InMemoryStore):
    """A store that applies everything at once."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.identity = StoreIdentity(**bundle.identity._asdict())
        self.source: Source | None = Source("cluster", "snapshots", "id", 2)
        self.other_zone: str | None = None
        self.written = 0

    @property
    def zone(self) -> str:
        return self.other_zone or super().zone

    def applied(self) -> Offsets:
        return {0: self.written}


@dataclass
class Cluster:
    """A job that counts each user's events, its folder, its topics; what a rollback needs of all of them."""

    root: Path
    bundle: Bundle
    store: Followed
    log: LogInMemory
    killer: Killer = field(default_factory=Killer)
    alive: set[str] = field(default_factory=set)
    state: dict[str, tuple[int, int]] = field(default_factory=dict)
    read: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 0})
    saved: dict[int, int] = field(default_factory=dict)
    now: JobRecord = field(init=False)

    def __post_init__(self) -> None:
        facts = {**self.bundle.identity._asdict(), "bundle_version": 1, "events": TOPIC, "store": "s", "backend": "hashmap"}
        on = ClusterRecord(
            url="http://127.0.0.1:9", job_id="first", name="uic", plan="batched", parallelism=1, bootstrap="127.0.0.1:9",
            topic=TOPIC, partitions=2, wheel="w.whl",
        )  # fmt: skip
        self.now = JobRecord(run=1, bundle=str(self.bundle.path), cluster=on, **facts)
        self.alive.add("first")

    def record(self) -> tuple[JobRecord, ClusterRecord]:
        assert self.now.cluster is not None
        return self.now, self.now.cluster

    def apply(self, until: Mapping[int, int], *, silent_before_ms: int = 0, dropped: Quarantine | None = None) -> None:
        """Read on up to these offsets, in the order of log time."""
        silent: set[str] = set()
        for partition, offset in sorted(
            ((p, at) for p, end in until.items() for at in range(self.read[p], end)),
            key=lambda each: EVENTS[each[0]][each[1]][1],
        ):
            user, ms = EVENTS[partition][offset]
            log_time_ms = CUT_MS + ms
            if log_time_ms >= silent_before_ms:
                self.publish(silent)
                silent = set()
            if dropped is not None and log_time_ms >= dropped.from_ms and user in dropped.users:
                continue
            self.state[user] = self.state.get(user, (0, 0))[0] + 1, log_time_ms
            if log_time_ms < silent_before_ms:
                silent.add(user)
            else:
                self.publish([user])
        self.publish(silent)
        self.read = {**self.read, **until}

    def publish(self, users: Iterable[str]) -> None:
        for user in users:
            sequence, log_time_ms = self.state[user]
            memory = replace(self.bundle.initial, sequence=sequence, log_time_ms=log_time_ms, generation=self.now.generation)
            self.store.write(user, self.bundle.codec.encode(memory))
            self.store.written += 1

    def savepoint(self, target: Path) -> Path:
        folder = target / "savepoint-1"
        folder.mkdir()
        self.saved = dict(self.read)
        return savepoint_of(folder, [("inline", [Split(TOPIC, each, at) for each, at in self.read.items()])])

    # What a rollback asks of the job.

    def is_alive(self) -> bool:
        return self.record()[1].job_id in self.alive

    def stop(self, evidence: Path) -> str | None:
        (evidence / "savepoint-1").mkdir(exist_ok=True)
        (evidence / "savepoint-1" / "_metadata").touch()
        self.killer.tick()
        self.alive.discard(self.record()[1].job_id)
        return str(evidence / "savepoint-1")

    def start(self, plan: Plan, quarantine: str | None, job_id: str) -> None:
        self.alive.add(job_id)
        self.killer.tick()
        rules = None if quarantine is None else Quarantine.read(Path(quarantine))
        on = replace(self.record()[1], job_id=job_id)
        self.now = replace(self.now, run=self.now.run + 1, generation=plan.generation, cluster=on)
        self.state = counted(EVENTS, plan.offsets)
        self.read = dict(plan.offsets)
        self.apply({each: len(events) for each, events in EVENTS.items()}, silent_before_ms=plan.cut_ms, dropped=rules)

    def cancel(self, job_id: str) -> None:
        self.alive.discard(job_id)

    def covered(self) -> Offsets | None:
        return self.read

    def watermark_ms(self) -> int | None:
        return CUT_MS + 300

    def settled(self) -> None:
        self.now = replace(self.now, silent_before_ms=0)

    # And of the topics.

    def published(self) -> Offsets:
        return {0: self.store.written}

    def letters_end(self) -> Mapping[str, Offsets]:
        return {"dead": {0: 0}, "late": {0: 0}}

    def letters(self, since: Mapping[str, Offsets]) -> Iterable[TopicLetter]:
        return ()


def counted(events: Mapping[int, list[tuple[str, int]]], until: Mapping[int, int]) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for partition, each in events.items():
        for user, ms in each[: until[partition]]:
            found[user] = found.get(user, (0, 0))[0] + 1, CUT_MS + ms
    return found


class World:
    """A job that has read a day and a half, a checkpoint of before the midnight between, and a polluted one of after."""

    def __init__(self, root: Path, bundle: Bundle) -> None:
        self.root = root
        self.store = Followed(bundle)
        self.log = LogInMemory({each: [CUT_MS + ms for _, ms in events] for each, events in EVENTS.items()})
        self.cluster = Cluster(root, bundle, self.store, self.log)
        self.folder = Folder(root / "job")
        self.catalogue = Catalogue(root / "daily")
        self.cluster.apply(BARRIER)
        self.entry = self.take(CUT_MS - 1000)
        self.cluster.apply({0: 5, 1: 3})
        self.as_of_cut = {user: self.store.read(user) for user in USERS}
        self.cluster.apply({each: len(events) for each, events in EVENTS.items()})
        self.spoiled = self.take(CUT_MS + 400)
        self.midnights(CUT_MS + 400).seal()

    def midnights(self, now_ms: int) -> Midnights:
        return Midnights(
            catalogue=self.catalogue, job=self.cluster, log=self.log, days=DAYS, margin_ms=100, now_ms=lambda: now_ms
        )

    def take(self, now_ms: int) -> Entry:
        return self.midnights(now_ms).take()

    def ground(self) -> Ground:
        return Ground(
            job=self.cluster, catalogue=self.catalogue, log=self.log, stores=[self.store], store_paths=[self.root / "store"],
            topic="snapshots", days=DAYS, now_ms=CUT_MS + 500, margin_ms=100,
        )  # fmt: skip

    def plan(self, **asked: Any) -> tuple[Plan, Quarantine]:
        return make_plan(
            Asked(**{"words": ("--to", str(DAY)), "day": DAY, "users": frozenset({FARM, FARM + "2"}), **asked}), self.ground()
        )

    def begin(self, **asked: Any) -> Journal:
        plan, quarantine = self.plan(**asked)
        if not quarantine.is_empty:
            self.folder.put(plan.generation, "quarantine.json", quarantine.to_json())
        self.folder.write(Journal(plan=plan))
        return Journal(plan=plan)

    def run(self, killer: Killer) -> None:
        """Go on with the rollback that is unfinished."""
        journal = self.folder.unfinished()
        assert journal is not None
        self.cluster.killer = killer
        Rollback(
            journal,
            killer.over(self.folder, "write", "put"),
            job=killer.over(self.cluster, "stop", "start", "cancel", "settled"),
            topics=self.cluster,
            log=self.log,
            catalogue=killer.over(self.catalogue, "pin", "unpin", "change"),
            stores=[killer.over(self.store, "begin_generation")],
            save=killer.over(self, "take_now").take_now,
            prove=report,
            waiting=Waiting(patience_s=0.0, poll_s=0.0),
        ).run()

    def take_now(self) -> Entry:
        return self.take(CUT_MS + 700)

    def sequences(self) -> dict[str, int]:
        found = {user: self.store.read(user) for user in USERS}
        return {user: self.cluster.bundle.codec.decode(blob).sequence for user, blob in found.items() if blob is not None}


def report(journal: Journal) -> Report:
    plan = journal.plan
    return Report(
        day=str(plan.day), generation=plan.generation, entry=plan.entry, evidence=journal.evidence, fresh=journal.fresh,
        silent=plan.silent, replayed=journal.replayed, left={}, absent=0, verified=0, tied=0, differing={},
    )  # fmt: skip
