"""What only a store in Redis promises (uic/store/redis_store.py): many writers, none too late, faults told in time."""

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import date
from pathlib import Path

import pytest
import redis_started
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_apply import CODEC, memory
from test_store import IDENTITY, blob

from jobs.dev.redis_servers import RedisServers
from jobs.dev.tls import make_certificates
from uic.clock import Days
from uic.errors import BadInput, StoreError, StoreMismatch, StoreUnavailable
from uic.store.apply import Applier, Snapshot
from uic.store.contract import InMemoryStore
from uic.store.place import redis_url
from uic.store.redis_store import RedisStore
from uic.store.sharded import open_to_read, open_to_write

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
MONDAY_MS = Days().begins_ms(date(2026, 11, 16))
TUESDAY_MS = MONDAY_MS + DAY_MS
numbers = itertools.count()  # each example wants a store of its own


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[RedisServers]:
    """A server of one's own, to be treated badly."""
    with RedisServers(tmp_path / "redis") as started:
        yield started


def opened(servers: RedisServers, **changes: float) -> RedisStore:
    return RedisStore.create_or_open(servers.url()._replace(**changes), IDENTITY, buckets=redis_started.FEW)


def named(request: pytest.FixtureRequest) -> str:
    return redis_started.name_of(Path(request.node.name))


# Many writers


