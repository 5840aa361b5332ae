"""How this project gets into Kafka: one set of settings, told to librdkafka (Python) and to Java in their own words."""

import time
from collections.abc import Callable
from typing import TypeVar

from jobs.settings import KafkaSettings
from uic.errors import BadInput

_T = TypeVar("_T")
_NOT_YET = (3, 5, 6, 14, 15, 16)  # unknown partition, no leader, not the leader, coordinator loading, none, another


def client_config(kafka: KafkaSettings) -> dict[str, str]:
    """What confluent-kafka needs to connect, without what a producer or a consumer adds; raises BadInput."""
    config = {"bootstrap.servers": kafka.bootstrap, "security.protocol": kafka.security_protocol}
    if kafka.security_protocol.startswith("SASL"):
        username, password = credentials(kafka)
        config |= {"sasl.mechanism": kafka.sasl_mechanism, "sasl.username": username, "sasl.password": password}
    if kafka.security_protocol.endswith("SSL"):
        files = {
            "ssl.ca.location": kafka.ca_file,
            "ssl.certificate.location": kafka.certificate_file,
            "ssl.key.location": kafka.key_file,
        }
        config |= {name: str(path) for name, path in files.items() if path is not None}
    return config


def java_properties(kafka: KafkaSettings) -> dict[str, str]:
    """The same for Java's client; PEM files are named there, so every worker needs them at the same path."""
    properties = {"bootstrap.servers": kafka.bootstrap, "security.protocol": kafka.security_protocol}
    if kafka.security_protocol.startswith("SASL"):
        username, password = credentials(kafka)
        module = "plain.PlainLoginModule" if kafka.sasl_mechanism == "PLAIN" else "scram.ScramLoginModule"
        properties |= {
            "sasl.mechanism": kafka.sasl_mechanism,
            "sasl.jaas.config": f"org.apache.kafka.common.security.{module} required "
            f"username={_quoted(username)} password={_quoted(password)};",
        }
    if kafka.security_protocol.endswith("SSL"):
        if kafka.ca_file is not None:
            properties |= {"ssl.truststore.type": "PEM", "ssl.truststore.location": str(kafka.ca_file.absolute())}
        if kafka.certificate_file is not None and kafka.key_file is not None:
            # Java wants both in one place: as text they can stay two files.
            properties |= {
                "ssl.keystore.type": "PEM",
                "ssl.keystore.certificate.chain": kafka.certificate_file.read_text(),
                "ssl.keystore.key": kafka.key_file.read_text(),
            }
    return properties


def credentials(kafka: KafkaSettings) -> tuple[str, str]:
    """User name and password; raises BadInput naming what is missing."""
    if kafka.username is None or kafka.password is None:
        raise BadInput(
            f"kafka: {kafka.security_protocol} needs kafka.username and the password in the environment (UIC__KAFKA__PASSWORD)"
        )
    return kafka.username, kafka.password.get_secret_value()


def patiently(kafka: KafkaSettings, ask: Callable[[], _T], wait_s: float = 6.0) -> _T:
    """Ask again where the broker is not ready yet, as just after its start or a topic's making; raises BadInput in the end."""
    from confluent_kafka import KafkaException

    give_up_at = time.monotonic() + wait_s
    while True:
        try:
            return ask()
        except KafkaException as error:
            if time.monotonic() > give_up_at or not (error.args[0].retriable() or error.args[0].code() in _NOT_YET):
                raise BadInput(f"Kafka at {kafka.bootstrap}: {error.args[0].str()}") from error
        time.sleep(0.1)


def _quoted(text: str) -> str:
    r"""Text within a JAAS line.

    >>> print(_quoted('a"b'))
    "a\"b"
    """
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
