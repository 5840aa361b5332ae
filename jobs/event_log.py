"""Where verification reads events from, on its own and not with the job's reader: a folder of files, or the events topic."""

import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from jobs.kafka import client_config, patiently
from jobs.settings import KafkaSettings
from jobs.topics import WAIT_S, check
from uic.errors import BadInput, EnvironmentProblem, InvalidEvent
from uic.event import MAX_TEXT_BYTES, parse_event
from uic.fold import Logged

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message

_SILENCE_S = 30.0


class Dead(NamedTuple):
    """An event that cannot be applied, by the reason that dead letters have too."""

    reason: str


class EventLog(Protocol):
    """Events in the order of the log; the same ones, and no others, each time they are asked for."""

    def events(self, accepted: frozenset[str], max_ahead_ms: int) -> Iterator[Logged | Dead]: ...


class FileLog:
    """A folder's event files in the order (file name, line); an event's log time is its own time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._now_ms = time.time_ns() // 1_000_000

    def events(self, accepted: frozenset[str], max_ahead_ms: int) -> Iterator[Logged | Dead]:
        for payload in payloads(self._folder):
            try:
                event = parse_event(payload, now_ms=self._now_ms, accepted=accepted, max_ahead_ms=max_ahead_ms)
            except InvalidEvent as error:
                yield Dead(error.reason)
            else:
                yield Logged(event, event.time_ms)


def payloads(folder: Path) -> Iterator[bytes]:
    """Every line of a folder's event files in the order (file name, line); read anew, not with the job's reader."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: expected a folder of event files (*.jsonl), but there is none")
    for path in sorted(folder.glob("*.jsonl"), key=lambda path: path.name):
        with path.open("rb") as file:
            for line in file:
                payload = line.removesuffix(b"\n").removesuffix(b"\r")
                if payload:
                    yield payload


class TopicLog:
    """The events topic from its beginning to where it ends now, partition by partition in order.

    `begins` reads these partitions only, from these offsets on, `until` to these at most. `divided` gets the users whose
    events are in several partitions: of those there is no order; `ends` is where reading ends.
    """

    def __init__(
        self, kafka: KafkaSettings, begins: Mapping[int, int] | None = None, until: Mapping[int, int] | None = None
    ) -> None:
        from confluent_kafka import TopicPartition

        self._kafka = kafka
        facts = check(kafka, [kafka.events])[kafka.events]
        self._begins = dict.fromkeys(range(facts.partitions), 0) if begins is None else dict(begins)
        self.ends: dict[int, int] = {}
        self.divided: dict[str, set[int]] = {}
        consumer = self._consumer()
        try:
            for partition, begin in self._begins.items():
                place = TopicPartition(kafka.events, partition)
                reach = patiently(kafka, partial(consumer.get_watermark_offsets, place, timeout=WAIT_S))
                if reach is None:
                    raise EnvironmentProblem(f"{kafka.events}-{partition}: {kafka.bootstrap} does not say how far it goes")
                first, end = reach
                self.ends[partition] = end if until is None else min(end, until[partition])
                if first > begin:
                    raise BadInput(
                        f"{kafka.events}-{partition} begins at offset {first}: the events before are gone, and the memories "
                        "cannot be folded without them. Verify while the topic's retention still covers everything"
                    )
        finally:
            consumer.close()

    def events(self, accepted: frozenset[str], max_ahead_ms: int) -> Iterator[Logged | Dead]:
        homes: dict[str, int] = {}
        for message in self._messages():
            user = _user(message.key())
            if user is None:
                yield Dead("bad_key")
                continue
            payload = message.value() or b""
            log_time_ms = message.timestamp()[1]
            try:
                event = parse_event(payload, now_ms=log_time_ms, accepted=accepted, max_ahead_ms=max_ahead_ms, key=user)
            except InvalidEvent as error:
                yield Dead(error.reason)
                continue
            partition = message.partition() or 0
            if homes.setdefault(user, partition) != partition:
                self.divided.setdefault(user, {homes[user]}).add(partition)
            yield Logged(event, log_time_ms, "accept-late" in dict(message.headers() or ()))

    def _messages(self) -> Iterator["Message"]:
        from confluent_kafka import KafkaError, TopicPartition

        left = {partition: end for partition, end in self.ends.items() if end > self._begins[partition]}
        consumer = self._consumer()
        try:
            consumer.assign([TopicPartition(self._kafka.events, partition, self._begins[partition]) for partition in left])
            heard = time.monotonic()
            while left:
                for message in consumer.consume(1000, timeout=0.1):
                    heard = time.monotonic()
                    error, (partition, offset) = message.error(), cast(tuple[int, int], (message.partition(), message.offset()))
                    if error is not None and error.code() != KafkaError._PARTITION_EOF:
                        raise EnvironmentProblem(f"{self._kafka.events}: the events cannot be read: {error.str()}")
                    end = self.ends[partition]
                    if error is None and offset < end:
                        yield message
                    # Before the end there may be a transaction's mark, which is no message.
                    if offset + (error is None) >= end:
                        left.pop(partition, None)
                if time.monotonic() - heard > _SILENCE_S:
                    raise EnvironmentProblem(f"{self._kafka.events}: nothing came for {_SILENCE_S:.0f} s, {left} were expected")
        finally:
            consumer.close()

    def _consumer(self) -> "Consumer":
        from confluent_kafka import Consumer

        return Consumer(
            {
                **client_config(self._kafka),
                "group.id": f"{self._kafka.group}-verify",  # asked for by the library; nothing is committed
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 10,
                "log_level": 0,
            }
        )


def _user(key: bytes | None) -> str | None:
    if key is None or not 1 <= len(key) <= MAX_TEXT_BYTES:
        return None
    try:
        return key.decode()
    except UnicodeDecodeError:
        return None
