"""`uic store follow` against a real broker: killed, restarted, deceived; in the end the store says what the topic says."""

import dataclasses
import os
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import small
from command import Uic
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
from followed import WAIT_S, Memories, content, following, last, made_anew, publish, until

from jobs.kafka import client_config
from jobs.settings import KafkaSettings
from uic.codec import Codec
from uic.letters import LetterBox
from uic.memory import MemoryLayout, UserMemory
from uic.partition import partition_of
from uic.store.rocksdb import RocksStore


def test_the_last_snapshot_of_every_user_is_in_the_store(
    follow: Callable[..., str], topic: KafkaSettings, memories: Memories, tmp_path: Path
) -> None:
    published = memories.runs(seed=1, snapshots=3000)
    publish(topic, published)
    said = follow()
    assert content(tmp_path / "store") == last(published)
    assert re.search(r"store: [0-9,]+ written  [0-9,]+ stale  [0-9,]+ deleted  0 refused  0 to go", said)
    assert not (tmp_path / "store.letters.sqlite").exists() or LetterBox(tmp_path / "store.letters.sqlite").counts() == {}

    assert "0 written  0 stale  0 deleted  0 refused  0 to go" in follow()
    more = memories.runs(seed=2, snapshots=100)
    publish(topic, more)
    follow()
    assert content(tmp_path / "store").keys() == last([*published, *more]).keys()


def test_a_topic_that_is_read_again_from_its_beginning_changes_nothing(
    follow: Callable[..., str], topic: KafkaSettings, memories: Memories, world: small.World, tmp_path: Path
) -> None:
    publish(topic, memories.runs(seed=3, snapshots=2000))
    follow()
    before = content(tmp_path / "store")
    store = RocksStore.create_or_open(tmp_path / "store", world.bundle.identity)
    assert store.source is not None
    store.follow(store.source)  # forgets the offsets
    assert store.positions() == {}
    store.close()
    assert "0 refused  0 to go" in follow()
    assert content(tmp_path / "store") == before


def test_a_follower_killed_again_and_again_ends_as_one_that_was_not(
    uic_kafka: Uic, follow: Callable[..., str], topic: KafkaSettings, memories: Memories, world: small.World, tmp_path: Path
) -> None:
    published = memories.runs(seed=4, snapshots=6000)
    parts = [published[start : start + 1500] for start in range(0, 6000, 1500)]
    rng = random.Random(4)
    for part in parts:
        offset = seen(tmp_path / "store")
        with following(world, tmp_path / "store") as process:
            publish(topic, part)
            # Somewhere on its way, wherever that is.
            goal = offset + rng.randrange(1, 1200)
            until(lambda goal=goal: seen(tmp_path / "store") >= goal, process)  # type: ignore[misc]  # mypy has no type for it
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
    publish(topic, published[6000:])
    follow()
    assert content(tmp_path / "store") == last(published)


def seen(path: Path) -> int:
    """How many offsets a store has applied, as it says itself."""
    try:
        store = RocksStore.open_to_read(path)
    except Exception:  # not there yet
        return 0
    try:
        return sum(position.offset for position in store.positions().values())
    finally:
        store.close()


def test_shards_are_written_by_a_process_each_and_read_as_one_store(
    uic_kafka: Uic, topic: KafkaSettings, memories: Memories, world: small.World, tmp_path: Path
) -> None:
    published = memories.runs(seed=5, snapshots=1500)
    publish(topic, published)
    wrong = next(user for user in (f"w{number}" for number in range(99)) if partition_of(user.encode(), 3) != 0)
    publish(topic, [(wrong, memories(1))], partition=0)
    with (
        following(world, tmp_path / "store", "--shard", "0/2", "--until-end") as first,
        following(world, tmp_path / "store", "--shard", "1/2", "--until-end") as second,
    ):
        assert [first.wait(WAIT_S), second.wait(WAIT_S)] == [0, 0], (first.communicate(), second.communicate())
    assert content(tmp_path / "store") == last(published)
    assert LetterBox(tmp_path / "store.letters.sqlite").counts() == {("dead", "wrong_partition"): 1}
    status = uic_kafka("store", "status", "--store", tmp_path / "store")
    assert status.code == 0
    assert "2 RocksDB" in status.out
    assert "refused: 1 wrong_partition" in status.out
    places = re.findall(r"│ ([01]) +│ ([012]) +│ ([0-9,]+) +│ ([0-9,]+) +│ 0 ", status.out)
    assert [(shard, partition) for shard, partition, *_ in places] == [("0", "0"), ("0", "2"), ("1", "1")]
    assert all(offset == end for *_, offset, end in places)


def test_all_shards_in_one_process_hold_the_same_as_one_rocksdb(
    follow: Callable[..., str], topic: KafkaSettings, memories: Memories, tmp_path: Path
) -> None:
    published = memories.runs(seed=6, snapshots=1000)
    publish(topic, published[:500])
    follow("--shards", 3)
    publish(topic, published[500:])
    follow()
    assert len(list((tmp_path / "store").glob("shard-*"))) == 3
    assert content(tmp_path / "store") == last(published)
    assert "has 3 shards for a topic of 3 partitions, asked were 2 for 3" in follow("--shards", 2, code=2)
    assert "expected one number of shards, got two" in follow("--shards", 2, "--shard", "0/3", code=2)
    assert "from 0/2 to 1/2 for two shards; got '2/2'" in follow("--shard", "2/2", code=2)


