"""What a batch writes to Redis by itself (operators/direct.py) never holds the stream up, and is never of before the cut."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "uic"))

from test_apply import memory
from test_batched_updates import LOG_TIME_MS, Caller, one
from test_store import IDENTITY

from jobs.dev.redis_servers import RedisServers
from operators.direct import DirectStore
from uic.errors import StoreMismatch
from uic.small import Shrink
from uic.store.contract import WritableStore
from uic.store.redis_store import RedisStore
from uic.store.rocksdb import RocksStore


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[RedisServers]:
    with RedisServers(tmp_path / "redis") as started:
        yield started


def test_a_store_that_is_away_costs_one_timeout_and_not_one_a_batch(servers: RedisServers) -> None:
    url = servers.url(timeout_s=0.2)._replace(retries=0)
    servers.nodes[0].pause()
    direct = DirectStore(lambda: RedisStore.create_or_open(url, IDENTITY, buckets=4))
    began = time.monotonic()
    for sequence in range(50):
        direct.write([("u", memory(sequence, sequence))])
    assert time.monotonic() - began < 1
    assert direct.left_out == 50
    servers.nodes[0].resume()
    give_up_at = time.monotonic() + 20
    before = -1
    while direct.left_out != before:  # it is tried again after a while, by itself
        before = direct.left_out
        direct.write([("u", memory(99, 99))])
        assert time.monotonic() < give_up_at
    reader = RedisStore.open_to_read(url)
    assert reader.read("u") == memory(99, 99)
    reader.close()


def test_what_is_silent_after_a_rollback_is_not_written(servers: RedisServers) -> None:
    opened: list[WritableStore] = []

    def open_store() -> WritableStore:
        opened.append(RedisStore.create_or_open(servers.url(), IDENTITY, buckets=4))
        return opened[0]

    direct = DirectStore(open_store, silent_before_ms=1000)
    direct.write([("u", memory(1, 999)), ("v", memory(1, 1000)), ("v", memory(2, 1001))])
    assert [opened[0].read(user) for user in "uv"] == [None, memory(2, 1001)]
    opened[0].close()


def test_a_store_of_other_memories_is_an_error(servers: RedisServers) -> None:
    RedisStore.create_or_open(servers.url(), IDENTITY._replace(lineage="other"), buckets=4).close()
    direct = DirectStore(lambda: RedisStore.create_or_open(servers.url(), IDENTITY, buckets=4))
    with pytest.raises(StoreMismatch):
        direct.write([("u", memory(1, 1))])


def test_a_job_writes_directly_in_the_numbers_of_the_store_and_keeps_its_state_as_it_is(tmp_path: Path) -> None:
    place = tmp_path / "store"
    memories: dict[str, bytes] = {}
    caller = Caller(tmp_path / "job", direct=str(place), numbers="int8")
    for count in range(3):
        caller.apply(memories, [one(f"u{count}", count), one("u0", 10 + count)], [LOG_TIME_MS] * 2)
    reader = RocksStore.open_to_read(place)
    layout = caller.updater.codec.layout
    assert reader.numbers == "int8"
    assert {user: reader.read(user) for user in reader.users()} == dict(
        zip(memories, Shrink("int8", layout)(list(memories.values())), strict=True)
    )
    assert all(caller.updater.codec.decode(blob).numbers == "float32" for blob in memories.values())
    reader.close()
