"""`uic verify --kafka` agrees with what a stream would have made of the events topic, and with nothing else."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import small
from command import Ended, Uic
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from jobs.kafka import client_config
from jobs.settings import KafkaSettings
from jobs.topics import create
from jobs.verify import verify
from uic.errors import InvalidEvent
from uic.event import parse_event, to_json
from uic.runtime import OnnxStep
from uic.store.rocksdb import RocksStore
from uic.store.sharded import ShardedStore
from uic.update import Outcome, Rules, is_idle

Headers = list[tuple[str, bytes]]
USER = "u3"
LATE_MS = small.START_MS - 10 * small.DAY_MS


@pytest.fixture
def topic(kafka: KafkaSettings, world: small.World) -> KafkaSettings:
    """The events topic with all of the small world, and everything that may go wrong."""
    create(kafka)
    last = world.events[-1]
    late = msgspec.structs.replace(last, user_id=USER, time_ms=LATE_MS)
    records: list[tuple[str | bytes | None, bytes | None, Headers]] = [
        *((event.user_id, to_json(event), []) for event in world.events),
        (last.user_id, to_json(last), []),
        (USER, to_json(late), []),
        (USER, to_json(msgspec.structs.replace(late, time_ms=LATE_MS + 1)), [("accept-late", b"1")]),
        (USER, to_json(last) if last.user_id != USER else to_json(world.events[0]), []),
        (None, to_json(last), []),
        (b"\xff", to_json(last), []),
        (USER, b"{", []),
        (USER, None, []),
        (USER, to_json(msgspec.structs.replace(last, user_id=USER, time_ms=2**50)), []),
    ]
    producer = Producer({**client_config(kafka), "partitioner": "murmur2_random", "enable.idempotence": True})
    for key, value, headers in records:
        producer.produce(kafka.events, key=key, value=value, headers=headers)
    assert producer.flush(60) == 0
    return kafka


def messages(kafka: KafkaSettings) -> list[Message]:
    consumer = Consumer({**client_config(kafka), "group.id": "tests", "enable.auto.commit": False})
    places = [TopicPartition(kafka.events, partition, 0) for partition in range(kafka.partitions)]
    count = sum(consumer.get_watermark_offsets(place, timeout=10)[1] for place in places)
    consumer.assign(places)
    found: list[Message] = []
    while len(found) < count:
        found += consumer.consume(count - len(found), timeout=1)
    consumer.close()
    return found


def streamed(world: small.World, kafka: KafkaSettings, rules: Rules) -> tuple[dict[str, bytes], Counter[str]]:
    """Event by event, as a stream does it: every user's last memory."""
    updater = world.bundle.updater(OnnxStep(world.bundle), rules)
    blobs: dict[str, bytes] = {}
    outcomes: Counter[str] = Counter()
    for message in messages(kafka):
        log_time_ms = message.timestamp()[1]
        try:
            key = (message.key() or b"\xff").decode()
            event = parse_event(message.value() or b"", now_ms=log_time_ms, accepted=world.bundle.accepted, key=key)
        except (UnicodeDecodeError, InvalidEvent):
            outcomes["dead"] += 1
            continue
        accepts_late = bool(message.headers())
        update = updater.update(blobs.get(key), event, log_time_ms=log_time_ms, accepts_late=accepts_late)
        outcomes[update.outcome.value] += 1
        if update.blob is not None:
            blobs[key] = update.blob
    return blobs, outcomes


@pytest.fixture
def verify_kafka(uic_kafka: Uic, world: small.World, tmp_path: Path) -> Callable[[dict[str, bytes]], Ended]:
    def run(memories: dict[str, bytes]) -> Ended:
        store = ShardedStore.create_or_open(tmp_path / "store", world.bundle.identity, shards=2, partitions=3)
        for user, blob in memories.items():
            store.write(user, blob)
        store.close()
        return uic_kafka("verify", "--kafka", "--bundle", world.bundle.path, "--store", tmp_path / "store")

    return run


