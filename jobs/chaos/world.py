"""One job under fire: a stack, topics of its own, a load that goes on in the background, and the proof at the end."""

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jobs import topics
from jobs.chaos.proof import Proof, prove
from jobs.cluster.rest import Cluster
from jobs.dev.flink import resource_id
from jobs.dev.node import Node
from jobs.dev.stack import DevStack
from jobs.produce import produce
from jobs.record import JobRecord
from jobs.settings import KafkaSettings, Settings, StreamSettings
from jobs.submit import Submission, submit
from uic.bundle import Bundle
from uic.errors import EnvironmentProblem, JobError
from uic.synthetic.block import Ids
from uic.synthetic.generate import generate
from uic.synthetic.spec import SyntheticSpec
from uic.synthetic.tally import Tally

SETTLE_S = 300.0
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is run: the job's shape and the load. `rate`: events a second, None for as fast as it goes."""

    fault: str
    plan: str
    backend: str
    spec: SyntheticSpec
    rate: float | None
    parallelism: int = 1
    checkpoint_interval_s: float = 1.0
    seed: int = 0
    idle_after_s: int | None = None
    small_disk: bool = False
    flink: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Also of its topics, folder and job on the cluster."""
        return f"{self.fault}-{self.plan}-{self.backend}"


class World:
    """A running job with its load; faults act on `stack`, `job` and `follower`."""

    def __init__(self, stack: DevStack, root: Path, bundle: Path, case: Case, say: Say) -> None:
        self.stack = stack
        self.case = case
        self.say = say
        self.rng = random.Random(case.seed)
        self.cluster = Cluster(stack.url)
        self.root = root / case.name
        self.bundle = bundle
        names = {name: f"{case.name}-{name}" for name in ("events", "snapshots", "late", "dead", "group")}
        self.kafka: KafkaSettings = stack.kafka_settings().model_copy(update=names)
        self.tally = Tally()
        opened = Bundle.open(bundle)
        self._ids = Ids(opened.items.ids[: case.spec.items], opened.categories.ids[: case.spec.categories])
        self._load = threading.Thread(target=self._send, name="load", daemon=True)
        self._load_error: BaseException | None = None
        self._follower: subprocess.Popen[bytes] | None = None
        self.sent = 0
        self.record: JobRecord | None = None

    @property
    def job_id(self) -> str:
        assert self.record is not None
        assert self.record.cluster is not None
        return self.record.cluster.job_id

    @property
    def job_dir(self) -> Path:
        return self.root / "job"

    @property
    def store(self) -> Path:
        return self.root / "store"

    def start(self) -> None:
        """Topics, job, follower, and the load that goes on while faults happen."""
        self.root.mkdir(parents=True, exist_ok=True)
        if self.case.small_disk:
            self.job_dir.mkdir()
            mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=320m", "tmpfs", self.job_dir], check=False)
            if mounted.returncode != 0:
                raise EnvironmentProblem(f"{self.job_dir}: a small disk cannot be mounted here; only root may")
        topics.create(self.kafka)
        self.submit(resumes=False)
        self.start_follower()
        self._load.start()

    def submit(self, *, resumes: bool, **changes: object) -> None:
        """Start the job, or go on from its newest intact checkpoint; `changes` are fields of `Submission`."""
        case = self.case
        options = {
            "bundle": self.bundle,
            "job_dir": self.job_dir,
            "url": self.stack.url,
            "name": case.name,
            "plan": case.plan,
            "parallelism": case.parallelism,
            "backend": case.backend,
            "checkpoint_interval_s": case.checkpoint_interval_s,
            "flink": dict(case.flink),
            **changes,
        }
        stream = StreamSettings(lateness_s=case.spec.lateness_ms // 1000, idle_after_s=case.idle_after_s, metrics_port=0)
        settings = Settings(kafka=self.kafka, stream=stream)
        self.record = submit(settings, Submission(**options), resumes=resumes)  # type: ignore[arg-type]  # by name

    def stop_with_savepoint(self) -> Path:
        """`uic job stop`: the savepoint, with the job ended."""
        assert self.record is not None
        give_up_at = time.monotonic() + SETTLE_S
        while True:
            # After a fault the job may still be on its way back, and then no savepoint can be taken.
            self.cluster.wait_until_running(self.job_id, SETTLE_S)
            try:
                return self.cluster.stop(self.job_id, self.job_dir / "checkpoints" / f"run-{self.record.run:06d}")
            except JobError:
                # A worker killed just now is not known to be dead, and is asked for its part of the savepoint.
                if time.monotonic() > give_up_at:
                    raise
                time.sleep(1)

    def worker(self) -> Node:
        """The TaskManager on which the job's update operator runs; waits until there is one."""
        give_up_at = time.monotonic() + SETTLE_S
        while True:
            # The JobManager may still name one that was killed and has a successor: it is asked again.
            named = set(self.cluster.workers(self.job_id))
            for node in self.stack.taskmanagers:
                if resource_id(node) in named and node.is_running():
                    return node
            if time.monotonic() > give_up_at:
                raise JobError(f"{self.case.name}: the job runs on no TaskManager after {SETTLE_S:.0f} s")
            time.sleep(0.1)

    def runs_without(self, node: Node) -> bool:
        """Whether the job runs, and nothing of it on this TaskManager."""
        workers = self.cluster.workers(self.job_id)
        return bool(workers) and resource_id(node) not in workers

    def wait_for_checkpoint(self) -> None:
        """Wait for one more completed checkpoint."""
        before = self.cluster.checkpoints(self.job_id).completed
        self.wait(lambda: self.cluster.checkpoints(self.job_id).completed != before, "a checkpoint")

    def wait_until_sent(self, share: float) -> None:
        """Wait until this share of the load has been handed to Kafka."""
        assert self.case.spec.events is not None
        wanted = share * self.case.spec.events
        self.wait(lambda: self.sent >= wanted or not self._load.is_alive(), f"{share:.0%} of the load")

    def wait(self, is_so: Callable[[], bool], what: str, within_s: float = SETTLE_S, *, every_s: float = 0.2) -> None:
        """Poll until it is so; raises JobError after a while, or the load's own error."""
        give_up_at = time.monotonic() + within_s
        while not is_so():
            if self._load_error is not None:
                raise self._load_error
            if time.monotonic() > give_up_at:
                raise JobError(f"{self.case.name}: {what} did not come within {within_s:.0f} s")
            time.sleep(every_s)

    def start_follower(self) -> None:
        """`uic store follow`, in a process of its own that can be killed."""
        command = [sys.executable, "-m", "jobs.cli", "store", "follow"]
        command += ["--bundle", str(self.bundle), "--store", str(self.store)]
        with (self.root / "follower.log").open("ab") as log:
            self._follower = subprocess.Popen(command, env=environment_of(self.kafka), stdout=log, stderr=log)

    def kill_follower(self) -> None:
        if self._follower is not None:
            self._follower.kill()
            self._follower.wait()
            self._follower = None

    def settle(self) -> None:
        """Wait until the whole load is in Kafka and every event of it lies within a completed checkpoint."""
        self._load.join()
        if self._load_error is not None:
            raise self._load_error
        self.cover()

    def cover(self) -> None:
        """Wait until every event that is in Kafka lies within a completed checkpoint."""
        ends = end_offsets(self.kafka, self.kafka.events)
        what = f"a checkpoint that holds all of {sum(ends.values()):,} events"
        self.wait(lambda: covered_offsets(self.cluster, self.job_id, self.kafka) == ends, what)

    def prove(self) -> Proof:
        """Stop the job with a savepoint and hold store, state, sequences and letters against what must be."""
        savepoint = self.stop_with_savepoint()
        self.kill_follower()
        return prove(self.kafka, self.bundle, self.store, savepoint, self.tally, self.case.spec, environment_of(self.kafka))

    def close(self) -> None:
        """End whatever still runs."""
        self.kill_follower()
        if self.record is not None and self.cluster.is_alive(self.job_id):
            self.cluster.cancel(self.job_id)
        if self.case.small_disk:
            subprocess.run(["umount", "--lazy", self.job_dir], check=False)

    def _send(self) -> None:
        try:
            produce(self.kafka, self._records(), rate=self.case.rate)
        except BaseException as error:
            self._load_error = error

    def _records(self) -> Iterator[tuple[bytes | None, bytes]]:
        for block in generate(self.case.spec, self._ids):
            self.tally.add(block)
            for generated in block:
                self.sent += 1
                yield generated.key, generated.payload


