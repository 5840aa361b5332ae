"""Late events and dead letters as the cluster's job leaves them in Kafka: read to where the topics ended when one began."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar, cast

from jobs.kafka import client_config, patiently
from jobs.settings import KafkaSettings
from jobs.topics import WAIT_S
from uic.errors import EnvironmentProblem

if TYPE_CHECKING:
    from confluent_kafka import Message, TopicPartition

Kind = Literal["late", "dead"]
_SILENCE_S = 30.0
_T = TypeVar("_T")


class TopicLetter(NamedTuple):
    """One event that was not applied. `key` and `payload` are the original bytes, `position` is the letter's own offset.

    `source` and `offset` say where the event stood, `log_time_ms` when the log took it in.
    """

    kind: Kind
    partition: int
    position: int
    key: bytes | None
    payload: bytes | None
    reason: str
    detail: str
    source: str
    offset: str
    log_time_ms: str


@dataclass
class Replayed:
    """How far one partition was replayed: all letters before `everything`, and those of a reason before `of_reason[reason]`.

    Kept as a committed offset and its metadata, so that replaying one reason does not pass over the others.
    """

    everything: int = 0
    of_reason: dict[str, int] = field(default_factory=dict)

    def begin(self, reason: str | None) -> int:
        """Where replaying this reason, or all, goes on."""
        return self.everything if reason is None else max(self.everything, self.of_reason.get(reason, 0))

    def covers(self, letter: TopicLetter) -> bool:
        return letter.position < self.begin(letter.reason)

    def advance(self, reason: str | None, position: int) -> None:
        """All letters of this reason, or all, are replayed up to here."""
        if reason is None:
            self.everything = position
            self.of_reason = {name: place for name, place in self.of_reason.items() if place > position}
        else:
            self.of_reason[reason] = position


class LetterTopics:
    """A reader of the letters, with the positions of `uic dlq replay` in a consumer group of their own."""

    def __init__(self, kafka: KafkaSettings) -> None:
        from confluent_kafka import Consumer

        self._kafka = kafka
        self._topics: dict[Kind, str] = {"late": kafka.late, "dead": kafka.dead}
        self._consumer = Consumer(
            {
                **client_config(kafka),
                "group.id": f"{kafka.group}-replay",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                # A fetch that waits for more than there is would keep the next partition's waiting.
                "fetch.wait.max.ms": 10,
                "log_level": 0,
            }
        )

    def __enter__(self) -> "LetterTopics":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._consumer.close()

    def partitions(self, kind: Kind) -> list[int]:
        topic = self._topics[kind]
        return sorted(self._patiently(lambda: self._consumer.list_topics(topic, timeout=WAIT_S)).topics[topic].partitions)

    def letters(self, kind: Kind, partition: int, begin: int = 0) -> Iterator[TopicLetter]:
        """The letters of one partition from `begin` to where it ends now."""
        from confluent_kafka import TopicPartition

        at = TopicPartition(self._topics[kind], partition)
        first, end = self._patiently(lambda: self._consumer.get_watermark_offsets(at, timeout=WAIT_S))
        if max(first, begin) >= end:
            return
        at.offset = max(first, begin)
        self._consumer.assign([at])
        try:
            for message in self._until(at, end):
                yield _letter(kind, message)
        finally:
            self._consumer.unassign()

    def replayed(self, kind: Kind, partition: int) -> Replayed:
        from confluent_kafka import TopicPartition

        at = [TopicPartition(self._topics[kind], partition)]
        (found,) = self._patiently(lambda: self._consumer.committed(at, timeout=WAIT_S))
        if found.offset < 0:
            return Replayed()
        return Replayed(found.offset, json.loads(found.metadata) if found.metadata else {})

    def commit(self, kind: Kind, partition: int, replayed: Replayed) -> None:
        """On return the broker has it."""
        from confluent_kafka import TopicPartition

        metadata = json.dumps(replayed.of_reason)
        at = TopicPartition(self._topics[kind], partition, replayed.everything, metadata)
        self._patiently(lambda: self._consumer.commit(offsets=[at], asynchronous=False))

    def _patiently(self, ask: Callable[[], _T]) -> _T:
        return patiently(self._kafka, ask, _SILENCE_S)

    def _until(self, at: "TopicPartition", end: int) -> Iterator["Message"]:
        from confluent_kafka import KafkaError

        heard = time.monotonic()
        position = at.offset
        while True:
            # Never asks for more than there is: it would be waited for.
            for message in self._consumer.consume(min(500, end - position), timeout=0.5):
                heard = time.monotonic()
                error = message.error()
                # The end may be a transaction's mark, which is no message.
                if error is not None and error.code() == KafkaError._PARTITION_EOF:
                    return
                if error is not None:
                    raise EnvironmentProblem(f"{at.topic}-{at.partition}: the letters cannot be read: {error.str()}")
                position = (message.offset() or 0) + 1
                if position <= end:
                    yield message
                if position >= end:
                    return
            if time.monotonic() - heard > _SILENCE_S:
                raise EnvironmentProblem(
                    f"{at.topic}-{at.partition}: nothing came for {_SILENCE_S:.0f} s, expected up to {end}"
                )


def _letter(kind: Kind, message: "Message") -> TopicLetter:
    headers = dict(cast("list[tuple[str, bytes]]", message.headers() or []))
    said = {name: text.decode("utf-8", "replace") for name, text in headers.items() if text is not None}
    key, value = message.key(), message.value()
    return TopicLetter(
        kind=kind,
        partition=message.partition() or 0,
        position=message.offset() or 0,
        key=key.encode() if isinstance(key, str) else key,
        payload=value.encode() if isinstance(value, str) else value,
        reason=said.get("reason", ""),
        detail=said.get("detail", ""),
        source=said.get("source", ""),
        offset=said.get("offset", ""),
        log_time_ms=said.get("log_time_ms", ""),
    )
