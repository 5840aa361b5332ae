"""Is Kafka there, are the topics as the stream needs them, and do producers put users where readers look for them?"""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from jobs import topics
from jobs.doctor.finding import Finding, ok, problem
from jobs.kafka import client_config, patiently
from jobs.record import ClusterRecord
from jobs.settings import KafkaSettings
from uic.errors import BadInput
from uic.partition import partition_of

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message

_WAIT_S = 6.0


def check_kafka(kafka: KafkaSettings, sample: int, on: ClusterRecord | None) -> Iterator[Finding]:
    """The broker, the topics, the count of partitions that a running job relies on, and where the latest events were put."""
    try:
        admin = topics.connect(kafka)
    except BadInput as error:
        if "no broker answered" in str(error):
            yield Finding(
                "kafka", "absent", str(error), "`uic dev up` starts one on this machine; kafka.bootstrap names another"
            )
        else:
            yield problem("kafka", error)
        return
    yield ok("kafka", f"{kafka.bootstrap}: {len(admin.list_topics(timeout=_WAIT_S).brokers)} brokers")
    try:
        facts = topics.check(kafka)
        yield ok("topics", f"{', '.join(facts)}: {kafka.partitions} partitions (control 1), log time, snapshots compacted")
    except BadInput as error:
        yield problem("topics", error)
        facts = topics.describe(kafka)
    if kafka.events not in facts:
        return
    there = facts[kafka.events].partitions
    if on is not None and on.topic == kafka.events and on.bootstrap == kafka.bootstrap and on.partitions != there:
        yield problem(
            "topics",
            f"{kafka.events} had {on.partitions} partitions when the job was submitted, now it has {there}: users have changed "
            "their partition",
            "copy the events into a new topic and start a job with another --job-dir on it",
        )
    yield check_partitioner(kafka, there, sample)


def check_partitioner(kafka: KafkaSettings, partitions: int, sample: int) -> Finding:
    """Whether the latest events lie in the partition that their key belongs to."""
    from confluent_kafka import Consumer, KafkaException

    consumer = Consumer({**client_config(kafka), "group.id": f"{kafka.group}-doctor", "enable.auto.commit": False})
    try:
        seen, keyless = 0, 0
        ends = patiently(kafka, lambda: _ends(consumer, kafka.events, partitions))
        for message in _latest(consumer, kafka.events, ends, -(-sample // partitions)):
            key, found = message.key(), message.partition()
            if key is None:
                keyless += 1
                continue
            seen += 1
            expected = partition_of(key, partitions)
            if found != expected:
                user = key.decode("utf-8", "backslashreplace")
                return problem(
                    "partitioner",
                    f"{kafka.events}: user {user!a} lies in partition {found} at offset {message.offset()}, expected "
                    f"{expected}: its producer does not use murmur2, and users may lie in two partitions at once",
                    "partitioner=murmur2_random in a producer of librdkafka (Python, Go, C); Java's default is right",
                )
    except BadInput as error:
        return problem("partitioner", error)
    except KafkaException as error:
        return problem("partitioner", f"{kafka.events}: {error.args[0].str()}")
    finally:
        consumer.close()
    without = f", {keyless:,} without a key become dead letters" if keyless else ""
    if not seen:
        return ok("partitioner", f"{kafka.events}: no event with a key to look at{without}")
    return ok("partitioner", f"{kafka.events}: the latest {seen:,} events lie where their users belong{without}")


def _ends(consumer: "Consumer", topic: str, partitions: int) -> dict[int, tuple[int, int]]:
    """First offset and the offset after the last, of each partition with events in it."""
    from confluent_kafka.cimpl import TopicPartition

    found = {}
    for number in range(partitions):
        first, end = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=_WAIT_S)
        if end > first:
            found[number] = (first, end)
    return found


def _latest(consumer: "Consumer", topic: str, ends: dict[int, tuple[int, int]], share: int) -> Iterator["Message"]:
    """The last `share` messages of each partition."""
    from confluent_kafka import KafkaException
    from confluent_kafka.cimpl import TopicPartition

    places = [TopicPartition(topic, number, max(first, end - share)) for number, (first, end) in ends.items()]
    left = {number: end for number, (_, end) in ends.items()}
    if not places:
        return
    consumer.assign(places)
    give_up_at = time.monotonic() + _WAIT_S
    while left and time.monotonic() < give_up_at:
        for message in consumer.consume(share, timeout=0.5):
            if message.error() is not None:
                raise KafkaException(message.error())
            yield message
            # Compaction and transactions leave holes: the last offset need not come.
            partition, offset = message.partition(), message.offset()
            assert partition is not None  # it came from somewhere
            assert offset is not None
            if offset + 1 >= left.get(partition, 0):
                left.pop(partition, None)
