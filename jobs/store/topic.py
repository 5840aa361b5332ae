"""The snapshots topic in Kafka: which one it is, how far it reaches, and its messages in batches without delay."""

import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, wait
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from jobs.kafka import client_config
from jobs.settings import KafkaSettings
from jobs.topics import WAIT_S, connect
from uic.errors import BadInput, EnvironmentProblem
from uic.store.apply import FORGET_HEADER, GENERATION_HEADER, Snapshot
from uic.store.contract import Source

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, Message

_BATCH = 1000
_PEEK = 20
_PEEK_S = 5.0
# librdkafka's prefetching: what a slow store makes wait in memory, at most.
_QUEUED_KB = 32 << 10
_READER: dict[str, Any] = {  # text, numbers and booleans, as librdkafka takes them
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "isolation.level": "read_uncommitted",
    # The store knows where to go on; an offset that is not there is said, not guessed.
    "auto.offset.reset": "error",
    "check.crcs": True,
    "queued.max.messages.kbytes": _QUEUED_KB,
    "fetch.queue.backoff.ms": 5,
    "fetch.wait.max.ms": 100,
    "socket.nagle.disable": True,
    "reconnect.backoff.max.ms": 1000,
    "log_level": 0,
}


class Reach(NamedTuple):
    """The first offset of a partition that is still there, and the one that the next message will have."""

    first: int
    end: int


class Read(NamedTuple):
    """What came: messages in the order of their partitions, partitions read to their end, and what went wrong."""

    snapshots: list[Snapshot]
    ends: dict[int, int]
    errors: list["KafkaError"]


