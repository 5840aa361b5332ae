"""`uic store follow` against a real broker: killed, restarted, deceived; in the end the store says what the topic says."""

import dataclasses
import datetime
import itertools
import os
import random
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import small
from command import Uic
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from jobs.dev.stack import DevStack
from jobs.kafka import client_config
from jobs.settings import KafkaSettings
from jobs.store.begin import warn_of_missed_deletions, where_to_begin
from jobs.store.topic import Reach
from jobs.topics import create
from uic.clock import Days
from uic.codec import Codec, with_generation
from uic.errors import StoreMismatch
from uic.letters import LetterBox
from uic.memory import MemoryLayout, UserMemory
from uic.partition import partition_of
from uic.store.contract import ReadableStore, Source, StoreIdentity
from uic.store.rocksdb import RocksStore
from uic.store.sharded import open_to_read

Published = list[tuple[str, bytes | None]]
WAIT_S = 60.0


class Memories:
    """Makes memories of the small world's layout."""

    def __init__(self, world: small.World) -> None:
        self.codec = world.codec
        self.initial = world.bundle.initial

    def __call__(self, sequence: int, log_time_ms: int | None = None, number: float = 0.0) -> bytes:
        memory = dataclasses.replace(self.initial, sequence=sequence, log_time_ms=log_time_ms)
        return self.codec.encode(dataclasses.replace(memory, state_F=memory.state_F + memory.state_F.dtype.type(number)))

    def runs(self, seed: int, snapshots: int, users: int = 40) -> Published:
        """What a job publishes: users that live, leave and come back, and now and then what it published before again."""
        rng = random.Random(seed)
        sequences = dict.fromkeys((f"u{number}" for number in range(users)), 0)
        published: Published = []
        for log_time_ms in range(snapshots):
            user = rng.choice(list(sequences))
            if sequences[user] > 3 and rng.random() < 0.1:
                sequences[user] = 0
                published.append((user, None))
                continue
            sequences[user] += 1
            published.append((user, self(sequences[user], log_time_ms, number=rng.random())))
            if rng.random() < 0.01:
                published += published[-rng.randrange(1, 200) :]
        return published


@pytest.fixture
def memories(world: small.World) -> Memories:
    return Memories(world)


@pytest.fixture
def topic(kafka: KafkaSettings) -> KafkaSettings:
    """The same settings, the topics made."""
    create(kafka)
    return kafka


@pytest.fixture
def follow(uic_kafka: Uic, world: small.World, tmp_path: Path) -> Callable[..., str]:
    """Follow to the end, into `tmp_path / "store"`; returns what was said."""

    def run(*options: object, code: int = 0) -> str:
        store = ("--store", tmp_path / "store")
        ended = uic_kafka("store", "follow", "--bundle", world.bundle.path, *store, "--until-end", *options)
        assert ended.code == code, ended.err
        return ended.err + ended.out

    return run


def publish(
    kafka: KafkaSettings,
    published: Iterable[tuple[str | bytes | None, bytes | None]],
    partition: int = -1,
    headers: Mapping[str, bytes] | None = None,
) -> None:
    failed: list[object] = []
    producer = Producer(
        {**client_config(kafka), "partitioner": "murmur2_random", "enable.idempotence": True, "linger.ms": 5, "log_level": 0}
    )
    for key, value in published:
        while True:
            try:
                producer.produce(
                    kafka.snapshots, key=key, value=value, partition=partition, headers=dict(headers or {}),
                    on_delivery=lambda error, _: failed.append(error) if error is not None else None,
                )  # fmt: skip
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    assert producer.flush(WAIT_S) == 0
    assert failed == []


def last(published: Iterable[tuple[str, bytes | None]]) -> dict[str, bytes]:
    return {user: blob for user, blob in dict(published).items() if blob is not None}


def content(path: Path) -> dict[str, bytes | None]:
    store = open_to_read(path)
    try:
        return {user: store.read(user) for user in store.users()}
    finally:
        store.close()


