"""A follower that runs: what it shows at once, rollbacks it heeds or learns of, a broker that goes away."""

import datetime
import re
import signal
import time
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import small
from command import Uic
from confluent_kafka import KafkaError
from followed import WAIT_S, Memories, following, hears, made_anew, opened_when_made, publish, read, until
from prometheus_client import CollectorRegistry

from jobs.dev.stack import DevStack
from jobs.settings import KafkaSettings
from jobs.store.follow import Follower, Letters
from jobs.store.topic import Reach, Read
from jobs.topics import create
from operators.metrics import FollowMetrics
from uic.clock import Days
from uic.codec import with_generation
from uic.store.apply import Snapshot
from uic.store.contract import Source
from uic.store.rocksdb import RocksStore


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


class Script:
    """A topic of one partition of which this is read, one after the other."""

    name = "snapshots"

    def __init__(self, *reads: Read) -> None:
        self._reads = iter(reads)
        self._end = max(each.offset + 1 for read in reads for each in read.snapshots)

    def source(self) -> Source:
        return Source(cluster_id="c", topic=self.name, topic_id="t", partitions=1)

    def ask(self) -> Callable[[], Source | None]:
        return lambda: None

    def reach(self, partitions: Iterable[int]) -> dict[int, Reach]:
        return dict.fromkeys(partitions, Reach(0, self._end))

    def newest(self, _: object) -> list[Snapshot]:
        return []

    def deletions_kept_ms(self) -> None:
        return None

    def known_end(self, _: int) -> int:
        return self._end

    def start(self, _: object) -> None:
        pass

    def read(self, _: float) -> Read:
        return next(self._reads)


def followed(world: small.World, folder: Path, *reads: Read) -> tuple[RocksStore, list[str]]:
    """A new store that has followed such a topic to its end, and what was said."""
    said: list[str] = []
    store = RocksStore.create_or_open(folder / "store", world.bundle.identity)
    letters = Letters(folder / "letters.sqlite", "snapshots")
    follower = Follower(
        Script(*reads), [store], world.codec, letters=letters, metrics=FollowMetrics(CollectorRegistry()), until_end=True,  # type: ignore[arg-type]  # as far as it is asked
        say=said.append, show=lambda _: None,
    )  # fmt: skip
    assert follower.run()
    letters.close()
    return store, said


def test_a_snapshot_may_be_the_first_to_tell_that_the_broker_is_back(
    world: small.World, memories: Memories, tmp_path: Path
) -> None:
    down = KafkaError(KafkaError._ALL_BROKERS_DOWN)
    store, said = followed(world, tmp_path, Read([], {}, [down]), Read([Snapshot(0, 0, b"u", memories(1))], {}, []))
    assert [line.partition(":")[0] for line in said] == ["waiting for topic snapshots", "topic snapshots is there again"]
    assert store.read("u") == memories(1)
    store.close()


@pytest.mark.parametrize(("offsets", "removed"), [((0, 1, 2), 0), ((3, 4, 9), 7)])
def test_a_new_store_says_that_snapshots_were_gone_before_it_came(
    world: small.World, memories: Memories, tmp_path: Path, offsets: tuple[int, ...], removed: int
) -> None:
    reads = [Read([Snapshot(0, offset, b"u", memories(1 + offset))], {}, []) for offset in offsets]
    store, said = followed(world, tmp_path, *reads)
    assert store.read("u") == memories(1 + offsets[-1])
    assert [line.split(" were")[0] for line in said] == [f"{removed} snapshots of topic snapshots"] * (removed > 0)
    store.close()
