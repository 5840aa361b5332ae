"""`uic rollback` on a real cluster: polluted memories go, whoever writes on in the old generation, and whoever kills it.

Days are laid into the log by events with times of their own: while they are sent, the topic takes the sender's timestamps.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from confluent_kafka import Producer
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

from jobs import topics
from jobs.chaos.world import committed_offsets, end_offsets
from jobs.checkpoints import form_of, memories_of
from jobs.cluster.rest import Cluster
from jobs.daily.midnights import Midnights
from jobs.daily.opening import open_midnights
from jobs.dev.stack import DevStack
from jobs.folder import JobFolder
from jobs.kafka import client_config
from jobs.record import JobRecord
from jobs.rollback.world import ClusterJob, StoreOnDisk
from jobs.settings import ClusterSettings, DaysSettings, Settings, StoreSettings, StreamSettings
from jobs.submit import Submission, submit
from uic.bundle import Bundle
from uic.clock import Days
from uic.codec import Codec
from uic.errors import JobError
from uic.event import BehaviourEvent, to_json
from uic.fold import fold
from uic.memory import UserMemory
from uic.runtime import OnnxStep
from uic.update import Rules

WAIT_S = 120.0
USERS = 40
FARM = [f"farm{number}" for number in range(5)]


@dataclass
class World:
    """A job with its follower, in a zone in which it is about noon, so that no real midnight comes by."""

    root: Path
    settings: Settings
    bundle: Path
    days: Days
    today: date
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def cut_ms(self) -> int:
        return self.days.begins_ms(self.today)

    @property
    def config(self) -> Path:
        return self.root / "uic.yaml"

    @property
    def environment(self) -> dict[str, str]:
        secret = self.settings.kafka.password
        assert secret is not None
        return {**os.environ, "UIC__KAFKA__PASSWORD": secret.get_secret_value()}

    def uic(self, *words: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "jobs.cli", "--config", self.config, *words]
        with (self.root / f"{words[0]}.log").open("ab") as log:
            process = subprocess.Popen([str(word) for word in command], env=self.environment, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def said(self, command: str) -> str:
        return (self.root / f"{command}.log").read_text()

    def start(self) -> JobRecord:
        topics.create(self.settings.kafka)
        record = self.submit(resumes=False)
        self.uic("store", "follow", "--bundle", self.bundle, "--store", self.settings.store.path)
        return record

    def submit(self, *, resumes: bool) -> JobRecord:
        submission = Submission(
            bundle=self.bundle, job_dir=self.settings.stream.job_dir, url=self.settings.cluster.url, name="rolled",
            plan="batched", parallelism=2, backend="hashmap", checkpoint_interval_s=0.5,
        )  # fmt: skip
        return submit(self.settings, submission, resumes=resumes)

    def take_times_from(self, whom: str) -> None:
        """Whose clock stamps the events from now on: CreateTime is the sender's, LogAppendTime the log's."""
        admin, topic = topics.connect(self.settings.kafka), self.settings.kafka.events
        entry = ConfigEntry("message.timestamp.type", whom, incremental_operation=AlterConfigOpType.SET)
        change = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        admin.incremental_alter_configs([change])[change].result(30)
        wait(lambda: topics.describe(self.settings.kafka)[topic].timestamp_type == whom, "the topic's new setting")

    def send(self, events: list[BehaviourEvent]) -> None:
        """Events whose log time is their own, as long as times are taken from the sender."""
        producer = Producer({**client_config(self.settings.kafka), "partitioner": "murmur2_random", "enable.idempotence": True})
        for event in events:
            producer.produce(self.settings.kafka.events, to_json(event), event.user_id, timestamp=event.time_ms)
        assert producer.flush(30) == 0

    def settle(self) -> None:
        """Wait until a checkpoint holds all events, and the store what comes of them."""
        kafka = self.settings.kafka
        wait(lambda: committed_offsets(kafka) == end_offsets(kafka, kafka.events), "a checkpoint with all events")
        self.settle_store()

    def settle_store(self) -> None:
        """Wait until the store has applied what is published."""
        kafka = self.settings.kafka
        store = StoreOnDisk(self.settings.store.path)
        try:
            ends = {each: end for each, end in end_offsets(kafka, kafka.snapshots).items() if end}
            wait(lambda: {each: store.applied().get(each) for each in ends} == ends, "the follower")
        finally:
            store.close()

    def midnights(self, now_ms: int | None = None) -> Midnights:
        """Daily checkpoints, by a clock that may be set."""
        found = open_midnights(self.settings)
        return found if now_ms is None else replace(found, now_ms=lambda: now_ms)

    def read(self, as_of: date | None = None) -> dict[str, bytes | None]:
        """What another process reads of all users."""
        store = StoreOnDisk(self.settings.store.path)
        try:
            return {user: store.read(user, as_of) for user in [*(f"u{number}" for number in range(USERS)), "new", *FARM]}
        finally:
            store.close()

    def publish(self, snapshots: dict[str, bytes]) -> None:
        """What a job that nobody could stop goes on to publish."""
        producer = Producer({**client_config(self.settings.kafka), "partitioner": "murmur2_random"})
        for user, blob in snapshots.items():
            producer.produce(self.settings.kafka.snapshots, blob, user)
        assert producer.flush(30) == 0

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        cluster = Cluster(self.settings.cluster.url)
        for job in cluster.jobs():
            if job.name == "rolled" and not job.is_over:
                cluster.cancel(job.id)


@pytest.fixture
def world(stack: DevStack, toy_bundle: Path, tmp_path: Path) -> Iterator[World]:
    # In POSIX's names the sign is the other way round: Etc/GMT-3 is three hours ahead.
    ahead = 12 - datetime.now(UTC).hour
    days = Days(f"Etc/GMT{-ahead:+d}" if ahead else "UTC")
    names = {name: f"rollback-{name}" for name in ("events", "snapshots", "late", "dead", "group", "control")}
    kafka = stack.kafka_settings().model_copy(update={**names, "partitions": 2})
    settings = {
        "kafka": kafka.model_dump(mode="json", exclude={"password"}, exclude_none=True),
        "stream": {"job_dir": str(tmp_path / "job"), "metrics_port": 0},
        "days": {"zone": days.zone},
        "store": {"path": str(tmp_path / "store")},
        "cluster": {"url": stack.url},
        "daily": {"clock_margin_s": 1},
    }
    (tmp_path / "uic.yaml").write_text(yaml.safe_dump(settings))
    typed = Settings(
        kafka=kafka,
        stream=StreamSettings(job_dir=tmp_path / "job", metrics_port=0),
        days=DaysSettings(zone=days.zone),
        store=StoreSettings(path=tmp_path / "store"),
        cluster=ClusterSettings(url=stack.url),
    )
    made = World(tmp_path, typed, toy_bundle, days, days.day_of(time.time_ns() // 1_000_000))
    try:
        yield made
    finally:
        made.close()


def test_a_rollback_is_a_cut_for_every_reader_and_ends_in_the_fold_without_what_was_dropped(world: World) -> None:
    bundle = Bundle.open(world.bundle)
    cut_ms = world.cut_ms
    world.start()
    world.take_times_from("CreateTime")
    before = [visit(number % USERS, cut_ms - 3_600_000 + number, number) for number in range(300)]
    world.send(before)
    world.settle()
    entry = world.midnights(cut_ms - 120_000).take()
    # The checkpoint of the day has not seen these, and they are before its cut.
    between = [visit(number % 20, cut_ms - 60_000 + number, number) for number in range(60)]
    after = [visit(number % 30, cut_ms + number, number) for number in range(200)] + [visit("new", cut_ms + 500, 1)]
    polluted = [visit(user, cut_ms + 300 + number, number) for number, user in enumerate([*FARM, "u3", "u39"] * 3)]
    world.send(between + sorted(after + polluted, key=lambda event: event.time_ms))
    world.settle()
    (sealed,) = world.midnights().seal().sealed
    assert (sealed.id, sealed.day, sealed.is_good) == (entry.id, world.today, True)
    assert sealed.cut is not None
    assert sum(sealed.cut.values()) - sum(sealed.offsets.values()) == len(between)
    spoiled = world.midnights().take()
    world.take_times_from("LogAppendTime")

    as_of_cut = world.read(world.today)
    assert contents(bundle.codec, as_of_cut) == folded(bundle, before + between)
    zombie = {user: later(bundle.codec, blob) for user, blob in world.read().items() if blob is not None}
    assert contents(bundle.codec, dict(zombie)).keys() > contents(bundle.codec, as_of_cut).keys()

    (world.root / "farm.txt").write_text("\n".join([*FARM, "u3", "u39"]))
    words = ("rollback", "--to", world.today, "--drop-users", world.root / "farm.txt")
    journal = world.root / "job" / "rollbacks" / "generation-000001" / "journal.json"
    assert world.uic(*words, "--dry-run").wait(WAIT_S) == 0, world.said("rollback")
    assert not journal.exists()
    first = world.uic(*words)
    wait(lambda: "fence" in done(journal) or first.poll() is not None, "the fence")
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL, world.said("rollback")
    assert "start" not in done(journal)
    assert world.uic(*words, "--drop-source", "app").wait(WAIT_S) == 2
    assert "is unfinished" in world.said("rollback")
    with pytest.raises(JobError, match=r"a rollback to .* has begun"):
        world.submit(resumes=True)
    assert world.read() == as_of_cut
    world.publish(zombie)
    world.settle_store()
    assert world.read() == as_of_cut

    live = [visit(number % 25, now_ms(), number) for number in range(50)]
    world.send(live)
    again = world.uic(*words)
    wait(lambda: "start" in done(journal) or again.poll() is not None, "the start")
    world.publish(zombie)
    assert again.wait(WAIT_S) == 0, world.said("rollback")
    world.publish(zombie)
    world.settle()

    dropped = {*FARM, "u3", "u39"}
    kept = [event for event in [*before, *between, *after, *live] if event.time_ms < cut_ms or event.user_id not in dropped]
    assert contents(bundle.codec, world.read()) == folded(bundle, kept)
    report = json.loads((journal.parent / "report.json").read_text())
    lost = [event for event in [*after, *polluted] if event.user_id in dropped]
    assert report["left"] == {"quarantined_user": len(lost)}
    assert report["holds"]
    assert report["absent"] == len(FARM)
    assert report["silent"] == len(between)
    assert report["verified"] > USERS // 2
    assert Path(report["evidence"], "_metadata").exists()
    catalogue = world.midnights().catalogue
    assert catalogue.find(spoiled.id).tainted is not None
    assert not catalogue.find(entry.id).pins
    fresh = catalogue.find(report["fresh"])
    assert (fresh.tainted, fresh.generation) == (None, 1)
    form = form_of(world.bundle)
    assert form is not None
    _, on = ClusterJob(world.settings, JobFolder(world.root / "job", make=False)).record()
    savepoint = Cluster(on.url).stop(on.job_id, world.root)
    in_state = sorted(facts(bundle.codec.decode(blob)) for blob in memories_of(savepoint, form))
    assert in_state == sorted(folded(bundle, kept).values())


def visit(user: int | str, time_ms: int, number: int) -> BehaviourEvent:
    name = user if isinstance(user, str) else f"u{user}"
    return BehaviourEvent(
        user_id=name, item_id=1 + number % 200, category_id=1 + number % 10, behaviour="click", time_ms=time_ms,
        event_id=f"{name}-{time_ms}-{number}",
    )  # fmt: skip


def later(codec: Codec, blob: bytes) -> bytes:
    """A memory as a job of the old generation would publish it a while later."""
    memory = codec.decode(blob)
    return codec.encode(replace(memory, sequence=memory.sequence + 1000, log_time_ms=now_ms()))


def facts(memory: UserMemory) -> tuple[Any, ...]:
    """All of a memory but when the log took in its last event."""
    return memory.sequence, memory.last_time_ms, memory.state_F.tobytes(), memory.fingerprints


def contents(codec: Codec, read: dict[str, bytes | None]) -> dict[str, tuple[Any, ...]]:
    return {user: facts(codec.decode(blob)) for user, blob in read.items() if blob is not None}


def folded(bundle: Bundle, events: list[BehaviourEvent]) -> dict[str, tuple[Any, ...]]:
    memories = fold(bundle.updater(OnnxStep(bundle), Rules()), sorted(events, key=lambda event: event.time_ms)).memories
    return {user: facts(memory) for user, memory in memories.items()}


def done(journal: Path) -> list[str]:
    try:
        return list(json.loads(journal.read_text())["done"])
    except FileNotFoundError:
        return []


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def wait(is_so: Callable[[], bool], what: str) -> None:
    give_up_at = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < give_up_at, f"{what} did not come"
        time.sleep(0.02)