def test_a_store_that_holds_what_a_stream_makes_of_the_topic_agrees(
    verify_kafka: Callable[[dict[str, bytes]], Ended], world: small.World, topic: KafkaSettings
) -> None:
    memories, outcomes = streamed(world, topic, Rules())
    assert outcomes == {"applied": len(world.events) + 1, "duplicate": 1, "late": 1, "dead": 6}
    ended = verify_kafka(memories)
    assert ended.code == 0, ended.out + ended.err
    assert f"events: {len(world.events) + 1} applied, 6 dead, 1 duplicate, 1 late" in ended.out
    assert f"users compared: {len(memories)} " in ended.out
    assert "mismatches: 0" in ended.out


def test_a_memory_that_another_log_time_made_is_named(
    verify_kafka: Callable[[dict[str, bytes]], Ended], world: small.World, topic: KafkaSettings
) -> None:
    memories, _ = streamed(world, topic, Rules())
    memory = world.codec.decode(memories[USER])
    changed = dataclasses.replace(memory, log_time_ms=(memory.log_time_ms or 0) + 1)
    ended = verify_kafka({**memories, USER: world.codec.encode(changed)})
    assert ended.code == 1
    assert f"user '{USER}': taken in by the log at {changed.log_time_ms}, expected {memory.log_time_ms}" in ended.out
    assert "mismatches: 1" in ended.out


def test_a_user_in_two_partitions_is_named(
    verify_kafka: Callable[[dict[str, bytes]], Ended], world: small.World, topic: KafkaSettings
) -> None:
    producer = Producer(client_config(topic))
    for partition in range(3):
        producer.produce(topic.events, key=USER, value=to_json(world.events[0]), partition=partition)
        event = msgspec.structs.replace(world.events[-1], user_id=USER, time_ms=world.events[-1].time_ms + partition)
        producer.produce(topic.events, key=USER, value=to_json(event), partition=partition)
    producer.flush(60)
    ended = verify_kafka(streamed(world, topic, Rules())[0])
    assert ended.code == 1
    assert f"user '{USER}': has events in partitions [0, 1, 2], so nothing says their order" in ended.out


def test_a_topic_whose_beginning_is_gone_is_refused(
    verify_kafka: Callable[[dict[str, bytes]], Ended], topic: KafkaSettings
) -> None:
    admin = AdminClient(client_config(topic))
    for future in admin.delete_records([TopicPartition(topic.events, 1, 2)]).values():
        future.result()
    ended = verify_kafka({})
    assert ended.code == 2
    assert f"{topic.events}-1 begins at offset 2: the events before are gone" in ended.err


def test_users_who_came_back_begin_anew_and_those_who_are_idle_may_have_left(
    world: small.World, topic: KafkaSettings, tmp_path: Path
) -> None:
    rules = Rules(idle_after_ms=0)
    memories, outcomes = streamed(world, topic, rules)
    times_ms = {user: world.codec.decode(blob).log_time_ms for user, blob in memories.items()}
    newest_ms = max(time_ms for time_ms in times_ms.values() if time_ms is not None)
    idle = {user for user, time_ms in times_ms.items() if is_idle(time_ms, newest_ms, rules)}
    for name, left in (("all", set()), ("some", set(sorted(idle)[::2])), ("none", idle)):
        store = RocksStore.create_or_open(tmp_path / name, world.bundle.identity)
        for user, blob in memories.items():
            if user not in left:
                store.write(user, blob)
        store.close()
        verdict = verify(
            topic, world.bundle.path, tmp_path / name, oracle="onnx",
            lateness_ms=rules.lateness_ms, max_ahead_ms=small.DAY_MS, idle_after_ms=0,
        )  # fmt: skip
        assert verdict.mismatches == {}
        assert verdict.idle == len(left)
        assert verdict.outcomes[Outcome.APPLIED.value] == outcomes["applied"]


@pytest.mark.parametrize("options", [(), ("--kafka", "--events", "somewhere")])
def test_events_come_from_one_place(uic: Uic, world: small.World, options: tuple[str, ...]) -> None:
    ended = uic("verify", "--bundle", world.bundle.path, *options)
    assert ended.code == 2
    assert "either --events FOLDER or --kafka" in ended.err
