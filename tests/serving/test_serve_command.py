"""`uic serve` as a process on a real socket: while its store is written, while its bundle is replaced, until its end."""

import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import tiny

from jobs.dev.tls import make_certificates
from jobs.settings import load_settings
from serving.client import Candidate, NotScored, ScoreClient
from serving.wire import UserScores
from uic.bundle import Bundle
from uic.errors import BadInput
from uic.store.moved import Pair, move
from uic.store.rocksdb import RocksStore

CANDIDATES = [Candidate(3, 2), Candidate(1, 1), Candidate(2)]
WITHIN_S = 60.0
Found = Callable[[], bool]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def first(root: Path) -> Bundle:
    return Bundle.open(tiny.make_bundle(root / "first"))


@pytest.fixture(scope="module")
def second(root: Path) -> Path:
    return tiny.make_bundle(root / "second", version=2, parent=1, shift=1.0)


@pytest.fixture
def store(first: Bundle, tmp_path: Path) -> Path:
    return tiny.make_store(tmp_path / "store", first, {"low": tiny.memory(first, -2.0), "high": tiny.memory(first, 0.5)})


def until(found: Found) -> None:
    give_up_at = time.monotonic() + WITHIN_S
    while not found():
        assert time.monotonic() < give_up_at, "it did not come true in time"
        time.sleep(0.02)


def link(path: Path, to: Path) -> Path:
    """`path` points to `to`, from one moment to the next."""
    following = path.with_name(f"{path.name}.next")
    following.symlink_to(to)
    following.replace(path)
    return path


def sigmoid(logit: float) -> float:
    return float(1 / (1 + 2.718281828459045**-logit))


def formula(level: float, shift: float = 0.0) -> list[float]:
    # Item i has row i + 1, category c row c + 1, an unknown category row 1.
    rows = [(4, 3), (2, 2), (3, 1)]
    return [sigmoid(level + item / 64 + category / 16 + shift) for item, category in rows]


class Load:
    """Threads that ask without a pause and without a second try; what they were told."""

    def __init__(self, url: str, threads: int = 3) -> None:
        self.answers: list[tuple[int, UserScores]] = []
        self.failures: list[Exception] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(url,)) for _ in range(threads)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, url: str) -> None:
        with ScoreClient(url, tries=1, timeout_s=WITHIN_S) as client:
            while not self._stop.is_set():
                try:
                    answer = client.score_users([("low", CANDIDATES), ("high", CANDIDATES)])
                except NotScored as error:
                    self.failures.append(error)
                    return
                self.answers += [(answer.bundle_version, user) for user in answer.users]


def test_memories_written_by_another_process_are_scored_from_moments_later(first: Bundle, store: Path) -> None:
    """The writer is a process that goes on writing; what is read is always one of the memories that it wrote, whole."""
    writing = store.with_name("write.py")
    writing.write_text(
        "import sys, time; from pathlib import Path; sys.path[:0] = sys.argv[3:]\n"
        "import tiny; from uic.bundle import Bundle; from uic.store.rocksdb import RocksStore\n"
        "bundle = Bundle.open(Path(sys.argv[1])); store = RocksStore.create_or_open(Path(sys.argv[2]), bundle.identity)\n"
        "for number in range(1, 1_000_000):\n"
        "    store.write('new', bundle.codec.encode(tiny.memory(bundle, number / 1024, sequence=number)))\n"
        "    time.sleep(0.001)\n"
    )
    with tiny.serving(first.path, store, refresh_s=0.02) as server, ScoreClient(server.url) as client:
        assert client.score("new", CANDIDATES).found == "initial"
        command = [sys.executable, writing, first.path, store, tiny.ROOT, Path(__file__).parent]
        writer = subprocess.Popen(command)
        try:
            seen: list[int] = []

            def has_moved_on() -> bool:
                scores = client.score("new", CANDIDATES)
                if scores.memory is not None:
                    seen.append(scores.memory.events)
                    assert scores.probabilities == pytest.approx(formula(scores.memory.events / 1024), abs=1e-6)
                return len(set(seen)) >= 5

            until(has_moved_on)
            assert seen == sorted(seen)
        finally:
            writer.kill()
            writer.wait()
        assert server.end() == 0


