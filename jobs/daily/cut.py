"""O_D, the cut of a day: in each partition of the events topic, the first offset whose log time is the day's begin or later.

It can be known only when the day has begun in the log:

* An event of the day, or of a later one, is there: the broker says which is the first. Log time never runs backwards within a
  partition, so nothing can come before it any more.
* None is there. Then the cut is the partition's end, once whatever comes next will be stamped with a time of the day. Brokers
  stamp (LogAppendTime), and tell nobody what their clock shows; so ours must be past the day's begin by as much as the two may
  be apart (`daily.clock_margin_s`). The end is asked for before the first event of the day is: an event that slips in between
  the two questions is seen by the second.

Retention removes events from the front. Where the cut is the first offset that is left, the event before it is not there to
show that it was of an earlier day: the true cut may have been earlier (`at_front`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from jobs.settings import KafkaSettings

_WAIT_S = 10.0


class Reach(NamedTuple):
    """What a partition holds: from its first offset to before its end."""

    first: int
    end: int


class EventLog(Protocol):
    """What is asked of the events topic."""

    def reach(self) -> Mapping[int, Reach]:
        """All partitions, as they are now."""
        ...

    def first_at(self, time_ms: int) -> Mapping[int, int | None]:
        """In each partition the first offset with a log time of `time_ms` or later; None where there is none yet."""
        ...

    def kept_ms(self) -> int | None:
        """For how long the broker keeps events at least; None: for ever."""
        ...


@dataclass(frozen=True)
class Cut:
    """The cut of one day. `by_clock`: partitions without an event of the day; `at_front`: with none before it any more."""

    offsets: Mapping[int, int]
    by_clock: tuple[int, ...]
    at_front: tuple[int, ...]


def find_cut(log: EventLog, begins_ms: int, *, now_ms: int, margin_ms: int) -> Cut | None:
    """The cut of the day that begins at `begins_ms`; None as long as it cannot be known in every partition."""
    reach = log.reach()  # before first_at, see above
    first_at = log.first_at(begins_ms)
    by_clock = tuple(partition for partition in sorted(reach) if first_at[partition] is None)
    if by_clock and now_ms < begins_ms + margin_ms:
        return None
    offsets = {}
    for partition, (_, end) in sorted(reach.items()):
        found = first_at[partition]
        offsets[partition] = end if found is None else found
    at_front = tuple(each for each, offset in offsets.items() if offset == reach[each].first > 0)
    return Cut(offsets, by_clock, at_front)


class KafkaLog:
    """The events topic of the settings, asked through a consumer that joins no group. Raises BadInput where nobody answers."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka

    def reach(self) -> Mapping[int, Reach]:
        from jobs.cluster import lag

        return {number: Reach(each.first, each.end) for number, each in lag.partitions(self._kafka).items()}

    def first_at(self, time_ms: int) -> Mapping[int, int | None]:
        from confluent_kafka import Consumer
        from confluent_kafka.cimpl import TopicPartition

        from jobs import topics
        from jobs.kafka import client_config, patiently

        there = topics.connect(self._kafka).list_topics(timeout=_WAIT_S).topics[self._kafka.events].partitions
        asked = [TopicPartition(self._kafka.events, each, time_ms) for each in there]
        consumer = Consumer(
            {**client_config(self._kafka), "group.id": f"{self._kafka.group}-look", "enable.auto.commit": False, "log_level": 0}
        )
        try:
            found = patiently(self._kafka, lambda: consumer.offsets_for_times(asked, timeout=_WAIT_S))
        finally:
            consumer.close()
        return {each.partition: each.offset if each.offset >= 0 else None for each in found}

    def kept_ms(self) -> int | None:
        from confluent_kafka.admin._config import ConfigResource
        from confluent_kafka.admin._resource import ResourceType

        from jobs import topics
        from jobs.kafka import patiently

        resource = ConfigResource(ResourceType.TOPIC, self._kafka.events)
        admin = topics.connect(self._kafka)
        config = patiently(self._kafka, lambda: admin.describe_configs([resource])[resource].result(_WAIT_S))
        kept_ms = int(config["retention.ms"].value)
        return None if kept_ms < 0 else kept_ms


class LogInMemory:
    """An events topic for tests: the log times of each partition's events, some of them removed from the front."""

    def __init__(self, times_ms: Mapping[int, list[int]], *, kept_ms: int | None = None) -> None:
        self.times_ms = {partition: list(times) for partition, times in times_ms.items()}
        self.removed = dict.fromkeys(self.times_ms, 0)
        self._kept_ms = kept_ms

    def reach(self) -> Mapping[int, Reach]:
        return {each: Reach(self.removed[each], len(times)) for each, times in self.times_ms.items()}

    def first_at(self, time_ms: int) -> Mapping[int, int | None]:
        return {
            each: next((at for at, time in enumerate(times) if at >= self.removed[each] and time >= time_ms), None)
            for each, times in self.times_ms.items()
        }

    def kept_ms(self) -> int | None:
        return self._kept_ms