@settings(max_examples=15)
@given(st.lists(st.permutations(range(12)), min_size=2, max_size=3))
def test_writers_at_the_same_time_leave_what_one_writer_would(orders: list[list[int]]) -> None:
    """Each has all of three days' memories in an order of its own; every read is in the end what one writer in order leaves."""
    history = [memory(number + 1, MONDAY_MS + number * 6 * HOUR_MS) for number in range(12)]
    straight = InMemoryStore(kept=7)
    for each in history:
        straight.write("u", each)

    def run(order: list[int]) -> None:
        with closing(redis_started.opened(name, IDENTITY)) as store:
            start.wait()
            for number in order:
                store.write("u", history[number])

    name, start = f"many-{next(numbers)}", threading.Barrier(len(orders))
    threads = [threading.Thread(target=run, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with closing(redis_started.opened_to_read(name)) as store:
        assert store.days_kept() == straight.days_kept()
        for day in (None, *straight.days_kept()):
            assert store.read("u", day) == straight.read("u", day)
        assert set(store.copies(b"u").values()) <= set(history)


@settings(max_examples=80)
@given(
    st.lists(
        st.tuples(st.sampled_from("wwwwllf"), st.integers(0, 13), st.integers(0, 3), st.integers(0, 1)) | st.integers(1, 3),
        max_size=14,
    )
)
@example([("w", 0, 1, 0), ("w", 4, 2, 0), ("l", 0, 0, 0), ("w", 1, 3, 0), ("w", 9, 3, 0)])
def test_whatever_comes_is_decided_as_a_store_in_memory_decides_it(steps: list[tuple[str, int, int, int] | int]) -> None:
    """Late, early, of any generation, before and after the user left: nothing in between is left to the order of a log."""
    expected = InMemoryStore(kept=7)
    with closing(redis_started.opened(f"as-memory-{next(numbers)}", IDENTITY)) as store:
        for number, step in enumerate(steps):
            if isinstance(step, int):
                days, generation = expected.days_kept()[-step:][:1], (expected.lineage.active or 0) + 1
                for each in (expected, store) if days else ():
                    each.begin_generation(generation, Days().begins_ms(days[0]))
                continue
            what, quarter, sequence, older = step
            generation = max(0, (expected.lineage.active or 0) - older)
            blob = memory(sequence, MONDAY_MS + quarter * 6 * HOUR_MS, generation=generation, number=float(number))
            if what == "w":
                assert store.write("u", blob) == expected.write("u", blob)
            for each in (expected, store) if what != "w" else ():
                each.delete("u", generation=generation) if what == "l" else each.forget("u")
            assert store.days_kept() == expected.days_kept()
            assert [store.read("u", day) for day in (None, *store.days_kept())] == [
                expected.read("u", day) for day in (None, *expected.days_kept())
            ]


def test_two_make_the_same_store_at_the_same_time(request: pytest.FixtureRequest) -> None:
    def make() -> None:
        start.wait()
        with closing(redis_started.opened(named(request), IDENTITY, buckets=200)) as store:
            lost.append(store.lost_ms)

    start, lost = threading.Barrier(4), list[int | None]()
    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lost == [None] * 4


def test_a_batch_applied_twice_or_from_the_middle_ends_in_the_same_store(request: pytest.FixtureRequest) -> None:
    log = [Snapshot(0, number, b"u%d" % (number % 7), memory(number + 1, MONDAY_MS + number * HOUR_MS)) for number in range(60)]
    expected = InMemoryStore()
    Applier(expected, CODEC).apply(log, now_ms=0)
    with closing(redis_started.opened(named(request), IDENTITY)) as store:
        for part in (log[:40], log[10:50], log, log[3:]):
            Applier(store, CODEC).apply(part, now_ms=5)
        assert store.positions()[0] == (60, 5)
        for user in expected.users():
            for day in (None, *expected.days_kept()):
                assert store.read(user, day) == expected.read(user, day)


# Generations


def polluted(store: RedisStore, users: list[str]) -> None:
    for user in users:
        assert store.write(user, memory(5, MONDAY_MS + HOUR_MS))
        assert store.write(user, memory(9, TUESDAY_MS + HOUR_MS))


def test_a_late_write_of_an_old_generation_is_refused_for_users_nobody_has_rewritten_too(
    request: pytest.FixtureRequest,
) -> None:
    name, users = named(request), [f"u{number}" for number in range(20)]
    with closing(redis_started.opened(name, IDENTITY)) as zombie, closing(redis_started.opened_to_read(name)) as operator:
        polluted(zombie, users)
        operator.begin_generation(1, TUESDAY_MS)
        # It does not know yet, and its write is refused in the very operation that would make it.
        assert zombie.write_many([(user, memory(10, TUESDAY_MS + 2 * HOUR_MS)) for user in users]) == [False] * 20
        zombie.delete("u3", generation=0)
        assert [operator.read(user) for user in users] == [memory(5, MONDAY_MS + HOUR_MS)] * 20
        assert zombie.write("u1", memory(6, TUESDAY_MS + HOUR_MS, generation=1))
        assert not zombie.write("u1", memory(11, TUESDAY_MS + 3 * HOUR_MS))
        assert operator.read("u1") == memory(6, TUESDAY_MS + HOUR_MS, generation=1)


def test_a_generation_begun_in_some_buckets_only_is_carried_to_all_by_whoever_writes(request: pytest.FixtureRequest) -> None:
    name, users = named(request), [f"u{number}" for number in range(40)]
    with closing(redis_started.opened(name, IDENTITY)) as store, closing(redis_started.opened(name, IDENTITY)) as other:
        polluted(store, users)
        before = [store.link.ask("GET", store.keys.lineage(bucket)) for bucket in range(4)]
        store.begin_generation(1, TUESDAY_MS)
        for bucket in (0, 2, 3):  # it was killed after the first of them, or the servers lost it
            store.link.ask("SET", store.keys.lineage(bucket), before[bucket])
        for user in users:
            other.write(user, memory(10, TUESDAY_MS + 2 * HOUR_MS))
        assert other.lineage.active == 1
        texts = {store.link.ask("GET", store.keys.lineage(bucket)) for bucket in range(4)}
        assert len(texts) == 1
        with closing(redis_started.opened_to_read(name)) as reader:
            assert {reader.read(user) for user in users} == {memory(5, MONDAY_MS + HOUR_MS)}
        store.begin_generation(1, TUESDAY_MS)
        assert len(store.lineage.cuts) == 1


def test_two_rollbacks_that_do_not_know_of_each_other_are_not_guessed_about(request: pytest.FixtureRequest) -> None:
    with closing(redis_started.opened(named(request), IDENTITY)) as store:
        polluted(store, ["u"])
        store.begin_generation(1, TUESDAY_MS)
        other = store.lineage.to_json().replace(str(TUESDAY_MS), str(MONDAY_MS))
        for bucket in range(4):
            store.link.ask("SET", store.keys.lineage(bucket), other)
        with pytest.raises(StoreError, match="two rollbacks do not know of each other"):
            store.write("u", memory(6, TUESDAY_MS, generation=1))


# Who may come in


@pytest.mark.parametrize(
    "other", [IDENTITY._replace(layout="0123456789abcdef"), IDENTITY._replace(lineage="lineage-b")], ids=["layout", "lineage"]
)
def test_another_layout_lineage_or_zone_is_refused(request: pytest.FixtureRequest, other: object) -> None:
    name = named(request)
    redis_started.opened(name, IDENTITY).close()
    with pytest.raises(StoreMismatch, match="the store holds memories of"):
        redis_started.opened(name, other)  # type: ignore[arg-type]  # an identity
    with pytest.raises(StoreMismatch, match="the store's days are those of UTC"):
        redis_started.opened(name, IDENTITY, zone="Asia/Shanghai")


def test_a_store_that_is_not_there_cannot_be_read(request: pytest.FixtureRequest) -> None:
    with pytest.raises(BadInput, match="expected an online store, but there is none"):
        redis_started.opened_to_read(named(request))


def test_tls_and_passwords(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_certificates(tmp_path / "tls")
    files = (tmp_path / "tls" / "ca.pem", tmp_path / "tls" / "server.pem", tmp_path / "tls" / "server.key")
    with RedisServers(tmp_path / "redis", password="pass word", tls=files) as servers:
        place = Path(str(servers.url()))
        for password in ("", "wrong"):
            monkeypatch.setenv("UIC__STORE__PASSWORD", password)
            with pytest.raises(StoreError, match="Redis does not let us in"):
                open_to_write(place, IDENTITY)
        monkeypatch.setenv("UIC__STORE__PASSWORD", "pass word")
        with closing(open_to_write(place, IDENTITY)) as store:
            assert store.write("u", blob(1))
        with closing(open_to_read(place)) as reader:
            assert reader.read("u") == blob(1)
        plain = servers.url()._replace(is_tls=False, timeout_s=0.2)
        with pytest.raises(StoreUnavailable):
            RedisStore.open_to_read(plain)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("redis://user:secret@host/0", "a password does not belong in a URL"),
        ("redis://:secret@host", "a password does not belong in a URL"),
        ("redis://a:1,b:2/0", "expected redis://host:port/0"),
        ("redis+cluster://a:1/3", "expected redis://host:port/0"),
        ("redis://host:6379/0?nmae=x", "expected redis://host:port/0"),
        ("redis://host:port/0", "expected redis://host:port/0"),
        ("redis://host/0?name={x}", "expected redis://host:port/0"),
    ],
)
def test_a_url_that_says_something_else_is_refused_without_its_password(text: str, says: str) -> None:
    for place in (text, Path(text)):
        with pytest.raises(BadInput, match=says) as caught:
            redis_url(place)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["redis://host:6379/0", "rediss://me@host:1/5?name=live&ca=/etc/ca.pem", "redis+cluster://a:1,b:2?timeout_s=0.5&retries=0"],
)
def test_a_url_is_read_as_it_is_written(text: str) -> None:
    assert str(redis_url(Path(text))) == text