@contextmanager
def following(world: small.World, store: Path, *options: object) -> Iterator["subprocess.Popen[str]"]:
    """A follower in a process of its own, with the settings of the environment. It is gone when the block is left."""
    words = ["store", "follow", "--bundle", str(world.bundle.path), "--store", str(store), *map(str, options)]
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(is_so: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    give_up_at = time.monotonic() + WAIT_S
    while not is_so():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up_at, "it took too long"
        time.sleep(0.02)


def opened_when_made(path: Path, process: "subprocess.Popen[str]") -> ReadableStore:
    """The store, as soon as a follower has made it."""
    found: list[ReadableStore] = []

    def is_there() -> bool:
        try:
            found.append(open_to_read(path))
        except Exception:  # not there, or half made
            return False
        return True

    until(is_there, process)
    return found[0]


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


def made_anew(kafka: KafkaSettings) -> None:
    admin = AdminClient(client_config(kafka))
    admin.delete_topics([kafka.snapshots])[kafka.snapshots].result()
    give_up_at = time.monotonic() + WAIT_S
    while kafka.snapshots not in create(kafka):
        assert time.monotonic() < give_up_at


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


def test_a_running_follower_shows_new_memories_at_once_and_ends_in_order(
    uic_kafka: Uic, topic: KafkaSettings, memories: Memories, world: small.World, tmp_path: Path
) -> None:
    with following(world, tmp_path / "store", "--metrics-port", "0") as process:
        assert process.stderr is not None
        port = re.search(r"http://127.0.0.1:(\d+)/metrics", process.stderr.readline())
        assert port is not None
        store = opened_when_made(tmp_path / "store", process)
        now_ms = time.time_ns() // 1_000_000
        for sequence in range(1, 6):
            publish(topic, [("u", memories(sequence, now_ms))])
            until(lambda sequence=sequence: read(store, "u") == memories(sequence, now_ms), process)  # type: ignore[misc]  # as above
        publish(topic, [("u", None)])
        until(lambda: read(store, "u") is None, process)
        store.close()
        with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/metrics") as answer:
            said = answer.read().decode()
        assert 'uic_store_writes_total{result="written"} 5.0' in said
        assert 'uic_store_writes_total{result="deleted"} 1.0' in said
        assert 'uic_freshness_seconds_bucket{le="+Inf"} 5' in said
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0
        assert process.stdout is not None
        assert "5 written  0 stale  1 deleted  0 refused  0 to go" in process.stdout.read()
    # Nothing holds the store any more.
    RocksStore.create_or_open(tmp_path / "store", world.bundle.identity, wait_s=0).close()


def hears(process: "subprocess.Popen[str]", text: str) -> None:
    """Reads what it says up to this text."""
    assert process.stderr is not None
    assert any(text in line for line in process.stderr), f"{text}: not said"


def read(store: ReadableStore, user: str) -> bytes | None:
    store.refresh()
    return store.read(user)


def test_a_running_follower_heeds_a_rollback_and_takes_nothing_from_a_zombie(
    uic_kafka: Uic, topic: KafkaSettings, memories: Memories, world: small.World, tmp_path: Path
) -> None:
    tuesday = datetime.date(2026, 11, 17)
    cut_ms = Days().begins_ms(tuesday)
    users = [f"u{number}" for number in range(30)]
    publish(topic, [(user, memories(5, cut_ms - 1)) for user in users])
    publish(topic, [(user, memories(9, cut_ms, number=1.0)) for user in users])
    with following(world, tmp_path / "store", "--shards", 3) as process:
        store = opened_when_made(tmp_path / "store", process)

        def holds(user: str, blob: bytes | None) -> bool:
            store.refresh()
            return store.read(user) == blob

        until(lambda: all(holds(user, memories(9, cut_ms, number=1.0)) for user in users), process)
        store.begin_generation(1, cut_ms)
        assert {store.read(user) for user in users} == {memories(5, cut_ms - 1)}
        publish(topic, [(user, memories(10, cut_ms + 1)) for user in users[:10]])
        publish(topic, [(user, None) for user in users[10:20]], headers={"generation": b"0"})
        publish(topic, [(user, None) for user in users[20:25]], headers={"generation": b"1"})
        publish(topic, [(user, None) for user in users[25:29]], headers={"forget": b""})
        ours = with_generation(memories(6, cut_ms), 1)
        publish(topic, [(user, ours) for user in users[-1:]])
        assert {store.read(user) for user in users[:10]} == {memories(5, cut_ms - 1)}
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=WAIT_S)
    with following(world, tmp_path / "store", "--until-end") as process:
        process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    store.refresh()
    before = memories(5, cut_ms - 1)
    assert [store.read(user) for user in users] == [before] * 20 + [None] * 9 + [ours]
    assert [store.read(user, as_of=tuesday) for user in users] == [before] * 25 + [None] * 4 + [before]
    store.close()
    status = uic_kafka("store", "status", "--store", tmp_path / "store").out
    assert "days kept: 2026-11-11 to 2026-11-17 (UTC)" in status
    assert "generation 1: begun by a rollback to 2026-11-17; earlier generations count up to there" in status


