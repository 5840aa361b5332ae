"""How this project gets into Kafka: one set of settings, told to librdkafka (Python) and to Java in their own words."""

from jobs.settings import KafkaSettings
from uic.errors import BadInput


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


def _quoted(text: str) -> str:
    r"""Text within a JAAS line.

    >>> print(_quoted('a"b'))
    "a\"b"
    """
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