class SnapshotsTopic:
    """A reader of the topic. Between `start` and the next it goes on by itself, also when the broker is away for a while."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self.name = kafka.snapshots
        self._kafka = kafka
        self._admin = connect(kafka)
        self._down: list[KafkaError] = []
        self._consumer = self._open()

    def _open(self) -> "Consumer":
        from confluent_kafka import Consumer

        return Consumer(
            {
                **client_config(self._kafka),
                **_READER,
                "group.id": f"{self._kafka.group}-follow",  # asked for by the library; nothing is committed
                "enable.partition.eof": True,
                "error_cb": self._down.append,
            }
        )

    def reopen(self) -> None:
        """Forget the topic as it was: a client that saw it go would not look for it again for minutes."""
        self._consumer.close()
        self._consumer = self._open()

    def source(self) -> Source:
        """Which topic this is now; raises BadInput where there is none, EnvironmentProblem where the broker does not say."""
        answer = self._ask()
        wait(answer)
        return self._source_in(*answer)

    def ask(self) -> Callable[[], Source | None]:
        """The same without waiting: a function that gives it, or None as long as there is no answer yet."""
        answer = self._ask()
        return lambda: self._source_in(*answer) if all(each.done() for each in answer) else None

    def _ask(self) -> tuple[Future[Any], Future[Any]]:  # confluent-kafka's descriptions
        from confluent_kafka import TopicCollection

        cluster = self._admin.describe_cluster(request_timeout=WAIT_S)
        return cluster, self._admin.describe_topics(TopicCollection([self.name]), request_timeout=WAIT_S)[self.name]

    def _source_in(self, cluster: Future[Any], topic: Future[Any]) -> Source:
        from confluent_kafka import KafkaError, KafkaException

        try:
            partitions = len(topic.result().partitions)
            return Source(cluster.result().cluster_id, self.name, str(topic.result().topic_id), partitions)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise BadInput(
                    f"topic {self.name}: not at {self._kafka.bootstrap}; `uic topics create` makes it, kafka.snapshots names it"
                ) from error
            raise EnvironmentProblem(f"topic {self.name}: {self._kafka.bootstrap}: {error.args[0].str()}") from error

    def reach(self, partitions: Collection[int]) -> dict[int, Reach]:
        """How far each partition reaches now; raises EnvironmentProblem where the broker does not say."""
        from confluent_kafka import KafkaException

        give_up_at = time.monotonic() + WAIT_S
        while True:
            try:
                return {partition: self._reach(partition) for partition in partitions}
            except (KafkaException, TimeoutError) as error:  # a topic that was made just now may have no leader yet
                if time.monotonic() > give_up_at:
                    raise EnvironmentProblem(
                        f"topic {self.name}: {self._kafka.bootstrap} does not say how far it goes: {error}"
                    ) from error
            time.sleep(0.2)

    def _reach(self, partition: int) -> Reach:
        from confluent_kafka import TopicPartition

        reach = self._consumer.get_watermark_offsets(TopicPartition(self.name, partition), timeout=WAIT_S)
        if reach is None:
            raise TimeoutError(f"no answer within {WAIT_S:g} s")
        return Reach(*reach)

    def known_end(self, partition: int) -> int:
        """The end as the last answer of the broker had it, without asking again; negative before the first."""
        from confluent_kafka import TopicPartition

        return int(self._consumer.get_watermark_offsets(TopicPartition(self.name, partition), cached=True)[1])

    def deletions_kept_ms(self) -> int | None:
        """For how long a deletion can be read at least, None where the broker does not say."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin._config import ConfigResource
        from confluent_kafka.admin._resource import ResourceType

        resource = ConfigResource(ResourceType.TOPIC, self.name)
        try:
            return int(self._admin.describe_configs([resource])[resource].result(WAIT_S)["delete.retention.ms"].value)
        except (KafkaException, KeyError, ValueError, TimeoutError):
            return None

    def start(self, offsets: Mapping[int, int]) -> None:
        """Read these partitions from these offsets on."""
        from confluent_kafka import TopicPartition

        self._consumer.assign([TopicPartition(self.name, partition, offset) for partition, offset in offsets.items()])

    def read(self, wait_s: float) -> Read:
        """What has come: waits for the first message, and for no second one."""
        first = self._consumer.poll(wait_s)
        if first is None:
            return self._sorted([])
        return self._sorted([first, *self._consumer.consume(_BATCH - 1, timeout=0)])

    def _sorted(self, messages: list["Message"]) -> Read:
        from confluent_kafka import KafkaError

        read = Read([], {}, self._down.copy())
        self._down.clear()
        for message in messages:
            error = message.error()
            place = cast(tuple[int, int], (message.partition(), message.offset()))  # None in messages that were not read
            if error is None:
                value = message.value()
                extra = () if value is not None else _of_deletion(dict(message.headers() or ()))
                read.snapshots.append(Snapshot(*place, message.key(), value, *extra))
            elif error.code() == KafkaError._PARTITION_EOF:
                read.ends[place[0]] = place[1]
            else:
                read.errors.append(error)
        return read

    def newest(self, reach: Mapping[int, Reach]) -> list[Snapshot]:
        """A few of the last messages of each partition, as far as they come quickly; reading goes on from `start` only."""
        wanted = {partition: at for partition, at in reach.items() if at.end > at.first}
        self.start({partition: max(at.first, at.end - _PEEK) for partition, at in wanted.items()})
        found: list[Snapshot] = []
        waits = 0
        while wanted and waits < _PEEK_S / 0.1:
            read = self.read(0.1)
            found += read.snapshots
            for partition in read.ends:
                wanted.pop(partition, None)
            waits += not read.snapshots
        return found

    def close(self) -> None:
        self._consumer.close()


def _of_deletion(headers: Mapping[str, str | bytes | None]) -> tuple[int | None, bool]:
    """The generation that a deletion names, None where it names none, and whether it is to forget the user.

    >>> _of_deletion({"generation": b"3"}), _of_deletion({"forget": b""})
    ((3, False), (None, True))
    """
    try:
        generation = int(headers.get(GENERATION_HEADER) or b"")
    except ValueError:
        generation = None
    return generation, FORGET_HEADER in headers


def opened(kafka: KafkaSettings) -> "closing[SnapshotsTopic]":
    """The topic, closed at the end of the block."""
    return closing(SnapshotsTopic(kafka))
