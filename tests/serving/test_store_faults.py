"""A store that fails in every way that a network and a disk have: bounded time, a clear answer, no score from a broken memory.

The stores are real: a redis-server behind a proxy that delays, cuts off and alters what passes, and RocksDB's files with wrong
bytes. The application runs within the test; `uic serve` as a process has its own (test_serve_from_redis.py).
"""

import asyncio
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.dev.redis_servers import RedisServers
from serving.app import Tokens, make_app
from serving.client import Candidate, NotScored, ScoreClient
from serving.service import Limits, ServedStore, Service
from uic.bundle import Bundle
from uic.errors import StoreError
from uic.store.redis_store import RedisStore
from uic.store.rocksdb import RocksStore

LEVELS = {"low": -2.0, "high": 0.5}
CANDIDATES = [{"item_id": 3, "category_id": 2}, {"item_id": 1, "category_id": 1}]
LOGITS = [4 / 64 + 3 / 16, 2 / 64 + 2 / 16]
TIMEOUT_S = 0.2
TIME_S = 2.0
# For a machine that has other things to do.
SLACK_S = 10.0


def formula(level: float) -> list[float]:
    return [float(1 / (1 + 2.718281828459045 ** -(level + logit))) for logit in LOGITS]


class Told(NamedTuple):
    """What a caller was told, and how long it took."""

    status: int
    body: dict[str, Any]
    seconds: float

    @property
    def code(self) -> str:
        return str(self.body["error"]["code"])


class Answers:
    """The application over a store, asked as over HTTP."""

    def __init__(self, bundle: Bundle, store: ServedStore, **limits: Any) -> None:
        self.service = Service(bundle.path, store, Path("store"), Limits(**{"time_s": TIME_S, "threads": 2, **limits}))
        self.service.load()
        self._app = make_app(self.service, Tokens(), lambda facts: None)

    def ask(self, users: Sequence[str], times: int = 1) -> list[Told]:
        """So many requests at once, each for one of the users; and the server lives meanwhile."""

        async def one(http: httpx.AsyncClient, user: str) -> Told:
            began = time.monotonic()
            answer = await http.post("/v1/score", json={"users": [{"user_id": user, "candidates": CANDIDATES}]})
            return Told(answer.status_code, answer.json(), time.monotonic() - began)

        async def main() -> list[Told]:
            transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
                asked = [asyncio.create_task(one(http, users[number % len(users)])) for number in range(times)]
                assert (await http.get("/healthz")).status_code == 200
                return await asyncio.gather(*asked)

        return asyncio.run(main())

    def close(self) -> None:
        self.service.close()


def hold(user: str, told: Told) -> str:
    """The law: the scores of this user's own memory, those of a new user's with the mark, or none with the reason."""
    assert told.seconds < TIME_S + SLACK_S
    if told.status != 200:
        assert (told.status, told.code) in {(503, "store"), (504, "too_late"), (503, "overloaded")}, told
        assert told.body["error"]["message"]
        return told.code
    (scored,) = told.body["users"]
    assert scored["found"] in ("live", "incompatible"), scored
    level = LEVELS[user] if scored["found"] == "live" else 0.0
    assert scored["probabilities"] == pytest.approx(formula(level), abs=1e-6), scored
    return str(scored["found"])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(tiny.make_bundle(tmp_path_factory.mktemp("faults") / "bundle"))


def write(store: RedisStore | RocksStore, bundle: Bundle) -> None:
    for user, level in LEVELS.items():
        assert store.write(user, bundle.codec.encode(tiny.memory(bundle, level)))


# Redis


class Fault(NamedTuple):
    """What becomes of one piece of an answer: it comes late, ends early, or has one bit that is another."""

    delay_s: float = 0.0
    cut_at: int | None = None
    bit: int | None = None

    def change(self, data: bytes) -> bytes:
        if self.bit is not None:
            at = self.bit % (8 * len(data))
            data = data[: at // 8] + bytes([data[at // 8] ^ 1 << at % 8]) + data[at // 8 + 1 :]
        return data if self.cut_at is None else data[: self.cut_at % len(data)]


class Proxy:
    """In front of Redis; `faults` are what the next pieces of its answers suffer, one after the other."""

    def __init__(self, port: int) -> None:
        self._behind = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.faults: list[Fault] = []
        self._ended = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):  # closed, since the test is over
            while True:
                client, _ = self._listener.accept()
                behind = socket.create_connection(("127.0.0.1", self._behind))
                for one, other, is_answer in ((client, behind, False), (behind, client, True)):
                    threading.Thread(target=self._pump, args=(one, other, is_answer), daemon=True).start()

    def _pump(self, one: socket.socket, other: socket.socket, is_answer: bool) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                fault = self.faults.pop(0) if is_answer and self.faults else Fault()
                self._ended.wait(fault.delay_s)
                other.sendall(fault.change(data))
                if fault.cut_at is not None:
                    break
        for each in (one, other):
            with suppress(OSError):  # the other thread was first
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._ended.set()
        self._listener.close()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServers]:
    with RedisServers(tmp_path_factory.mktemp("faults") / "redis") as started:
        yield started


