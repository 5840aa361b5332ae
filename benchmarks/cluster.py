"""A real Kafka and a real Flink cluster under a load of events, as the benchmarks start them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.load import Load
from jobs.cluster.rest import Cluster
from jobs.dev.node import Node
from jobs.dev.stack import DevStack
from jobs.produce import produce
from jobs.settings import KafkaSettings
from jobs.topics import connect, partitions_of, wanted
from uic.errors import JobError

_WAIT_S = 900.0
# One size for all runs: what 1M users need on the heap, and what RocksDB wants beside it. Large pages, as the runbook advises
# for large heaps: a memory is 3 kB somewhere in gigabytes, and finding its pages took longer than copying it.
_FLINK = {
    "taskmanager.memory.process.size": "12g",
    "taskmanager.memory.managed.size": "4g",
    "env.java.opts.taskmanager": "-XX:+AlwaysPreTouch -XX:+UseTransparentHugePages",
    "jobmanager.memory.process.size": "1g",
    "metrics.fetcher.update-interval": "250",
    # A busy machine has lost an upload to the JobManager; the client tries again after this, by default after five minutes.
    "rest.idleness-timeout": "20000",
}
_KAFKA = {"log.cleaner.backoff.ms": "2000", "log.retention.check.interval.ms": "2000"}
# Every event publishes 3 kB: what is old goes at once, and nothing is compacted meanwhile.
_SNAPSHOTS = {
    "cleanup.policy": "compact,delete",
    "retention.bytes": str(256 << 20),
    "segment.bytes": str(64 << 20),
    "min.compaction.lag.ms": "86400000",
    "file.delete.delay.ms": "1000",
}


@dataclass(frozen=True, kw_only=True)
class Running:
    """A job that reads a load, and the TaskManager that runs it."""

    cluster: Cluster
    job_id: str
    taskmanager: Node

    def events(self) -> int:
        """Events that the update operator has taken in, as the cluster last heard."""
        vertex = self.cluster.job(self.job_id).vertex("update memory")
        if vertex is None:
            raise JobError(f"job {self.job_id}: no step named `update memory`")
        return int(self.cluster.vertex_sum(self.job_id, vertex.id, "numRecordsIn") or 0)


class Bench:
    """Kafka, a JobManager and one-slot TaskManagers in a folder."""

    def __init__(
        self,
        root: Path,
        bundle: Path,
        *,
        jars: Path,
        taskmanagers: int = 1,
        flink: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.root = root
        self.bundle = bundle
        self._jars = jars
        self.stack = DevStack(
            root / "stack",
            taskmanagers=taskmanagers,
            kafka_heap="1g",
            kafka_options=_KAFKA,
            flink={**_FLINK, **(flink or {})},
            taskmanager_env=environment,
        )
        self._runs = 0

    def __enter__(self) -> "Bench":
        self.stack.start()
        self.cluster = Cluster(self.stack.url)
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.stop()

    def topics(self, name: str) -> KafkaSettings:
        """Topics of their own for a run; `name` is the load's, and its events are kept for the next run."""
        from confluent_kafka.cimpl import NewTopic

        self._runs += 1
        names = {"snapshots": f"snapshots-{self._runs}", "late": f"late-{self._runs}", "dead": f"dead-{self._runs}"}
        kafka = self.stack.kafka_settings().model_copy(update={"events": name, **names, "group": f"run-{self._runs}"})
        configs = wanted(kafka)
        configs[kafka.snapshots] |= _SNAPSHOTS
        admin = connect(kafka)
        there = admin.list_topics(timeout=10).topics
        new = [
            NewTopic(name, num_partitions=partitions_of(kafka, name), replication_factor=1, config=config)
            for name, config in configs.items()
            if name not in there
        ]
        for future in (admin.create_topics(new) if new else {}).values():
            future.result()
        return kafka

    def fill(self, load: Load) -> None:
        """Put the load's events into the topic of its name."""
        produce(self.topics(load.name), load.records())

    def drop(self, *names: str) -> None:
        """Remove topics and what they hold."""
        admin = connect(self.stack.kafka_settings())  # its answers end with it
        for future in admin.delete_topics(list(names)).values():
            future.result()

    def submit(
        self,
        kafka: KafkaSettings,
        *,
        plan: str,
        backend: str,
        interval_s: float,
        stream: Mapping[str, object] | None = None,
        flink: Mapping[str, str] | None = None,
    ) -> Running:
        """Start the job of `uic job submit` on TaskManagers that have run nothing before, and wait until it runs."""
        for node in self.stack.taskmanagers:
            node.restart()
        self._await_slots()
        folder = self.root / f"job-{self._runs}"
        folder.mkdir(parents=True)
        settings = {
            "kafka": {**kafka.model_dump(mode="json", exclude_none=True)},
            "cluster": {"url": self.stack.url},
            "stream": {"jars": str(self._jars.absolute()), "checkpoint_interval_s": interval_s, **(stream or {})},
            "flink": {"rest.idleness-timeout": _FLINK["rest.idleness-timeout"], **(flink or {})},
        }
        (folder / "uic.yaml").write_text(yaml.safe_dump(settings))
        command = [sys.executable, "-m", "jobs.cli", "--config", str(folder / "uic.yaml"), "job", "submit"]
        run_quietly(
            [
                *command,
                *("--bundle", str(self.bundle), "--job-dir", str(folder / "job")),
                *("--plan", plan, "--backend", backend),
            ]
        )
        record = json.loads((folder / "job" / "job.json").read_text())
        return self.running(record["cluster"]["job_id"])

    def running(self, job_id: str) -> Running:
        """The job of this id, on the TaskManager that runs it."""
        (worker,) = self.cluster.workers(job_id)
        return Running(cluster=self.cluster, job_id=job_id, taskmanager=self.stack.taskmanager_of(worker))

    def running_named(self, name: str) -> Running:
        """The job of this name, as soon as it runs."""
        (job,) = (job for job in self.cluster.jobs() if job.name == name)
        self.cluster.wait_until_running(job.id, 120)
        return self.running(job.id)

    def _await_slots(self) -> None:
        give_up_at = time.monotonic() + 60
        while self.cluster.overview().slots_available < len(self.stack.taskmanagers):
            if time.monotonic() > give_up_at:
                raise JobError(f"{self.stack.url}: no free slot after a minute")
            time.sleep(0.2)


def run_quietly(command: list[str], environment: Mapping[str, str] | None = None) -> None:
    """Run a command; raises JobError with what it said if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **(environment or {})})
    if done.returncode != 0:
        raise JobError(f"{' '.join(command[:6])} ...: {(done.stdout + done.stderr).strip()[-3000:]}")