# Faults


def test_a_server_that_lost_everything_gets_its_frame_back_and_takes_what_comes(servers: RedisServers) -> None:
    with closing(opened(servers)) as writer, closing(RedisStore.open_to_read(servers.url())) as reader:
        polluted(writer, ["u", "v"])
        writer.begin_generation(1, TUESDAY_MS)
        assert reader.read("u") == memory(5, MONDAY_MS + HOUR_MS)
        servers.nodes[0].kill()
        servers.nodes[0].start()
        servers.nodes[0].wait_ready()
        with pytest.raises(StoreUnavailable, match="Redis has lost memories; `uic store repair` brings them back"):
            reader.read("u")
        assert writer.write("u", memory(6, TUESDAY_MS + HOUR_MS, generation=1))
        assert reader.read("u") == memory(6, TUESDAY_MS + HOUR_MS, generation=1)
        assert reader.read("v") is None
        assert writer.lost_ms is not None
        assert reader.days_kept() == writer.days_kept() != []
        # What the rollback cut off stays cut off.
        assert not writer.write("v", memory(9, TUESDAY_MS + HOUR_MS))
        writer.note_repair()
        assert reader.lost_ms is None


def until(is_so: Callable[[], bool], within_s: float = 10) -> None:
    give_up_at = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


@pytest.mark.parametrize("fault", ["killed", "paused"])
def test_a_server_that_is_away_is_told_in_bounded_time_and_used_when_it_is_back(servers: RedisServers, fault: str) -> None:
    with closing(opened(servers, timeout_s=0.2, retries=2)) as store:
        store.write("u", blob(1))
        node = servers.nodes[0]
        node.kill() if fault == "killed" else node.pause()
        for ask in (
            lambda: store.read("u"),
            lambda: store.write("u", blob(2)),
            lambda: store.write_many([("u", blob(2))] * 300),
        ):
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match="Redis does not do what it is asked for now"):
                ask()
            assert time.monotonic() - began < 0.2 * 3 + 1
        if fault == "killed":
            node.start()
            node.wait_ready()
        else:
            node.resume()
        assert store.write("u", blob(3))
        assert store.read("u") == blob(3)


