"""Events into Kafka: every one acknowledged, each user in one partition, at a rate or as fast as it goes."""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jobs.kafka import client_config
from jobs.settings import KafkaSettings
from jobs.topics import LETTER_BYTES
from uic.errors import EnvironmentProblem

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message

Headers = list[tuple[str, bytes]]
_QUEUE = 100_000
_GIVE_UP_S = 120
_TELL_EVERY_S = 0.5
_POLLED_S = 0.001  # the shortest wait that librdkafka knows


@dataclass
class Produced:
    """How sending went; `behind_s` is how far the sender fell behind the rate asked for, at worst."""

    sent: int = 0
    delivered: int = 0
    per_partition: dict[int, int] = field(default_factory=dict)
    seconds: float = 0.0
    behind_s: float = 0.0
    is_interrupted: bool = False


class Sender:
    """One producer to the events topic; counts what the broker acknowledges.

    Idempotent, so that its retries make no duplicates. The partitioner is Java's: librdkafka's own would send the same user
    elsewhere, and two partitions of one user have no order.
    """

    def __init__(self, kafka: KafkaSettings, *, linger_ms: int = 5) -> None:
        from confluent_kafka import Producer

        self.topic = kafka.events
        self.delivered = 0
        self.failed = 0
        self.is_lost = False
        self._first_failure = ""
        self.per_partition: Counter[int | None] = Counter()
        self.producer = Producer(
            {
                **client_config(kafka),
                "enable.idempotence": True,
                "acks": "all",
                "partitioner": "murmur2_random",
                "linger.ms": linger_ms,
                "batch.size": 256 << 10,
                "queue.buffering.max.messages": _QUEUE,
                "queue.buffering.max.kbytes": 256 << 10,
                "message.max.bytes": LETTER_BYTES,
                "message.timeout.ms": 1000 * _GIVE_UP_S,
                "reconnect.backoff.max.ms": 1000,  # its 10 s would be noticed after a broker's restart
                # Retries are not news; what comes of them is in the delivery reports.
                "log_level": 0,
            }
        )

    def send(self, key: bytes | None, value: bytes | None, headers: Headers | None = None) -> None:
        """Hand one event over, waiting while the queue is full; delivery is certain only after `flush`."""
        from confluent_kafka import KafkaException

        more: dict[str, Any] = {} if headers is None else {"headers": headers}  # confluent-kafka tells None from absent
        while True:
            try:
                self.producer.produce(self.topic, value, key, on_delivery=self.on_delivery, **more)
            except BufferError:
                self.producer.poll(0.1)
                self.check()
            except KafkaException as error:
                self._fail(error.args[0])
                return
            else:
                return

    def on_delivery(self, error: "KafkaError | None", message: "Message") -> None:
        """What librdkafka calls once for every event, while it is polled."""
        if error is not None:
            self._fail(error)
            return
        self.delivered += 1
        self.per_partition[message.partition()] += 1

    def check(self) -> None:
        """Raise EnvironmentProblem if going on is of no use: the broker is gone for good, or this producer is."""
        if self.is_lost:
            raise self._failure()

    def flush(self, on_wait: Callable[[], None] = lambda: None) -> None:
        """Wait for all reports; raises EnvironmentProblem if any event was not delivered."""
        # librdkafka itself gives up on each event after _GIVE_UP_S.
        while self.producer.flush(_TELL_EVERY_S) > 0:
            on_wait()
        if self.failed:
            raise self._failure()

    def _failure(self) -> EnvironmentProblem:
        return EnvironmentProblem(
            f"topic {self.topic}: {self.failed:,} events were not delivered, {self.delivered:,} were; "
            f"the first failure: {self._first_failure}"
        )

    def _fail(self, error: "KafkaError") -> None:
        from confluent_kafka import KafkaError

        self.failed += 1
        self._first_failure = self._first_failure or f"{error.name()}: {error.str()}"
        # One event too large is that event's fault; anything else would meet the next ones too.
        self.is_lost |= error.code() != KafkaError.MSG_SIZE_TOO_LARGE


def produce(
    kafka: KafkaSettings,
    records: Iterable[tuple[bytes | None, bytes]],
    *,
    rate: float | None = None,
    on_progress: Callable[[Produced], None] | None = None,
) -> Produced:
    """Send (key, payload) pairs to the events topic, `rate` a second (None: as fast as it goes), until all are acknowledged.

    The rate is an open loop: a broker that is slow does not slow the schedule, what is late is sent as soon as possible.
    Ctrl-C ends the sending; what was handed over is still waited for. Raises EnvironmentProblem if any was not delivered.
    """
    sender = Sender(kafka, linger_ms=5 if rate is None else 1)
    done = Produced()
    started = time.monotonic()
    next_tell = started + _TELL_EVERY_S

    def sum_up() -> None:
        done.delivered, done.seconds = sender.delivered, time.monotonic() - started
        done.per_partition = {place: count for place, count in sorted(sender.per_partition.items()) if place is not None}

    def note() -> None:
        nonlocal next_tell
        sender.check()
        now = time.monotonic()
        if rate is not None:
            done.behind_s = max(done.behind_s, now - started - done.sent / rate)
        if on_progress is not None and now >= next_tell:
            next_tell = now + _TELL_EVERY_S
            sum_up()
            on_progress(done)

    try:
        try:
            if rate is None:
                _send_all(sender, records, done, note)
            else:
                _send_paced(sender, records, rate, done, note)
        except KeyboardInterrupt:
            done.is_interrupted = True
        rate = None  # the schedule has ended, only reports are waited for
        sender.flush(note)
    finally:
        sum_up()
        # Where a signal ended it between two lines of the loop, the reports know better.
        done.sent = sender.delivered + sender.failed
    return done


def _send_all(sender: Sender, records: Iterable[tuple[bytes | None, bytes]], done: Produced, note: Callable[[], None]) -> None:
    from confluent_kafka import KafkaException

    # Names looked up once: at 300,000 a second every attribute counts.
    produce, poll, topic, report = sender.producer.produce, sender.producer.poll, sender.topic, sender.on_delivery
    sent = 0
    for key, payload in records:
        try:
            produce(topic, payload, key, on_delivery=report)
        except (BufferError, KafkaException):  # told apart there
            sender.send(key, payload)
        sent += 1
        if not sent & 1023:
            poll(0)
            done.sent = sent
            note()
    done.sent = sent


def _send_paced(
    sender: Sender, records: Iterable[tuple[bytes | None, bytes]], rate: float, done: Produced, note: Callable[[], None]
) -> None:
    started = time.monotonic()
    for key, payload in records:
        while (early_s := started + done.sent / rate - time.monotonic()) > 0:
            # Serves delivery reports meanwhile, and returns at each of them. It waits whole milliseconds: for less it would
            # return at once, again and again, and take a core from the broker.
            sender.producer.poll(min(early_s, 0.1))
            if early_s < _POLLED_S:
                time.sleep(early_s)
            note()
        sender.send(key, payload)
        done.sent += 1
        if not done.sent & 255:
            sender.producer.poll(0)
            note()
    note()