def test_a_running_follower_waits_for_the_broker_and_takes_up_a_topic_made_anew(
    memories: Memories, world: small.World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DevStack(tmp_path / "stack", taskmanagers=0, flink_cluster=False) as stack:
        kafka = stack.kafka_settings().model_copy(update={"partitions": 2})
        for name in ("bootstrap", "partitions"):
            monkeypatch.setenv(f"UIC__KAFKA__{name.upper()}", str(getattr(kafka, name)))
        create(kafka)
        publish(kafka, [("u", memories(1))])
        with following(world, tmp_path / "store") as process:
            store = opened_when_made(tmp_path / "store", process)
            until(lambda: read(store, "u") == memories(1), process)
            stack.broker.kill()
            hears(process, "waiting for topic snapshots: ")
            stack.broker.restart()
            publish(kafka, [("u", memories(2))])
            until(lambda: read(store, "u") == memories(2), process)
            hears(process, "topic snapshots is there again")

            made_anew(kafka)
            publish(kafka, [("v", memories(1)), ("u", memories(1))])
            until(lambda: read(store, "v") == memories(1), process)
            assert read(store, "u") == memories(2)
            store.close()
            process.send_signal(signal.SIGINT)
            assert process.wait(WAIT_S) == 0
            hears(process, "snapshots is not the topic that the store has applied")


SOURCE = Source(cluster_id="c", topic="snapshots", topic_id="t", partitions=2)


@pytest.fixture
def plain(world: small.World, tmp_path: Path) -> Iterator[RocksStore]:
    store = RocksStore.create_or_open(tmp_path / "plain", world.bundle.identity)
    yield store
    store.close()


def begun(store: RocksStore, source: Source, *reach: Reach) -> tuple[dict[int, int], list[str]]:
    said: list[str] = []
    return where_to_begin(store, source, dict(enumerate(reach)), said.append), said


def test_a_store_begins_where_it_is_and_a_new_one_at_the_beginning(plain: RocksStore) -> None:
    assert begun(plain, SOURCE, Reach(0, 9), Reach(4, 9)) == ({0: 0, 1: 4}, [])
    plain.commit(plain.writing(), {0: 9, 1: 5})
    assert begun(plain, SOURCE, Reach(0, 9), Reach(4, 9)) == ({0: 9, 1: 5}, [])


def test_a_partition_that_was_cut_off_is_read_from_its_beginning(plain: RocksStore) -> None:
    plain.follow(SOURCE)
    plain.commit(plain.writing(), {0: 9, 1: 5})
    offsets, said = begun(plain, SOURCE, Reach(2, 8), Reach(4, 9))
    assert offsets == {0: 2, 1: 5}
    assert said == ["snapshots-0 ends at 8, the store is at 9: the topic was cut off; it is read from its beginning"]


@pytest.mark.parametrize("change", [{"cluster_id": "d"}, {"topic_id": "x"}, {"topic": "other"}])
def test_another_topic_is_read_from_its_beginning(plain: RocksStore, change: dict[str, str]) -> None:
    plain.follow(SOURCE)
    plain.commit(plain.writing(), {0: 9, 1: 5})
    offsets, said = begun(plain, SOURCE._replace(**change), Reach(0, 99), Reach(0, 99))  # type: ignore[arg-type]  # all texts
    assert offsets == {0: 0, 1: 0}
    assert len(said) == 1
    assert plain.source == SOURCE._replace(**change)  # type: ignore[arg-type]  # as above
    with pytest.raises(StoreMismatch, match=r"has 3 partitions, the store follows .* with 2"):
        begun(plain, SOURCE._replace(partitions=3), Reach(0, 0))


@pytest.mark.parametrize(("away_h", "end", "lines"), [(23, 9, 0), (25, 9, 1), (25, 5, 0)])
def test_who_was_away_longer_than_deletions_are_kept_is_told(plain: RocksStore, away_h: int, end: int, lines: int) -> None:
    plain.commit(plain.writing(), {0: 5})
    said: list[str] = []
    hour_ms = 3_600_000
    warn_of_missed_deletions(plain, SOURCE, {0: Reach(0, end)}, 24 * hour_ms, away_h * hour_ms, said.append)
    assert len(said) == lines
    assert all("was last read 25 h ago, and Kafka keeps deletions for 24 h" in line for line in said)


def test_runs_of_the_tests_hold_departures_returns_and_repetitions(memories: Memories) -> None:
    published = memories.runs(seed=1, snapshots=3000)
    assert sum(blob is None for _, blob in published) > 100
    assert len(published) > 3000
    assert any(
        first[1] is None and second[1] is not None
        for user in ("u1", "u2")
        for first, second in itertools.pairwise([each for each in published if each[0] == user])
    )


def test_a_store_without_a_source_says_so_in_its_status(uic_kafka: Uic, world: small.World, tmp_path: Path) -> None:
    identity: StoreIdentity = world.bundle.identity
    RocksStore.create_or_open(tmp_path / "store", identity).close()
    ended = uic_kafka("store", "status", "--store", tmp_path / "store")
    assert ended.code == 0
    assert identity.layout in ended.out
    assert "it follows no topic" in ended.out
