"""The development stack on free loopback ports: Kafka, a JobManager, one-slot TaskManagers, Redis: for tests and `uic dev`.

root/logs/   one log a server            root/conf/, root/lib/, root/tls/   what they were started with
root/kafka/  the broker's data           root/tmp/                         their temporary files

All of it but the logs is removed when the stack stops. Nothing outlives the process that holds the stack, however it ends.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from jobs.dev.broker import Broker
from jobs.dev.flink import FlinkCluster, resource_id
from jobs.dev.node import Node
from jobs.dev.redis_servers import RedisServers
from jobs.java import find_java
from jobs.settings import KafkaSettings
from uic.errors import BadInput, EnvironmentProblem

_TEMPORARY = ("conf", "kafka", "lib", "tls", "tmp")


class DevStack:
    """A running stack, between `start` and `stop` or as a context manager.

    with DevStack(tmp_path, taskmanagers=2) as stack:
        stack.taskmanagers[0].kill()
    """

    def __init__(
        self,
        root: Path,
        *,
        taskmanagers: int = 1,
        kafka: bool = True,
        flink_cluster: bool = True,
        redis: bool = False,
        sasl: bool = False,
        tls: bool = False,
        flink: Mapping[str, str] | None = None,
        taskmanager_env: Mapping[str, str] | None = None,
        kafka_heap: str = "512m",
        kafka_options: Mapping[str, str] | None = None,
        inherited: tuple[int, ...] = (),
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        if (sasl or tls) and not kafka:
            raise BadInput("sasl and tls are the broker's, but there is to be no broker")
        self.root = root.absolute()
        self.logs = self.root / "logs"
        self._wanted = taskmanagers
        self._with_kafka = kafka
        self._with_flink = flink_cluster
        self._with_redis = redis
        self._sasl, self._tls = sasl, tls
        self._flink_settings = dict(flink or {})
        self._taskmanager_env = dict(taskmanager_env or {})
        self._kafka_heap, self._kafka_options = kafka_heap, dict(kafka_options or {})
        self._inherited = inherited
        self._say = say
        self._broker: Broker | None = None
        self._cluster: FlinkCluster | None = None
        self._redis: RedisServers | None = None
        self.taskmanagers: list[Node] = []

    @property
    def broker(self) -> Node:
        return self._the_broker().node

    @property
    def jobmanager(self) -> Node:
        return self._the_cluster().jobmanager

    @property
    def nodes(self) -> list[Node]:
        """All servers, in the order in which they were started."""
        broker = [] if self._broker is None else [self._broker.node]
        flink = [] if self._cluster is None else [self._cluster.jobmanager]
        redis = [] if self._redis is None else self._redis.nodes
        return [*broker, *flink, *self.taskmanagers, *redis]

    @property
    def has_kafka(self) -> bool:
        return self._with_kafka

    @property
    def bootstrap(self) -> str:
        return self.kafka_settings().bootstrap

    @property
    def url(self) -> str:
        """REST address of the JobManager."""
        return self._the_cluster().url

    @property
    def store(self) -> str | None:
        """The place of a store in Redis, None where this stack has none."""
        return None if self._redis is None else str(self._redis.url(timeout_s=1.0))

    def kafka_settings(self) -> KafkaSettings:
        """How clients get into the broker."""
        return self._the_broker().settings

    def taskmanager_of(self, identity: str) -> Node:
        """The TaskManager that the REST interface knows under this id."""
        for node in self.taskmanagers:
            if resource_id(node) == identity:
                return node
        raise EnvironmentProblem(
            f"{identity}: no TaskManager of this stack; there are {[resource_id(n) for n in self.taskmanagers]}"
        )

    def start(self) -> None:
        """Start all servers and wait until they answer; raises EnvironmentProblem with the end of the log of who does not."""
        self._remove((*_TEMPORARY, "logs"))
        self.logs.mkdir(parents=True)
        java = find_java(dict(os.environ)).executable
        try:
            if self._with_kafka:
                self._broker = Broker(
                    self.root,
                    java=java,
                    log=self.logs / "broker.log",
                    sasl=self._sasl,
                    tls=self._tls,
                    heap=self._kafka_heap,
                    options=self._kafka_options,
                    inherited=self._inherited,
                )
            if self._with_flink:
                self._cluster = FlinkCluster(
                    self.root,
                    java=java,
                    logs=self.logs,
                    settings=self._flink_settings,
                    taskmanager_environment=self._taskmanager_env,
                    inherited=self._inherited,
                )
                self._cluster.jobmanager.start()
                for _ in range(self._wanted):
                    self._start_taskmanager()
            if self._with_redis:
                # Below conf, so that whatever is left of it is known for ours.
                folder = self.root / "conf" / "redis"
                self._redis = RedisServers(folder, logs=self.logs, inherited=self._inherited)
                self._redis.start()
            if self._broker is not None:
                self._broker.format()
                self._broker.node.start()
            for node in self.nodes:
                node.wait_ready()
                self._say(f"{node.name} is ready")
        except BaseException:
            self.stop()
            raise

    def add_taskmanager(self) -> Node:
        """One more TaskManager, registered."""
        node = self._start_taskmanager()
        node.wait_ready()
        return node

    def stop(self) -> None:
        """Stop all servers in order and remove everything but the logs."""
        groups = (self.taskmanagers, [] if self._cluster is None else [self._cluster.jobmanager])
        if self._redis is not None:
            self._redis.stop()
        for group in (*groups, [] if self._broker is None else [self._broker.node]):
            for node in group:
                node.ask_to_stop()
            for node in group:
                node.await_stop()
        self._remove(_TEMPORARY)

    def __enter__(self) -> "DevStack":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _start_taskmanager(self) -> Node:
        node = self._the_cluster().taskmanager(len(self.taskmanagers) + 1)
        self.taskmanagers.append(node)
        node.start()
        return node

    def _the_broker(self) -> Broker:
        if self._broker is None:
            raise EnvironmentProblem(f"{self.root}: this stack has no broker, or has not been started")
        return self._broker

    def _the_cluster(self) -> FlinkCluster:
        if self._cluster is None:
            raise EnvironmentProblem(f"{self.root}: this stack has no Flink cluster, or has not been started")
        return self._cluster

    def _remove(self, names: tuple[str, ...]) -> None:
        for name in names:
            shutil.rmtree(self.root / name, ignore_errors=True)