def test_each_answer_is_of_one_bundle_while_it_is_replaced_under_load(
    first: Bundle, second: Path, store: Path, tmp_path: Path
) -> None:
    pointer = link(tmp_path / "current", first.path)
    with tiny.serving(pointer, store, admin_token="admin", threads=2, waiting=100) as server:
        with Load(server.url) as load:
            until(lambda: len(load.answers) > 20)
            for to in (second, first.path, second):
                link(pointer, to)
                before = len(load.answers)
                if to == first.path:
                    promoted = httpx.post(
                        f"{server.url}/v1/admin/bundle", headers={"authorization": "Bearer admin"}, timeout=WITHIN_S
                    )
                    assert promoted.json() == {"bundle_version": 1, "before": 2}
                else:
                    server.process.send_signal(signal.SIGHUP)
                assert server.wait_for("bundle")["bundle_version"] == (1 if to == first.path else 2)
                until(lambda before=before: len(load.answers) > before + 20)  # type: ignore[misc]  # bound early on purpose
        assert server.end() == 0
    assert load.failures == []
    assert {version for version, _ in load.answers} == {1, 2}
    for version, user in load.answers:
        expected = formula(-2.0 if user.user_id == "low" else 0.5, shift=version - 1.0)
        assert user.probabilities == pytest.approx(expected, abs=1e-6)


def test_a_pointer_that_is_watched_needs_no_signal_and_a_bad_bundle_changes_nothing(
    first: Bundle, second: Path, store: Path, tmp_path: Path
) -> None:
    pointer = link(tmp_path / "current", first.path)
    with tiny.serving(pointer, store, watch_s=0.05) as server, ScoreClient(server.url) as client:
        link(pointer, tiny.make_bundle(tmp_path / "foreign", version=9, lineage="another"))
        assert "lineage" in server.wait_for("bundle refused")["why"]
        assert client.score_users([("low", CANDIDATES)]).bundle_version == 1
        link(pointer, second)
        server.wait_for("bundle")
        assert client.score_users([("low", CANDIDATES)]).bundle_version == 2
        assert server.end() == 0


def test_a_server_that_is_told_to_end_answers_what_it_took(first: Bundle, store: Path) -> None:
    """Callers that do not try again, and connect anew when told to, see no failure until it has left."""
    with tiny.serving(first.path, store, drain_s=5, waiting=100) as server:
        with Load(server.url) as load:
            until(lambda: len(load.answers) > 20)
            server.process.terminate()
            server.wait_for("draining")
            with httpx.Client(base_url=server.url) as http:
                assert http.get("/readyz").status_code == 503
                last = http.post("/v1/score", json={"users": [{"user_id": "low", "candidates": []}]})
                assert (last.status_code, last.headers["connection"]) == (200, "close")
            answered = len(load.answers)
            until(lambda: len(load.answers) > answered + 20)
        assert server.end() == 0
    assert load.failures == []
    asked = [line for line in server.lines if line.get("path") == "/v1/score"]
    assert {line["status"] for line in asked} == {200}
    assert sum(line["users"] for line in asked) == len(load.answers) + 1


@pytest.fixture(scope="module")
def shared(first: Bundle, root: Path) -> Iterator[tiny.Server]:
    """A server whose store has a damaged memory."""
    memories = {"high": tiny.memory(first, 0.5)}
    written = RocksStore.create_or_open(tiny.make_store(root / "shared", first, memories), first.identity)
    blob = bytearray(first.codec.encode(tiny.memory(first, 3.0)))
    blob[100] ^= 1
    assert written.write("damaged", bytes(blob))
    written.close()
    with tiny.serving(first.path, root / "shared", time_s=2) as server:
        yield server


def test_a_damaged_memory_in_the_store_is_marked_and_never_scored_from(shared: tiny.Server) -> None:
    with ScoreClient(shared.url, timeout_s=WITHIN_S) as client:
        users = client.score_users([("damaged", CANDIDATES), ("high", CANDIDATES), ("nobody", CANDIDATES)]).users
    assert [(user.found, user.why) for user in users] == [("incompatible", "checksum"), ("live", None), ("initial", None)]
    assert users[0].probabilities == users[2].probabilities
    assert users[1].probabilities == pytest.approx(formula(0.5), abs=1e-6)
    assert 'uic_serve_incompatible_total{why="checksum"} 1.0' in httpx.get(f"{shared.url}/metrics").text


def test_a_caller_that_sends_half_a_request_is_not_waited_for(shared: tiny.Server) -> None:
    port = int(shared.url.rpartition(":")[2])
    half_a_request = b"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"
    with socket.create_connection(("localhost", port), timeout=WITHIN_S) as half:
        half.sendall(half_a_request)
        with socket.create_connection(("localhost", port), timeout=WITHIN_S) as gone:
            gone.sendall(half_a_request)
        with ScoreClient(shared.url) as client:
            assert client.score("high", CANDIDATES).found == "live"
        assert half.recv(4096).startswith(b"HTTP/1.1 408")