class Redis(NamedTuple):
    """The application over Redis behind the proxy."""

    answers: Answers
    proxy: Proxy


@contextmanager
def through_proxy(servers: RedisServers, bundle: Bundle, name: str, **limits: Any) -> Iterator[Redis]:
    url = servers.url(name)
    with closing(RedisStore.create_or_open(url, bundle.identity, buckets=4)) as writer:
        write(writer, bundle)
    with closing(Proxy(servers.nodes[0].port or 0)) as proxy:
        behind = url._replace(hosts=(("127.0.0.1", proxy.port),), timeout_s=TIMEOUT_S, retries=0)
        with (
            closing(RedisStore.open_to_read(behind)) as store,
            closing(Answers(bundle, store, **limits)) as answers,
        ):
            yield Redis(answers, proxy)


@pytest.fixture(scope="module")
def redis(servers: RedisServers, bundle: Bundle) -> Iterator[Redis]:
    with through_proxy(servers, bundle, "faults") as made:
        yield made


FAULTS = st.one_of(
    st.just(Fault()),
    st.integers(0, 2000).map(lambda size: Fault(cut_at=size)),
    st.integers(0, 20_000).map(lambda bit: Fault(bit=bit)),
    st.sampled_from([Fault(delay_s=0.01), Fault(delay_s=1.5 * TIMEOUT_S)]),
)


@settings(max_examples=30)
@given(st.lists(st.lists(FAULTS, min_size=1, max_size=3), min_size=1, max_size=3))
def test_whatever_the_network_does_a_score_is_of_the_users_own_memory_or_there_is_none(
    redis: Redis, turns: list[list[Fault]]
) -> None:
    """Also after it: an answer that comes late, or the rest of one that was cut off, is never the next user's."""
    for faults in turns:
        # The first of them spoils a memory, the others what comes next: perhaps the greeting of a new connection.
        redis.proxy.faults[:] = faults
        for user in ("low", "high", "low"):
            hold(user, redis.answers.ask([user])[0])
        redis.proxy.faults.clear()
        told = [hold(user, redis.answers.ask([user])[0]) for user in ("high", "low")]
        assert told[-1] == "live"


def test_an_answer_cut_off_after_any_byte_gives_no_score(redis: Redis) -> None:
    whole = hold("low", redis.answers.ask(["low"])[0])
    assert whole == "live"
    for size in range(0, 300, 23):
        redis.proxy.faults[:] = [Fault(cut_at=size)]
        assert hold("low", redis.answers.ask(["low"])[0]) == "store", size
        redis.proxy.faults.clear()
        assert hold("low", redis.answers.ask(["low"])[0]) == "live"


def test_an_answer_with_a_bit_turned_on_its_way_gives_the_users_score_or_none(redis: Redis, bundle: Bundle) -> None:
    size = len(bundle.codec.encode(tiny.memory(bundle, 0.0)))
    told = []
    # Of every seventh byte the second highest bit: in floats, now and then, that of the exponent which changes most.
    for at in range(0, size, 7):
        # A connection that was given up is made anew, or it would be the greeting that is spoilt.
        redis.proxy.faults.clear()
        assert hold("low", redis.answers.ask(["low"])[0]) == "live"
        redis.proxy.faults[:] = [Fault(bit=8 * at + 6)]
        told.append(hold("low", redis.answers.ask(["low"])[0]))
    redis.proxy.faults.clear()
    assert {"store", "incompatible"} <= set(told)
    assert "live" not in told