def test_what_cannot_be_used_is_kept_with_its_place_and_the_rest_goes_on(
    follow: Callable[..., str], topic: KafkaSettings, memories: Memories, tmp_path: Path
) -> None:
    flipped = bytearray(memories(9))
    flipped[100] ^= 1
    publish(topic, [("u", memories(1)), ("u", bytes(flipped)), ("u", b"junk"), (b"\xff", memories(2))], 1)
    publish(topic, [("u", memories(2))], 1)
    said = follow()
    assert content(tmp_path / "store") == {"u": memories(2)}
    assert f"refused {topic.snapshots}-1 at 1: memory: CRC-32C of" in said
    assert "2 written  0 stale  0 deleted  3 refused" in said
    box = LetterBox(tmp_path / "store.letters.sqlite")
    letters = list(box.letters())
    assert [(each.source, each.offset, each.reason) for each in letters] == [
        (f"{topic.snapshots}-1", 1, "checksum"),
        (f"{topic.snapshots}-1", 2, "truncated"),
        (f"{topic.snapshots}-1", 3, "bad_key"),
    ]
    assert (letters[0].payload, letters[0].user_id, letters[2].user_id) == (bytes(flipped), "u", "\\xff")


def test_a_topic_of_another_layout_is_refused_at_the_start(
    follow: Callable[..., str], topic: KafkaSettings, memories: Memories, world: small.World, tmp_path: Path
) -> None:
    layout = MemoryLayout(dataclasses.replace(small.VARIANT, slots=5), ring_size=4)
    other = Codec(layout).encode(
        UserMemory(state_F=memories.initial.state_F.repeat(9)[: layout.size_F], fingerprints=bytes(64), sequence=1)
    )
    publish(topic, [(f"u{number}", other) for number in range(50)])
    said = follow(code=2)
    assert f"the memories published last are all of layout {layout.layout_name}, the bundle makes" in said
    assert content(tmp_path / "store") == {}
    # One of ours among the last ones: it is the others that are odd.
    publish(topic, [("u", memories(1))])
    assert "1 written  0 stale  0 deleted  50 refused" in follow()
    assert content(tmp_path / "store") == {"u": memories(1)}


def test_a_topic_made_anew_is_read_from_its_beginning_and_larger_versions_stay(
    follow: Callable[..., str], topic: KafkaSettings, memories: Memories, tmp_path: Path
) -> None:
    publish(topic, [("old", memories(5)), ("u", memories(7, 70)), *((f"x{number}", memories(1)) for number in range(20))])
    follow()
    made_anew(topic)
    publish(topic, [("u", memories(6, 60)), ("new", memories(1))])
    said = follow()
    assert f"{topic.snapshots} is not the topic that the store has applied" in said
    assert "it is read from its beginning" in said
    found = content(tmp_path / "store")
    assert (found["old"], found["u"], found["new"], len(found)) == (memories(5), memories(7, 70), memories(1), 23)
    assert "is not the topic" not in follow()


def test_a_topic_with_more_partitions_than_before_is_refused(
    follow: Callable[..., str], topic: KafkaSettings, memories: Memories
) -> None:
    publish(topic, [("u", memories(1))])
    follow()
    admin = AdminClient(client_config(topic))
    admin.create_partitions([NewPartitions(topic.snapshots, 4)])[topic.snapshots].result()
    give_up_at = time.monotonic() + WAIT_S
    while len(admin.list_topics(topic.snapshots).topics[topic.snapshots].partitions) != 4:
        assert time.monotonic() < give_up_at
    said = follow(code=2)
    assert f"has 4 partitions, the store follows {topic.snapshots} with 3: users would be in other partitions" in said


def test_messages_that_were_deleted_before_they_were_read_are_said_to_be_gone(
    follow: Callable[..., str], kafka: KafkaSettings, memories: Memories, tmp_path: Path
) -> None:
    admin = AdminClient(client_config(kafka))
    # A topic that is compacted only does not let anybody delete.
    admin.create_topics([NewTopic(kafka.snapshots, 3, 1)])[kafka.snapshots].result()
    publish(kafka, [("u", memories(1))], 2)
    follow()
    publish(kafka, [("u", memories(2)), ("v", memories(1)), ("u", memories(3))], 2)
    for future in admin.delete_records([TopicPartition(kafka.snapshots, 2, 3)]).values():
        future.result()
    assert f"{kafka.snapshots}-2 begins at 3, the store is at 1: what was between is gone" in follow()
    assert content(tmp_path / "store") == {"u": memories(3)}


def test_a_topic_that_is_not_there_is_refused_with_the_way_out(
    follow: Callable[..., str], kafka: KafkaSettings, tmp_path: Path
) -> None:
    said = follow(code=2)
    assert f"topic {kafka.snapshots}: not at {kafka.bootstrap}; `uic topics create` makes it" in said
    assert not (tmp_path / "store").exists()