def test_twice_what_it_can_do_is_shed_quickly_and_the_rest_is_answered(first: Bundle, store: Path) -> None:
    body = json.dumps({"users": [{"user_id": "low", "candidates": [{"item_id": 1}] * 5000}]})
    told: list[tuple[int, float]] = []

    def ask(url: str) -> None:
        with httpx.Client(base_url=url, timeout=WITHIN_S) as http:
            for _ in range(10):
                began = time.monotonic()
                told.append((http.post("/v1/score", content=body).status_code, time.monotonic() - began))

    with tiny.serving(first.path, store, threads=1, waiting=1, time_s=WITHIN_S) as server:
        threads = [threading.Thread(target=ask, args=(server.url,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {status for status, _ in told} == {200, 503}
        assert 'outcome="overloaded"' in httpx.get(f"{server.url}/metrics").text
        assert server.end() == 0


def test_tls_and_token(first: Bundle, store: Path, tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "tls")
    pem, key = made.ca.with_name("server.pem"), made.ca.with_name("server.key")
    with tiny.serving(first.path, store, certificate=pem, key=key, token="secret") as server:
        trusted = ssl.create_default_context(cafile=str(made.ca))
        with ScoreClient(server.url, verify=trusted, token="secret") as client:
            assert client.score("low", CANDIDATES).probabilities == pytest.approx(formula(-2.0), abs=1e-6)
        with ScoreClient(server.url, verify=trusted) as client, pytest.raises(NotScored, match="401 unauthorized"):
            client.score("low", CANDIDATES)
        with ScoreClient(server.url, token="secret", tries=1) as client, pytest.raises(NotScored, match="CERTIFICATE_VERIFY"):
            client.score("low", CANDIDATES)


def ended(bundle: Path, store: Path, **settings: object) -> tuple[int, str]:
    """How a server ends that cannot start, and what it says to people."""
    with tiny.started(bundle, store, **settings) as process:
        _, said = process.communicate(timeout=WITHIN_S)
        return process.returncode, said.decode()


def test_a_server_that_cannot_start_says_why_in_one_line(first: Bundle, store: Path, tmp_path: Path) -> None:
    foreign = tiny.make_bundle(tmp_path / "foreign", lineage="another")
    with socket.create_server(("localhost", 0)) as taken:
        wrong = [
            (ended(foreign, store), "StoreMismatch: "),
            (ended(first.path, store, port=taken.getsockname()[1]), "EnvironmentProblem: serve: port "),
        ]
    for (code, said), begins in wrong:
        assert code == 2
        assert said.startswith(begins)
        assert said.count("\n") == 1


@pytest.mark.parametrize("name", ["token", "admin_token"])
def test_tokens_do_not_belong_in_a_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "uic.yaml").write_text(f"serve:\n  {name}: secret\n")
    with pytest.raises(BadInput, match=rf"serve\.{name}: a secret .* set UIC__SERVE__{name.upper()}"):
        load_settings(tmp_path / "uic.yaml")


def test_half_of_tls_is_refused(tmp_path: Path) -> None:
    (tmp_path / "uic.yaml").write_text("serve:\n  key: key.pem\n")
    with pytest.raises(BadInput, match=r"serve: .*TLS wants certificate and key, got one of them"):
        load_settings(tmp_path / "uic.yaml")


def test_all_readers_go_over_to_another_store_and_its_bundle_in_one_moment(first: Bundle, store: Path, tmp_path: Path) -> None:
    """Memories of another layout: each answer is of one pair, none is a new user's, and none fails."""
    other = Bundle.open(tiny.make_bundle(tmp_path / "other", version=7, lineage="other", slots=6, shift=2.0))
    levels = {"low": 1.0, "high": 3.0}
    beside = tiny.make_store(tmp_path / "beside", other, {user: tiny.memory(other, level) for user, level in levels.items()})
    expected = {
        1: {"low": formula(-2.0), "high": formula(0.5)},
        7: {user: formula(level, shift=2.0) for user, level in levels.items()},
    }
    with tiny.serving(first.path, store) as server, Load(server.url) as load:
        until(lambda: len(load.answers) > 50)
        move(store, Pair(beside, other.path))
        until(lambda: sum(version == 7 for version, _ in load.answers) > 50)
    assert not load.failures
    for version, user in load.answers:
        assert user.found == "live"
        assert user.probabilities == pytest.approx(expected[version][user.user_id], abs=1e-5)
    with tiny.serving(first.path, store) as restarted, ScoreClient(restarted.url) as client:
        assert client.score_users([("low", CANDIDATES)]).bundle_version == 7