def test_a_paused_redis_holds_nobody_up_and_the_server_goes_on_with_it(servers: RedisServers, bundle: Bundle) -> None:
    """Many callers at once, more than there are threads: each is told within its time, and none of them waits in vain."""
    with through_proxy(servers, bundle, "paused", waiting=4) as redis:
        node = servers.nodes[0]
        node.pause()
        try:
            told = redis.answers.ask(sorted(LEVELS), times=12)
        finally:
            node.resume()
        assert {hold("low", each) for each in told} <= {"store", "too_late", "overloaded"}
        assert max(each.seconds for each in told) < TIME_S + SLACK_S
        # Those that were given up are still in the threads for a moment.
        give_up_at = time.monotonic() + SLACK_S
        while (word := hold("high", redis.answers.ask(["high"])[0])) != "live":
            assert time.monotonic() < give_up_at, word
        assert 'outcome="store"' in redis.answers.service.metrics.text().decode()


# RocksDB


@pytest.fixture(scope="module")
def rocks(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store on disk, all of it in RocksDB's tables."""
    path = tmp_path_factory.mktemp("faults") / "store"
    with closing(RocksStore.create_or_open(path, bundle.identity)) as store:
        write(store, bundle)
    assert list(path.glob("*.sst"))
    return path


@contextmanager
def altered(rocks: Path) -> Iterator[Path]:
    """A copy of the store, to be spoiled."""
    copy = rocks.with_name("spoiled")
    shutil.copytree(rocks, copy)
    try:
        yield copy
    finally:
        shutil.rmtree(copy)


@settings(max_examples=40)
@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_a_wrong_byte_in_a_table_on_disk_is_told_and_never_scored_from(
    rocks: Path, bundle: Bundle, place: float, mask: int
) -> None:
    with altered(rocks) as copy:
        table = next(iter(copy.glob("*.sst")))
        data = bytearray(table.read_bytes())
        data[int(place * len(data))] ^= mask
        table.write_bytes(data)
        try:
            store = RocksStore.open_to_read(copy)
        except StoreError:
            return  # told at the start
        with closing(store), closing(Answers(bundle, store)) as answers:
            for user in LEVELS:
                hold(user, answers.ask([user])[0])


def test_a_memory_with_a_wrong_crc_is_marked_in_either_store(servers: RedisServers, bundle: Bundle, tmp_path: Path) -> None:
    blob = bytearray(bundle.codec.encode(tiny.memory(bundle, 3.0)))
    blob[-1] ^= 1
    made: list[RedisStore | RocksStore] = [
        RedisStore.create_or_open(servers.url("crc"), bundle.identity, buckets=4),
        RocksStore.create_or_open(tmp_path / "store", bundle.identity),
    ]
    for store in made:
        with closing(store), closing(Answers(bundle, store)) as answers:
            assert store.write("low", bytes(blob))
            assert hold("low", answers.ask(["low"])[0]) == "incompatible"


def test_without_the_file_of_its_generations_a_store_gives_no_scores(rocks: Path, bundle: Bundle) -> None:
    """It says which memories count; without it those that a rollback took away would be scored from."""
    with altered(rocks) as copy:
        with closing(RocksStore.create_or_open(copy, bundle.identity)) as writer:
            writer.begin_generation(1, writer.retention.days.begins_ms(writer.days_kept()[-1]))
        with closing(RocksStore.open_to_read(copy)) as store, closing(Answers(bundle, store)) as answers:
            assert answers.ask(["low"])[0].status == 200
            (copy / "lineage.json").unlink()
            told = answers.ask(["low"])[0]
            assert hold("low", told) == "store"
            assert "it was there, and is gone" in told.body["error"]["message"]


# The way to the caller


def test_a_caller_never_takes_a_part_of_an_answer_for_the_whole(bundle: Bundle, rocks: Path) -> None:
    """The connection ends after any number of bytes of the server's answer."""
    with closing(RocksStore.open_to_read(rocks)) as store, closing(Answers(bundle, store)) as answers:
        body = httpx.Response(200, json=answers.ask(["low"])[0].body).content
    whole = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    sizes = [*range(0, len(whole), 29), len(whole) - 1, len(whole)]

    def serve() -> None:
        for size in sizes:
            connection, _ = listener.accept()
            with connection:
                received = b""
                while b"low" not in received:
                    received += connection.recv(65536)
                connection.sendall(whole[:size])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        for size in sizes:
            with ScoreClient(url, tries=1, timeout_s=SLACK_S) as client:
                if size == len(whole):
                    assert client.score("low", [Candidate(3, 2)]).probabilities == pytest.approx(formula(-2.0), abs=1e-6)
                    continue
                with pytest.raises(NotScored, match="no answer") as caught:
                    client.score("low", [Candidate(3, 2)])
                assert caught.value.may_pass
