"""What lies in a topic, for the tests."""

from typing import NamedTuple

from confluent_kafka import Consumer, TopicPartition

from jobs.kafka import client_config, patiently
from jobs.settings import KafkaSettings


class Read(NamedTuple):
    """One message as it stands in a topic."""

    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


def consumed(kafka: KafkaSettings, topic: str) -> list[Read]:
    """Every message that is in the topic now, partition by partition in order."""
    consumer = Consumer({**client_config(kafka), "group.id": "tests", "enable.auto.commit": False, "fetch.wait.max.ms": 10})
    try:
        partitions = [TopicPartition(topic, each, 0) for each in range(kafka.partitions)]
        ends = patiently(kafka, lambda: [consumer.get_watermark_offsets(each, timeout=10)[1] for each in partitions])
        wanted = sum(ends)
        consumer.assign(partitions)
        found = []
        while len(found) < wanted:
            messages = consumer.consume(wanted - len(found), timeout=5)
            assert messages, f"{topic}: {len(found)} of {wanted} came"
            assert not any(message.error() for message in messages)
            found += [Read(each.partition(), each.key(), each.value(), each.headers() or []) for each in messages]
        return sorted(found, key=lambda read: read.partition)
    finally:
        consumer.close()
