"""What `uic user forget` says in Kafka and reads there: deletions in the snapshots topic, and the message to the job."""

import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

from jobs.kafka import client_config
from jobs.settings import KafkaSettings
from operators import control
from uic.errors import EnvironmentProblem, JobError
from uic.partition import partition_of
from uic.store.apply import FORGET_HEADER

if TYPE_CHECKING:
    from confluent_kafka import Consumer

_WAIT_S = 30.0
_POLL_S = 0.2


class Place(NamedTuple):
    """Where in the snapshots topic a deletion is."""

    partition: int
    offset: int


class Answer(NamedTuple):
    """The job's own deletion: after it the job publishes nothing of the old life, which reached up to `until_ms`."""

    place: Place
    until_ms: int


def log_end_ms(kafka: KafkaSettings, user_id: str) -> int:
    """When the log took in the last event of the user's partition; now, where the broker holds none (any more)."""
    from confluent_kafka import TopicPartition

    from jobs.kafka import patiently

    with closing(_consumer(kafka)) as consumer:
        place = TopicPartition(kafka.events, partition_of(user_id.encode(), kafka.partitions))
        first, end = patiently(kafka, lambda: consumer.get_watermark_offsets(place, timeout=_WAIT_S))
        # The last one, where that is an event; offsets may also be those of transactions.
        for offset in range(end - 1, max(first, end - 3) - 1, -1):
            consumer.assign([TopicPartition(place.topic, place.partition, offset)])
            give_up_at = time.monotonic() + _WAIT_S
            while time.monotonic() < give_up_at:
                message = consumer.poll(_POLL_S)
                if message is not None and message.error() is None:
                    return int(message.timestamp()[1])
    if end > first:
        raise EnvironmentProblem(f"topic {kafka.events}: {kafka.bootstrap} does not give its last event of {place.partition}")
    return time.time_ns() // 1_000_000


def delete(kafka: KafkaSettings, user_id: str, token: str) -> Place:
    """Say in the snapshots topic that nothing may stay of the user; returns when the broker has acknowledged it."""
    partition = partition_of(user_id.encode(), kafka.partitions)
    headers = {FORGET_HEADER: token.encode()}
    return _produce(kafka, kafka.snapshots, user_id.encode(), None, partition=partition, headers=headers)


def ask(kafka: KafkaSettings, message: control.Forget) -> None:
    """Send the message to the job."""
    _produce(kafka, kafka.control, _key(message), control.to_json(message))


def take_back(kafka: KafkaSettings, message: control.Forget) -> None:
    """Let compaction remove the message, which names the user."""
    _produce(kafka, kafka.control, _key(message), None)


def wait_for_answer(kafka: KafkaSettings, message: control.Forget, after: Place, timeout_s: float) -> Answer | None:
    """The job's deletion, which it sends after all that it has published of the user; None where it does not come in time."""
    from confluent_kafka import TopicPartition

    give_up_at = time.monotonic() + timeout_s
    with closing(_consumer(kafka)) as consumer:
        consumer.assign([TopicPartition(kafka.snapshots, after.partition, after.offset)])
        while time.monotonic() < give_up_at:
            found = consumer.poll(_POLL_S)
            if found is None or found.error() is not None or found.value() is not None or found.key() != message.user.encode():
                continue
            value = dict(found.headers() or ()).get(FORGET_HEADER)
            said = value.decode(errors="replace").split(" ") if isinstance(value, bytes) else []
            if len(said) == 2 and said[0] == message.token:
                offset = found.offset()
                assert offset is not None
                return Answer(Place(after.partition, offset), int(said[1]))
    return None


def kept_ms(kafka: KafkaSettings) -> dict[str, int | None]:
    """For how long the topics that hold events keep them; None: for ever."""
    from confluent_kafka.admin._config import ConfigResource
    from confluent_kafka.admin._resource import ResourceType

    from jobs.kafka import patiently
    from jobs.topics import connect

    admin = connect(kafka)
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in (kafka.events, kafka.late, kafka.dead)]
    configs = patiently(kafka, lambda: {one: told.result(_WAIT_S) for one, told in admin.describe_configs(resources).items()})
    kept = {resource.name: int(config["retention.ms"].value) for resource, config in configs.items()}
    return {name: None if each < 0 else each for name, each in kept.items()}


def _key(message: control.Forget) -> bytes:
    return f"forget {message.token} {message.to}".encode()


def _consumer(kafka: KafkaSettings) -> "Consumer":
    from confluent_kafka import Consumer

    return Consumer(
        {
            **client_config(kafka),
            "group.id": f"{kafka.group}-look",  # asked for by the library; nothing is committed
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
    )


def _produce(
    kafka: KafkaSettings,
    topic: str,
    key: bytes,
    value: bytes | None,
    *,
    partition: int = 0,
    headers: dict[str, bytes] | None = None,
) -> Place:
    from confluent_kafka import Producer

    told: list[tuple[Any, Any]] = []  # an error and a message of the library's
    producer = Producer({**client_config(kafka), "acks": "all", "enable.idempotence": True, "log_level": 0})
    producer.produce(
        topic, value, key, partition=partition, headers=dict(headers or {}), on_delivery=lambda *said: told.append(said)
    )
    left = producer.flush(_WAIT_S)
    if left or not told or told[0][0] is not None:
        why = told[0][0].str() if told and told[0][0] is not None else "no answer"
        raise JobError(f"{kafka.bootstrap}: topic {topic} did not take what is to be forgotten: {why}; run the command again")
    return Place(partition, told[0][1].offset())