def test_full_memory_is_told_and_passes(servers: RedisServers) -> None:
    with closing(opened(servers)) as store:
        store.write("u", blob(1))
        store.link.ask("CONFIG SET", "maxmemory", "1")
        with pytest.raises(StoreUnavailable, match="not allowed when used memory"):
            store.write("u", blob(2))
        assert store.read("u") == blob(1)
        store.link.ask("CONFIG SET", "maxmemory", "0")
        assert store.write("u", blob(2))


@contextmanager
def proxy(port: int, answer: Callable[[bytes], tuple[bytes, bool]]) -> Iterator[int]:
    """A server in front of Redis; `answer` says what goes on to the client, and whether the connection ends there."""

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            behind = socket.create_connection(("127.0.0.1", port))
            threading.Thread(target=pump, args=(client, behind, None), daemon=True).start()
            threading.Thread(target=pump, args=(behind, client, answer), daemon=True).start()

    def pump(one: socket.socket, other: socket.socket, change: Callable[[bytes], tuple[bytes, bool]] | None) -> None:
        try:
            while data := one.recv(65536):
                data, ends = (data, False) if change is None else change(data)
                other.sendall(data)
                if ends:
                    break
        except OSError:
            pass
        finally:
            for each in (one, other):
                with suppress(OSError):  # the other thread was first
                    each.shutdown(socket.SHUT_RDWR)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]


def test_an_answer_cut_off_in_its_middle_is_never_taken_for_a_memory(servers: RedisServers) -> None:
    cuts = iter(range(3, 10_000, 41))
    is_bad = threading.Event()

    def cut(data: bytes) -> tuple[bytes, bool]:
        return (data[: min(next(cuts), len(data) - 1)], True) if is_bad.is_set() else (data, False)

    with proxy(servers.nodes[0].port or 0, cut) as port, closing(opened(servers)) as straight:
        straight.write("u", blob(1))
        behind = servers.url()._replace(hosts=(("127.0.0.1", port),), timeout_s=0.5, retries=1)
        with closing(RedisStore.create_or_open(behind, IDENTITY)) as store:
            for sequence in range(2, 12):
                assert store.read("u") == blob(sequence - 1)
                is_bad.set()
                for ask in (lambda: store.read("u"), lambda: store.write("u", blob(sequence))):  # noqa: B023  # called at once
                    with pytest.raises(StoreUnavailable):
                        ask()
                is_bad.clear()
                # It was made, or not; done again it is.
                assert straight.read("u") in (blob(sequence - 1), blob(sequence))
                assert store.write("u", blob(sequence))


def test_a_slow_server_is_waited_for_and_one_that_is_too_slow_is_told(servers: RedisServers) -> None:
    delay_s = [0.05]

    def slowly(data: bytes) -> tuple[bytes, bool]:
        time.sleep(delay_s[0])
        return data, False

    with proxy(servers.nodes[0].port or 0, slowly) as port:
        behind = servers.url()._replace(hosts=(("127.0.0.1", port),), timeout_s=0.3, retries=1)
        with closing(RedisStore.create_or_open(behind, IDENTITY, buckets=1)) as store:
            assert store.write("u", blob(1))
            delay_s[0] = 1.0
            began = time.monotonic()
            with pytest.raises(StoreUnavailable):
                store.read("u")
            assert time.monotonic() - began < 2
