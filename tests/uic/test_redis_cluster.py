"""A store in a cluster of three masters keeps the same laws, and one of them may be lost."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date
from pathlib import Path

import pytest
import redis_started
from hypothesis import settings
from test_apply import memory
from test_daily_copies import InRedis
from test_store import AWKWARD, IDENTITY, SharedStore, blob

from jobs.dev.node import Node
from jobs.dev.redis_servers import RedisServers
from uic.clock import Days
from uic.errors import StoreUnavailable
from uic.store.contract import OnlineStore
from uic.store.place import RedisUrl
from uic.store.redis_link import Link
from uic.store.redis_store import RedisStore

DAY_MS = 86_400_000
MONDAY_MS = Days().begins_ms(date(2026, 11, 16))


class InCluster(SharedStore):
    """The laws of every store."""

    def open(self) -> OnlineStore:
        return redis_started.opened(redis_started.name_of(self.folder), IDENTITY, masters=3, generation=3)


class DaysInCluster(InRedis):
    """The laws of days and rollbacks."""

    masters = 3


TestAnyInterleavingInCluster = InCluster.TestCase
TestAnyInterleavingInCluster.settings = settings(max_examples=4, stateful_step_count=30)
TestAnyDaysInCluster = DaysInCluster.TestCase
TestAnyDaysInCluster.settings = settings(max_examples=4, stateful_step_count=25)


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Iterator[RedisStore]:
    made = redis_started.opened(redis_started.name_of(Path(request.node.name)), IDENTITY, masters=3, buckets=64)
    yield made
    made.close()


def test_users_are_on_all_masters_and_each_is_found_once(store: RedisStore) -> None:
    users = [*filter(None, AWKWARD), *(f"u{number}" for number in range(200))]
    store.write_many([(user, blob(number + 1)) for number, user in enumerate(users)])
    assert sorted(store.users()) == sorted(set(users))
    assert store.read_each(users[:50]) == [store.read(user) for user in users[:50]]
    assert all(int(info["db0"]["keys"]) > 20 for _, info in store.link.servers())


def test_a_generation_begins_on_all_masters(store: RedisStore) -> None:
    users = [f"u{number}" for number in range(50)]
    for time_ms in (MONDAY_MS, MONDAY_MS + DAY_MS):
        store.write_many([(user, memory(1 + time_ms % 7, time_ms)) for user in users])
    reader = redis_started.opened_to_read(store.url.name, masters=3)
    store.begin_generation(1, MONDAY_MS + DAY_MS)
    assert set(reader.read_each(users)) == {memory(1 + MONDAY_MS % 7, MONDAY_MS)}
    assert store.write_many([(user, memory(9, MONDAY_MS + DAY_MS)) for user in users]) == [False] * 50
    reader.close()


def test_the_loss_of_one_master_is_told_and_the_others_serve_on(tmp_path: Path) -> None:
    with RedisServers(tmp_path / "cluster", masters=3, options={"cluster-require-full-coverage": "no"}) as servers:
        url = servers.url()._replace(timeout_s=0.3, retries=1)
        with closing(RedisStore.create_or_open(url, IDENTITY, buckets=64)) as store:
            users = [f"u{number}" for number in range(60)]
            store.write_many([(user, blob(1)) for user in users])
            servers.nodes[2].kill()
            found = []
            for user in users:
                try:
                    found.append(store.read(user))
                except StoreUnavailable:
                    continue
            assert set(found) == {blob(1)}
            assert 10 < len(found) < 60


def test_a_replica_takes_over_from_a_killed_master_and_nothing_that_had_come_to_it_is_lost(tmp_path: Path) -> None:
    with RedisServers(tmp_path / "cluster", masters=3, replicas=1) as servers:
        master, replica = servers.nodes[0], servers.nodes[3]
        url = servers.url()._replace(timeout_s=0.5, retries=2)
        with closing(RedisStore.create_or_open(url, IDENTITY, buckets=64)) as store:
            users = [f"u{number}" for number in range(60)]
            store.write_many([(user, blob(1)) for user in users])
            until(lambda: replicated(url, master) == replicated(url, replica))
            master.kill()
            with pytest.raises(StoreUnavailable):
                store.read_each(users)
            until(lambda: is_served(store, users))
            assert store.read_each(users) == [blob(1)] * 60
            assert store.write_many([(user, blob(2)) for user in users]) == [True] * 60
            assert store.lost_ms is None
            assert set(store.users()) == set(users)


def until(is_so: Callable[[], bool], within_s: float = 30) -> None:
    give_up_at = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < give_up_at
        time.sleep(0.05)


def replicated(url: RedisUrl, node: Node) -> int:
    """How much of the master's log this server has."""
    with closing(Link(url._replace(hosts=(("127.0.0.1", node.port or 0),), is_cluster=False))) as link:
        offset: int = link.ask("INFO", "replication")["master_repl_offset"]
        return offset


def is_served(store: RedisStore, users: list[str]) -> bool:
    try:
        store.read_each(users)
    except StoreUnavailable:
        return False
    return True
