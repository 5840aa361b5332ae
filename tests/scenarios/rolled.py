"""A job with a follower on a real cluster, days laid into its log, and what an offline fold makes of them: to roll back.

Days are laid into the log by events with times of their own: while they are sent, the topic takes the sender's timestamps.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import yaml
from confluent_kafka import Producer
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

from jobs import topics
from jobs.chaos.world import covered_offsets, end_offsets
from jobs.cluster.rest import Cluster
from jobs.daily.midnights import Midnights
from jobs.daily.opening import open_midnights
from jobs.dev.stack import DevStack
from jobs.folder import JobFolder
from jobs.kafka import client_config
from jobs.record import JobRecord
from jobs.rollback.world import StoreOnDisk
from jobs.settings import ClusterSettings, DaysSettings, Settings, StoreSettings, StreamSettings
from jobs.submit import Submission, submit
from uic.bundle import Bundle
from uic.clock import Days
from uic.codec import Codec
from uic.errors import UicError
from uic.event import BehaviourEvent, to_json
from uic.fold import fold
from uic.memory import UserMemory
from uic.runtime import OnnxStep
from uic.update import Rules

WAIT_S = 120.0


@dataclass
class World:
    """A job with its follower, in a zone in which it is about noon, so that no real midnight comes by."""

    root: Path
    settings: Settings
    bundle: Path
    days: Days
    today: date
    name: str
    plan: str
    users: Collection[str]
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
            bundle=self.bundle, job_dir=self.settings.stream.job_dir, url=self.settings.cluster.url, name=self.name,
            plan=self.plan, parallelism=2, backend="hashmap", checkpoint_interval_s=0.5,
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
        kafka, record = self.settings.kafka, JobFolder(self.settings.stream.job_dir, make=False).record()
        assert record is not None
        assert record.cluster is not None
        cluster, job, ends = Cluster(record.cluster.url), record.cluster.job_id, end_offsets(kafka, kafka.events)
        wait(lambda: covered_offsets(cluster, job, kafka) == ends, "a checkpoint with all events")
        self.settle_store()

    def settle_store(self) -> None:
        """Wait until the store has applied what is published."""
        kafka = self.settings.kafka
        wait(self._has_store, "the store")
        store = StoreOnDisk(self.settings.store.path)
        try:
            ends = {each: end for each, end in end_offsets(kafka, kafka.snapshots).items() if end}
            wait(lambda: {each: store.applied().get(each) for each in ends} == ends, "the follower")
        finally:
            store.close()

    def _has_store(self) -> bool:
        with suppress(UicError):  # the follower is making it
            StoreOnDisk(self.settings.store.path).close()
            return True
        return False

    def midnights(self, now_ms: int | None = None) -> Midnights:
        """Daily checkpoints, by a clock that may be set."""
        found = open_midnights(self.settings)
        return found if now_ms is None else replace(found, now_ms=lambda: now_ms)

    def read(self, as_of: date | None = None) -> dict[str, bytes | None]:
        """What another process reads of all users."""
        store = StoreOnDisk(self.settings.store.path)
        try:
            return {user: store.read(user, as_of) for user in self.users}
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
            if job.name == self.name and not job.is_over:
                cluster.cancel(job.id)


@contextmanager
def opened_world(
    stack: DevStack, bundle: Path, root: Path, *, name: str, users: Collection[str], plan: str = "batched"
) -> Iterator[World]:
    """A world with topics of its own, whose names begin with `name`; closed in the end."""
    # In POSIX's names the sign is the other way round: Etc/GMT-3 is three hours ahead.
    ahead = 12 - datetime.now(UTC).hour
    days = Days(f"Etc/GMT{-ahead:+d}" if ahead else "UTC")
    names = {each: f"{name}-{each}" for each in ("events", "snapshots", "late", "dead", "group", "control")}
    kafka = stack.kafka_settings().model_copy(update={**names, "partitions": 2})
    settings = {
        "kafka": kafka.model_dump(mode="json", exclude={"password"}, exclude_none=True),
        "stream": {"job_dir": str(root / "job"), "metrics_port": 0},
        "days": {"zone": days.zone},
        "store": {"path": str(root / "store")},
        "cluster": {"url": stack.url},
        "daily": {"clock_margin_s": 1},
    }
    (root / "uic.yaml").write_text(yaml.safe_dump(settings))
    typed = Settings(
        kafka=kafka,
        stream=StreamSettings(job_dir=root / "job", metrics_port=0),
        days=DaysSettings(zone=days.zone),
        store=StoreSettings(path=root / "store"),
        cluster=ClusterSettings(url=stack.url),
    )
    made = World(root, typed, bundle, days, days.day_of(now_ms()), name, plan, users)
    try:
        yield made
    finally:
        made.close()


def visit(user: int | str, time_ms: int, number: int) -> BehaviourEvent:
    name = user if isinstance(user, str) else f"u{user}"
    return BehaviourEvent(
        user_id=name, item_id=1 + number % 200, category_id=1 + number % 10, behaviour="click", time_ms=time_ms,
        event_id=f"{name}-{time_ms}-{number}",
    )  # fmt: skip


def facts(memory: UserMemory) -> tuple[Any, ...]:
    """All of a memory but when the log took in its last event."""
    return memory.sequence, memory.last_time_ms, memory.state_F.tobytes(), memory.fingerprints


def contents(codec: Codec, read: dict[str, bytes | None]) -> dict[str, tuple[Any, ...]]:
    return {user: facts(codec.decode(blob)) for user, blob in read.items() if blob is not None}


def folded(bundle: Bundle, events: list[BehaviourEvent]) -> dict[str, tuple[Any, ...]]:
    memories = fold(bundle.updater(OnnxStep(bundle), Rules()), sorted(events, key=lambda event: event.time_ms)).memories
    return {user: facts(memory) for user, memory in memories.items()}


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def wait(is_so: Callable[[], bool], what: str) -> None:
    give_up_at = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < give_up_at, f"{what} did not come"
        time.sleep(0.05)