def environment_of(kafka: KafkaSettings) -> dict[str, str]:
    """The environment in which `uic` commands speak to this Kafka."""
    secret = {} if kafka.password is None else {"password": kafka.password.get_secret_value()}
    fields = {**kafka.model_dump(mode="json", exclude_none=True, exclude={"password"}), **secret}
    return {**os.environ, **{f"UIC__KAFKA__{name.upper()}": str(value) for name, value in fields.items()}}


def covered_offsets(cluster: Cluster, job_id: str, kafka: KafkaSettings) -> dict[int, int]:
    """How far the job's newest completed checkpoint holds the events topic; nothing where there is none yet.

    The same is committed to Kafka, but by a source that waits for events up to ten seconds later.
    """
    from jobs.daily.offsets import splits

    last = cluster.checkpoints(job_id).last
    if last is None:
        return {}
    try:
        return {each.partition: max(0, each.offset) for each in splits(Path(last.path)) if each.topic == kafka.events}
    except OSError:  # a newer one has taken its place meanwhile
        return {}


def end_offsets(kafka: KafkaSettings, topic: str) -> dict[int, int]:
    """The end of each partition of a topic."""
    from confluent_kafka import Consumer, TopicPartition

    from jobs.kafka import client_config, patiently

    consumer = Consumer({**client_config(kafka), "group.id": f"{kafka.group}-look", "enable.auto.commit": "false"})
    places = [TopicPartition(topic, partition) for partition in range(kafka.partitions)]
    try:
        # A broker that was started anew leads no partition for a while.
        ends = patiently(kafka, lambda: [consumer.get_watermark_offsets(each, timeout=30)[1] for each in places], wait_s=30)
        return dict(enumerate(ends))
    finally:
        consumer.close()


def committed_offsets(kafka: KafkaSettings) -> dict[int, int]:
    """How far the job has committed the events topic; 0 where nothing was committed yet."""
    from confluent_kafka import Consumer, TopicPartition

    from jobs.kafka import client_config, patiently

    consumer = Consumer({**client_config(kafka), "group.id": kafka.group, "enable.auto.commit": "false"})
    try:
        asked = [TopicPartition(kafka.events, partition) for partition in range(kafka.partitions)]
        found = patiently(kafka, lambda: consumer.committed(asked, timeout=30), wait_s=30)
        return {each.partition: max(0, each.offset) for each in found}
    finally:
        consumer.close()
