"""The commands of a store in Redis: followed into, counted, copied to a folder and back, exported, repaired, scored from."""

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import small
from command import Ended, Uic
from test_follow import Memories, content, last, publish

from jobs.dev.redis_servers import RedisServers
from jobs.settings import KafkaSettings
from jobs.topics import create
from uic.store.redis_store import RedisStore


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[RedisServers]:
    with RedisServers(tmp_path / "redis") as started:
        yield started


@pytest.fixture
def place(servers: RedisServers) -> Path:
    return Path(str(servers.url()))


def done(ended: Ended) -> str:
    assert ended.code == 0, ended.err
    return ended.err + ended.out


def test_a_store_in_redis_is_followed_counted_moved_and_repaired(
    uic_kafka: Uic, kafka: KafkaSettings, world: small.World, servers: RedisServers, place: Path, tmp_path: Path
) -> None:
    create(kafka)
    published = Memories(world).runs(seed=1, snapshots=3000)
    publish(kafka, published)
    bundle = ("--bundle", world.bundle.path)
    for shard in ("0/2", "1/2"):
        done(uic_kafka("store", "follow", *bundle, "--store", place, "--shard", shard, "--until-end"))
    users = last(published)
    assert content(place) == users
    assert "0 written  0 stale  0 deleted  0 refused  0 to go" in done(
        uic_kafka("store", "follow", *bundle, "--store", place, "--until-end")
    )

    said = done(uic_kafka("store", "stats", "--store", place))
    assert re.search(rf"redis://127.0.0.1:\d+/0\S*: {len(users)} users, {world.codec.size:,} bytes of memory each", said)
    assert re.search(r"in Redis: [\d,]+ bytes a live user", said)
    assert f"follows {kafka.snapshots} (3 partitions" in done(uic_kafka("store", "status", "--store", place))

    done(uic_kafka("store", "copy", "--store", place, "--to", tmp_path / "copy"))
    assert content(tmp_path / "copy") == users
    publish(kafka, [("later", Memories(world)(1, 5000))])
    assert "1 written" in done(uic_kafka("store", "follow", *bundle, "--store", tmp_path / "copy", "--until-end"))
    assert "into another one" in uic_kafka("store", "copy", "--store", tmp_path / "copy", "--to", place).err

    done(uic_kafka("store", "export", "--store", tmp_path / "copy", "--to", tmp_path / "dump"))
    other = Path(str(servers.url("other")))
    done(uic_kafka("store", "import", "--from", tmp_path / "dump", "--store", other))
    assert content(other) == content(tmp_path / "copy")
    assert "expected no file there" in uic_kafka("store", "export", "--store", other, "--to", tmp_path / "dump").err

    with closing(RedisStore.create_or_open(servers.url(), world.bundle.identity)) as store:
        store.link.ask("FLUSHALL")
        broken = bytearray(users["u1"])
        broken[-9] ^= 1
        assert store.write("u1", bytes(broken))
    assert "Redis was found to have lost memories" in done(uic_kafka("store", "stats", "--store", place))
    said = done(uic_kafka("store", "repair", *bundle, "--store", place))
    assert "1 broken memories removed" in said
    assert content(place) == content(tmp_path / "copy")
    assert "lost" not in done(uic_kafka("store", "stats", "--store", place))


def test_scores_are_the_same_from_redis(uic: Uic, world: small.World, place: Path, tmp_path: Path) -> None:
    folder = world.store(tmp_path / "store")
    done(uic("store", "copy", "--store", folder, "--to", place))
    for words in (("score", "--user", "u3", "--items", "101:2, 105:1"), ("user", "show", "u3")):
        bundle = ("--bundle", world.bundle.path)
        assert uic(*words, *bundle, "--store", place).out == uic(*words, *bundle, "--store", folder).out


def test_a_place_that_is_none_and_a_server_that_is_away_are_told(uic: Uic, world: small.World, place: Path) -> None:
    said = uic("store", "stats", "--store", place)
    assert (said.code, "expected an online store, but there is none" in said.err) == (2, True)
    said = uic("store", "stats", "--store", "redis://127.0.0.1:1/0?retries=0&timeout_s=0.2")
    assert (said.code, "StoreUnavailable: redis://127.0.0.1:1/0?timeout_s=0.2&retries=0: Redis does not" in said.err) == (
        2,
        True,
    )
    said = uic("store", "stats", "--store", "redis://me:secret@127.0.0.1/0")
    assert (said.code, "UIC__STORE__PASSWORD" in said.err, "secret" in said.err) == (2, True, False)
