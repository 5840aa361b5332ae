"""A Kafka broker of one node on the loopback interface, from the jars of `make jars`."""

import os
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

from jobs.dev.node import Node, free_port, listens
from jobs.dev.tls import Certificates, make_certificates
from jobs.jars import broker_jars
from jobs.kafka import client_config
from jobs.settings import KafkaSettings
from uic.errors import EnvironmentProblem

USER = "uic"
PASSWORD = "uic-dev"
_SETTINGS = {
    "node.id": "1",
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "CLIENT",
    "auto.create.topics.enable": "false",
    "log.message.timestamp.type": "LogAppendTime",
    "group.initial.rebalance.delay.ms": "0",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    # The default alone would take 128 MB of the heap.
    "log.cleaner.dedupe.buffer.size": str(16 << 20),
}
_LOG4J = """\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = Console
appender.console.name = Console
appender.console.type = Console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{yyyy-MM-dd HH:mm:ss,SSS} %-5p %c{1} - %m%n
"""


class Broker:
    """How the broker is set up and reached; `node` is its process. Its data stay through restarts."""

    def __init__(
        self,
        root: Path,
        *,
        java: Path,
        log: Path,
        sasl: bool,
        tls: bool,
        heap: str,
        options: Mapping[str, str],
        inherited: tuple[int, ...],
    ) -> None:
        self._java = java
        self._folder = root / "conf" / "broker"
        self._data = root / "kafka"
        self._temporary = root / "tmp" / "broker"
        self._class_path = os.pathsep.join(str(jar) for jar in broker_jars())
        port, controller = free_port(), free_port()
        for folder in (self._folder, self._temporary):
            folder.mkdir(parents=True)
        certificates = make_certificates(root / "tls") if tls else None
        self.settings = _settings_of_clients(port, sasl=sasl, certificates=certificates)
        properties = {
            **_SETTINGS,
            "listeners": f"CLIENT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "listener.security.protocol.map": f"CLIENT:{self.settings.security_protocol},CONTROLLER:PLAINTEXT",
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
            "log.dirs": str(self._data),
            **(_sasl_properties() if sasl else {}),
            **({} if certificates is None else _tls_properties(certificates)),
            **options,
        }
        self._properties = self._folder / "server.properties"
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        (self._folder / "log4j2.properties").write_text(_LOG4J)
        command = [*self._jvm(f"-Xmx{heap}"), "kafka.Kafka", str(self._properties)]
        self.node = Node(
            "broker",
            command=lambda _: command,
            environment=os.environ,
            log=log,
            port=port,
            is_ready=lambda: listens(port) and answers(self.settings),
            inherited=inherited,
        )

    def format(self) -> None:
        """Make its empty data folder; once, before the first start."""
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "x")
        tool = [*self._jvm("-Xmx128m", "-XX:TieredStopAtLevel=1"), "kafka.tools.StorageTool", "format", "--standalone"]
        command = [*tool, "--cluster-id", cluster, "--config", str(self._properties)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            said = (done.stdout + done.stderr).strip()[-1000:]
            raise EnvironmentProblem(f"{self._data}: Kafka could not format its data folder:\n{said}")

    def _jvm(self, *options: str) -> list[str]:
        log4j = f"-Dlog4j.configurationFile={self._folder / 'log4j2.properties'}"
        return [
            str(self._java),
            *options,
            "-XX:-UsePerfData",
            f"-Djava.io.tmpdir={self._temporary}",
            log4j,
            "-cp",
            self._class_path,
        ]


def answers(kafka: KafkaSettings) -> bool:
    """Whether the broker lists its topics to who comes with these settings."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    try:
        # librdkafka would print every attempt that fails.
        AdminClient({**client_config(kafka), "log_level": 0}).list_topics(timeout=2)
    except KafkaException:
        return False
    return True


def _settings_of_clients(port: int, *, sasl: bool, certificates: Certificates | None) -> KafkaSettings:
    fields: dict[str, object] = {"bootstrap": f"127.0.0.1:{port}", "security_protocol": "SASL_" if sasl else ""}
    fields["security_protocol"] = f"{fields['security_protocol']}{'PLAINTEXT' if certificates is None else 'SSL'}"
    if sasl:
        fields |= {"username": USER, "password": SecretStr(PASSWORD)}
    if certificates is not None:
        fields |= {"ca_file": certificates.ca, "certificate_file": certificates.client, "key_file": certificates.client_key}
    return KafkaSettings.model_validate(fields)


def _sasl_properties() -> dict[str, str]:
    module = "org.apache.kafka.common.security.plain.PlainLoginModule"
    # The broker speaks to itself over the same door, as the same user.
    jaas = f'{module} required username="{USER}" password="{PASSWORD}" user_{USER}="{PASSWORD}";'
    return {
        "sasl.enabled.mechanisms": "PLAIN",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "listener.name.client.plain.sasl.jaas.config": jaas,
    }


def _tls_properties(certificates: Certificates) -> dict[str, str]:
    return {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(certificates.server),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(certificates.ca),
        "listener.name.client.ssl.client.auth": "required",
    }
