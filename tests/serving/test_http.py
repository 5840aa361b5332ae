"""The HTTP application over a store in memory: every problem has its status, its word and its sentence."""

import asyncio
import dataclasses
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest
import tiny

from serving.app import Tokens, make_app
from serving.service import Limits, Service
from serving.wire import ScoreAnswer
from uic.bundle import Bundle
from uic.errors import BundleError, StoreMismatch
from uic.store.contract import InMemoryStore, StoreIdentity

LIMITS = Limits(body_bytes=2000, users=3, candidates=20, time_s=5.0, threads=1, waiting=1, short=0)
ONE = {"users": [{"user_id": "u", "candidates": [{"item_id": 1, "category_id": 1}]}]}
Lines = list[Mapping[str, Any]]


class Store(InMemoryStore):
    """A store in memory; while `gate` is closed it does not answer."""

    def __init__(self, identity: StoreIdentity) -> None:
        super().__init__()
        self.identity = identity
        self.gate = threading.Event()
        self.gate.set()
        self.asked = threading.Semaphore(0)
        self.readers: set[str] = set()

    def read(self, user_id: str, as_of: date | None = None) -> bytes | None:
        self.readers.add(threading.current_thread().name)
        self.asked.release()
        assert self.gate.wait(30)
        return super().read(user_id, as_of)

    def refresh(self) -> None:
        raise OSError("the disk is gone")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(tiny.make_bundle(tmp_path_factory.mktemp("http") / "bundle"))


