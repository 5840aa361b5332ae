"""How far a job is behind its topic: what the log holds against what was read, and against what a checkpoint covers.

The group's committed offsets are the reliable half: Kafka keeps them, Flink writes them after every checkpoint, and they are
there also when the cluster is not. What the source has read is known from Flink's metrics, which are up to ten seconds old and
begin anew with every restart.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from jobs.kafka import client_config, patiently
from jobs.settings import KafkaSettings
from uic.errors import BadInput

if TYPE_CHECKING:
    from confluent_kafka import Consumer
    from confluent_kafka.cimpl import TopicPartition

_CURRENT = re.compile(r"\.KafkaSourceReader\.topic\.(?P<topic>.+)\.partition\.(?P<partition>\d+)\.currentOffset$")
CURRENT = ".currentOffset"
_WAIT_S = 6.0


class Partition(NamedTuple):
    """One partition of the log: its first offset, the offset after its last, and the offset the group has committed, if any."""

    first: int
    end: int
    committed: int | None


class Lag(NamedTuple):
    """Events of the log that have not been read, and that no completed checkpoint covers; None where it is not known."""

    unread: int | None
    uncovered: int | None


def partitions(kafka: KafkaSettings) -> dict[int, Partition]:
    """The partitions of the events topic as the broker has them now; raises BadInput where it cannot be spoken to."""
    from confluent_kafka import Consumer
    from confluent_kafka.cimpl import TopicPartition

    from jobs import topics

    there = topics.connect(kafka).list_topics(timeout=_WAIT_S).topics
    if kafka.events not in there:
        raise BadInput(f"Kafka at {kafka.bootstrap}: no topic {kafka.events}; `uic topics create` makes it")
    consumer = Consumer({**client_config(kafka), "group.id": kafka.group, "enable.auto.commit": False, "log_level": 0})
    places = [TopicPartition(kafka.events, each) for each in there[kafka.events].partitions]
    try:
        return patiently(kafka, lambda: _partitions(consumer, places))
    finally:
        consumer.close()


def _partitions(consumer: "Consumer", places: list["TopicPartition"]) -> dict[int, Partition]:
    found = {}
    for place in consumer.committed(places, timeout=_WAIT_S):
        first, end = consumer.get_watermark_offsets(place, timeout=_WAIT_S)
        found[place.partition] = Partition(first, end, place.offset if place.offset >= 0 else None)
    return found


def read_offsets(metrics: Mapping[str, str], topic: str) -> dict[int, int]:
    """The offset after the last event read, by partition, from the metrics of the source; those not read from are left out.

    >>> read_offsets({"0.Source__x.KafkaSourceReader.topic.events.partition.3.currentOffset": "41"}, "events")
    {3: 42}
    """
    found = {}
    for name, value in metrics.items():
        match = _CURRENT.search(name)
        if match is not None and match["topic"] == topic and int(value) >= 0:
            found[int(match["partition"])] = int(value) + 1
    return found


def lag(log: Mapping[int, Partition], read: Mapping[int, int]) -> Lag:
    """How far behind `log` a job is that has read up to the offsets `read`.

    Unknown is a partition with events in it of which nothing was read and nothing committed.

    >>> lag({0: Partition(0, 100, 60), 1: Partition(5, 5, None)}, {0: 90})
    Lag(unread=10, uncovered=40)
    """
    unread: int | None = 0
    uncovered: int | None = 0
    for number, each in log.items():
        if each.end == each.first:
            continue
        # A metric that has just begun anew is behind what a checkpoint covers.
        known = [offset for offset in (read.get(number), each.committed) if offset is not None]
        unread = None if unread is None or not known else unread + max(0, each.end - max(known))
        uncovered = None if uncovered is None or each.committed is None else uncovered + max(0, each.end - each.committed)
    return Lag(unread, uncovered)