class World:
    """An application, a way to ask it, and what its log says."""

    def __init__(
        self, bundle: Bundle, pointer: Path, limits: Limits = LIMITS, tokens: Tokens = Tokens(), place: Path = Path("store")
    ) -> None:
        self.store = Store(bundle.identity)
        self.service = Service(pointer, self.store, place, limits)
        self.lines: Lines = []
        self.app = make_app(self.service, tokens, self.lines.append)

    def run(self, ask: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
        async def main() -> None:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
                await ask(http)

        try:
            asyncio.run(main())
        finally:
            self.store.gate.set()
            self.service.close()

    def one(self, method: str = "POST", path: str = "/v1/score", **request: Any) -> httpx.Response:
        found: list[httpx.Response] = []

        async def ask(http: httpx.AsyncClient) -> None:
            found.append(await http.request(method, path, **request))

        self.run(ask)
        return found[0]


@pytest.fixture
def world(bundle: Bundle) -> World:
    made = World(bundle, bundle.path)
    made.service.load()
    return made


def problem(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert error["message"]
    return response.status_code, error["code"]


@pytest.mark.parametrize(
    ("body", "expected", "said"),
    [
        (b"", (400, "bad_json"), "Input data was truncated"),
        (b"{", (400, "bad_json"), "Input data was truncated"),
        (b"\xff\xfe", (400, "bad_json"), "UTF-8"),
        (b"[]", (422, "invalid"), "Expected `object`, got `array`"),
        (b"{}", (422, "invalid"), "missing required field `users`"),
        (b'{"users": []}', (422, "invalid"), "length >= 1"),
        (b'{"users": [], "user": 1}', (422, "invalid"), "length >= 1"),
        (
            b'{"users": [{"user_id": "u", "candidates": [{"item_id": "1"}]}]}',
            (422, "invalid"),
            "$.users[0].candidates[0].item_id",
        ),
        (b'{"users": [{"user_id": "u", "candidates": [{"item_id": 1.5}]}]}', (422, "invalid"), "Expected `int`"),
        (b'{"users": [{"user_id": "u", "candidates": [{"item_id": 9223372036854775808}]}]}', (422, "invalid"), "item_id"),
        (
            b'{"users": [{"user_id": "u", "candidates": [{"item_id": 1, "colour": 1}]}]}',
            (422, "invalid"),
            "unknown field `colour`",
        ),
        (b'{"users": [{"user_id": "", "candidates": []}]}', (422, "invalid"), "length >= 1"),
        (b'{"users": [{"user_id": true, "candidates": []}]}', (422, "invalid"), "got `bool`"),
        (b'{"users": [{"user_id": "\\ud800", "candidates": []}]}', (400, "bad_json"), "surrogate"),
        ('{"users": [{"user_id": "%s", "candidates": []}]}' % ("ü" * 65), (422, "invalid"), "at most 128 UTF-8 bytes"),
        (b'{"as_of": "yesterday", "users": [{"user_id": "u", "candidates": []}]}', (422, "invalid"), "RFC3339"),
        (
            b'{"as_of": "2026-11-20", "users": [{"user_id": "u", "candidates": []}]}',
            (422, "day_not_kept"),
            "no day is kept yet",
        ),
        (json.dumps({"users": ONE["users"] * 4}), (422, "too_many_users"), "at most 3 users a request, got 4"),
        (json.dumps({"users": [{"user_id": 1, "candidates": [{"item_id": 1}] * 21}]}), (422, "too_many_candidates"), "20"),
        (b" " * 2001, (413, "too_large"), "at most 2000 bytes"),
        (b"[" * 1999, (422, "invalid"), "Expected `object`"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(world: World, body: bytes | str, expected: tuple[int, str], said: str) -> None:
    response = world.one(content=body)
    assert problem(response) == expected
    assert said in response.json()["error"]["message"]
    assert world.lines[0]["status"] == expected[0]


def test_a_body_without_a_length_is_cut_off_too(world: World) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while taken < 100_000:
            taken += 1000
            yield b" " * 1000

    assert problem(world.one(content=endless())) == (413, "too_large")


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/v1/score", (405, "no_such_method")),
        ("POST", "/v2/score", (404, "no_such_path")),
        ("GET", "/", (404, "no_such_path")),
    ],
)
def test_other_paths_and_methods_are_problems_in_json_too(
    world: World, method: str, path: str, expected: tuple[int, str]
) -> None:
    assert problem(world.one(method, path)) == expected


@pytest.mark.parametrize(
    ("given", "expected"), [(None, 401), ("secret", 401), ("Bearer wrong", 401), ("Bearer secret", 200), ("Bearer sécret", 401)]
)
def test_scores_want_the_token(bundle: Bundle, given: str | None, expected: int) -> None:
    world = World(bundle, bundle.path, tokens=Tokens(score="secret"))
    world.service.load()
    headers = {} if given is None else {"authorization": given.encode()}
    response = world.one(json=ONE, headers=headers)
    assert response.status_code == expected
    if expected == 401:
        assert problem(response) == (401, "unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"


def test_health_and_metrics_want_no_token(bundle: Bundle) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
        world = World(bundle, bundle.path, tokens=Tokens(score="secret"))
        world.service.load()
        assert world.one("GET", path).status_code == 200


def test_a_server_is_alive_at_once_and_ready_when_its_bundle_is_warm(bundle: Bundle) -> None:
    world = World(bundle, bundle.path)

    async def ask(http: httpx.AsyncClient) -> None:
        assert (await http.get("/healthz")).status_code == 200
        assert problem(await http.get("/readyz")) == (503, "starting")
        assert problem(await http.post("/v1/score", json=ONE)) == (503, "starting")
        await asyncio.to_thread(world.service.load)
        assert (await http.get("/readyz")).json()["bundle_version"] == 1
        assert (await http.post("/v1/score", json=ONE)).status_code == 200
        world.service.is_draining = True
        assert problem(await http.get("/readyz")) == (503, "draining")
        last = await http.post("/v1/score", json=ONE)
        assert (last.status_code, last.headers["connection"]) == (200, "close")

    world.run(ask)


def test_more_than_may_wait_is_turned_away_at_once_and_the_rest_is_answered(world: World) -> None:
    world.store.gate.clear()

    async def ask(http: httpx.AsyncClient) -> None:
        first = asyncio.create_task(http.post("/v1/score", json=ONE))
        assert await asyncio.to_thread(world.store.asked.acquire, timeout=30)
        second = asyncio.create_task(http.post("/v1/score", json=ONE))
        while "uic_serve_inside 2.0" not in (await http.get("/metrics")).text:
            await asyncio.sleep(0)
        third = await http.post("/v1/score", json=ONE)
        assert problem(third) == (503, "overloaded")
        assert third.headers["retry-after"] == "1"
        assert (await http.get("/healthz")).status_code == 200  # the event loop is free
        world.store.gate.set()
        assert [(await each).status_code for each in (first, second)] == [200, 200]
        assert (await http.post("/v1/score", json=ONE)).status_code == 200

    world.run(ask)


def test_what_takes_too_long_is_given_up_and_what_has_not_begun_never_does(bundle: Bundle) -> None:
    world = World(bundle, bundle.path, Limits(threads=1, waiting=1, time_s=0.2, short=0))
    world.service.load()
    world.store.gate.clear()

    async def ask(http: httpx.AsyncClient) -> None:
        answers = await asyncio.gather(*(http.post("/v1/score", json=ONE) for _ in range(2)))
        assert [problem(each) for each in answers] == [(504, "too_late")] * 2
        world.store.gate.set()
        while "uic_serve_inside 0.0" not in (await http.get("/metrics")).text:
            await asyncio.sleep(0)

    world.run(ask)
    assert world.store.asked.acquire(timeout=0)
    assert not world.store.asked.acquire(timeout=0)


@pytest.mark.parametrize(
    ("place", "candidates", "is_here"), [("store", 2, True), ("store", 3, False), ("redis://localhost/1?name=s", 1, False)]
)
def test_the_event_loop_answers_what_is_short_and_read_from_this_machine(
    bundle: Bundle, place: str, candidates: int, is_here: bool
) -> None:
    world = World(bundle, bundle.path, dataclasses.replace(LIMITS, short=2), place=Path(place))
    world.service.load()
    body = {"users": [{"user_id": "u", "candidates": [{"item_id": 1}] * candidates}]}
    assert world.one(json=body).status_code == 200
    assert (world.store.readers == {threading.current_thread().name}) == is_here


def test_our_mistake_is_told_to_the_log_and_not_to_the_caller(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("the secret of the house")

    monkeypatch.setattr(world.service.model, "score", fail)
    response = world.one(json=ONE)
    assert problem(response) == (500, "internal")
    assert "secret" not in response.text
    assert "ZeroDivisionError: the secret of the house" in world.lines[0]["mistake"]


def test_an_answer_has_the_callers_id_and_its_line_in_the_log(world: World) -> None:
    response = world.one(json=ONE, headers={"x-request-id": "abc-1"})
    assert response.headers["x-request-id"] == "abc-1"
    (line,) = world.lines
    expected = {
        "request": "abc-1", "method": "POST", "path": "/v1/score", "status": 200,
        "users": 1, "candidates": 1, "bundle_version": 1, "found": {"initial": 1},
    }  # fmt: skip
    assert expected.items() <= line.items()
    assert line["ms"] >= 0


@pytest.mark.parametrize("given", [b"", b"a\tb", b"\xff", b"x" * 100])
def test_an_id_that_could_spoil_a_log_is_not_taken(world: World, given: bytes) -> None:
    response = world.one(json=ONE, headers={b"x-request-id": given})
    assert response.headers["x-request-id"].isprintable()
    assert len(response.headers["x-request-id"]) <= 64


def test_the_metrics_count_what_was_found_and_how_far_off(world: World, bundle: Bundle) -> None:
    for user, written_by in (("same", 1), ("ahead", 3), ("foreign", 99)):
        memory = tiny.memory(bundle, 1.0, bundle_version=written_by)
        world.store.write(user, bundle.codec.encode(memory))
    world.service.metrics.know(3, 3 * 3_600_000)
    users = [{"user_id": user, "candidates": [{"item_id": 1}]} for user in ("same", "ahead", "foreign")]

    async def ask(http: httpx.AsyncClient) -> None:
        await http.post("/v1/score", json={"users": users})
        await http.post("/v1/score", json=ONE)
        await http.post("/v1/score", content=b"{")
        metrics = (await http.get("/metrics")).text.splitlines()
        for line in [
            'uic_serve_requests_total{outcome="ok"} 2.0', 'uic_serve_requests_total{outcome="bad_json"} 1.0',
            'uic_serve_memories_total{found="live"} 3.0', 'uic_serve_memories_total{found="initial"} 1.0',
            'uic_serve_skew_hours_bucket{le="0.0"} 1.0', "uic_serve_skew_hours_sum 2.0", "uic_serve_skew_unknown_total 1.0",
            "uic_serve_memory_age_seconds_count 3.0", 'uic_serve_seconds_count{stage="score"} 2.0',
            "uic_serve_bundle_version 1.0",
        ]:  # fmt: skip
            assert line in metrics

    world.run(ask)


def test_a_store_that_cannot_be_refreshed_goes_on_being_read(world: World) -> None:
    world.service.refresh()
    assert world.one(json=ONE).status_code == 200


@pytest.mark.parametrize(("admin", "expected"), [(None, (403, "no_admin")), ("other", (401, "unauthorized"))])
def test_not_everybody_may_change_the_bundle(bundle: Bundle, admin: str | None, expected: tuple[int, str]) -> None:
    world = World(bundle, bundle.path, tokens=Tokens(score="secret", admin=admin))
    assert problem(world.one(path="/v1/admin/bundle", headers={"authorization": "Bearer secret"})) == expected


def test_a_new_bundle_takes_over_and_a_bad_one_does_not(bundle: Bundle, tmp_path: Path) -> None:
    pointer = tmp_path / "current"
    pointer.symlink_to(bundle.path)
    world = World(bundle, pointer, tokens=Tokens(admin="admin"))
    world.service.load()

    def point(to: Path) -> None:
        (tmp_path / "next").symlink_to(to)
        (tmp_path / "next").replace(pointer)

    async def ask(http: httpx.AsyncClient) -> None:
        async def promote() -> httpx.Response:
            return await http.post("/v1/admin/bundle", headers={"authorization": "Bearer admin"})

        async def scores() -> ScoreAnswer:
            return (await http.post("/v1/score", json=ONE)).json()  # type: ignore[no-any-return]  # any JSON

        before = await scores()
        assert (await promote()).json() == {"bundle_version": 1, "before": 1}
        point(tiny.make_bundle(tmp_path / "second", version=2, shift=1.0))
        assert (await promote()).json() == {"bundle_version": 2, "before": 1}
        after = await scores()
        assert after["bundle_version"] == 2  # type: ignore[index]
        assert after["users"][0]["probabilities"] > before["users"][0]["probabilities"]  # type: ignore[index]
        for number, bad in enumerate(({"shift": float("nan")}, {"lineage": "another"}, {"slots": 6})):
            point(tiny.make_bundle(tmp_path / f"bad-{number}", version=3, **bad))  # type: ignore[arg-type]
            assert problem(await promote()) == (409, "bundle_refused")
        point(tmp_path / "nowhere")
        assert problem(await promote()) == (409, "bundle_refused")
        assert await scores() == after
        assert "uic_serve_bundle_refusals_total 4.0" in (await http.get("/metrics")).text

    world.run(ask)


def test_a_bundle_of_other_memories_is_refused_at_the_start(bundle: Bundle, tmp_path: Path) -> None:
    other = tiny.make_bundle(tmp_path / "other", lineage="another")
    with pytest.raises(StoreMismatch, match="lineage"):
        World(bundle, other).service.load()
    with pytest.raises(BundleError, match="expected a bundle directory"):
        World(bundle, tmp_path / "nothing").service.load()


def test_the_schema_names_every_path_and_its_examples_are_true(world: World, bundle: Bundle) -> None:
    async def ask(http: httpx.AsyncClient) -> None:
        document = (await http.get("/openapi.json")).json()
        assert set(document["paths"]) == {"/v1/score", "/v1/admin/bundle", "/healthz", "/readyz", "/metrics", "/openapi.json"}
        content = document["paths"]["/v1/score"]["post"]["requestBody"]["content"]["application/json"]
        response = await http.post("/v1/score", json=content["examples"]["now"]["value"])
        example = document["paths"]["/v1/score"]["post"]["responses"]["200"]["content"]["application/json"]["example"]
        assert response.status_code == 200
        assert response.json().keys() == example.keys()
        assert response.json()["users"][1].keys() == example["users"][1].keys()

    world.run(ask)
