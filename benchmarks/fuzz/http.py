"""The HTTP schema by schemathesis: drawn requests, good and bad, are answered as the schema says, whoever asks.

Three servers take turns: the application in this process, the same asking for a token and with narrow limits, and `uic serve`
as a process. A round draws requests of one kind for one of them; what is wrong is shrunk to the smallest request of its kind.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from itertools import count, cycle
from pathlib import Path
from typing import Any, NamedTuple

import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from schemathesis import BaseSchema, Case, CheckContext, GenerationMode, Response
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from benchmarks import load
from benchmarks.fuzz.engine import Ran
from benchmarks.fuzz.target import Finding
from benchmarks.rtp.generator import HOST
from benchmarks.rtp.servers import ours
from serving.app import Tokens, make_app
from serving.service import Limits, Service
from uic.bundle import Bundle
from uic.store.rocksdb import RocksStore

LAW = "every request, good or bad, by whoever asks, is answered as the schema says"
_TOKEN = "secret"
# Spelled as schemathesis does, or the requests by which it tries to do without would carry it all the same.
_RIGHT = {"Authorization": f"Bearer {_TOKEN}"}
_WRONG: tuple[dict[str, str], ...] = ({}, {"authorization": "Bearer wrong"}, {"authorization": _TOKEN}, {"authorization": ""})
_NARROW = Limits(body_bytes=600, users=2, candidates=4)
_A_ROUND = 50
# What a good request may be refused for besides: the store decides which days are kept, limits and bytes are said in words; and
# 242.0 is an integer to JSON Schema, to us it is none.
_STILL_GOOD = frozenset({"day_not_kept", "too_many_users", "too_many_candidates", "too_large"})
_STILL_GOOD_WORDS = ("UTF-8 bytes", "surrogate", "got `float`")


class Served(NamedTuple):
    """A server and whether it wants a token."""

    name: str
    schema: BaseSchema
    has_token: bool


@schemathesis.check
def good_requests_are_answered(context: CheckContext, response: Response, case: Case[Any]) -> bool | None:  # of any operation
    """Instead of schemathesis' own check, which knows nothing of limits that a schema cannot say."""
    if case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE and response.status_code in (400, 422):
        error = response.json()["error"]
        assert error["code"] in _STILL_GOOD or any(words in error["message"] for words in _STILL_GOOD_WORDS), error
    return None


@schemathesis.check
def bad_requests_are_refused(context: CheckContext, response: Response, case: Case[Any]) -> bool | None:  # of any operation
    """Schemathesis' own check, which does not count a body that is too large as refused."""
    too_large = 413
    return None if response.status_code == too_large else checks.negative_data_rejection(context, response, case)


CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    bad_requests_are_refused,
    checks.unsupported_method,
    good_requests_are_answered,
]
GUARDED = [*CHECKS, checks.ignored_auth]


@contextmanager
def served(work: Path, bundle: Bundle) -> Iterator[list[Served]]:
    """All three, over one store with a few memories."""
    place = work / "store"
    with closing(RocksStore.create_or_open(place, bundle.identity)) as writer:
        for number in range(8):
            memory = replace(bundle.initial, sequence=1, last_time_ms=load.START_MS, log_time_ms=load.START_MS)
            writer.write(str(number), bundle.codec.encode(memory))
    with ExitStack() as stack:
        found = []
        for name, tokens, limits in (("open", Tokens(), Limits()), ("guarded", Tokens(score=_TOKEN, admin="admin"), _NARROW)):
            store = stack.enter_context(closing(RocksStore.open_to_read(place)))
            service = stack.enter_context(closing(Service(bundle.path, store, place, limits)))
            service.load()
            app = make_app(service, tokens, lambda facts: None)
            found.append(Served(name, schemathesis.openapi.from_asgi("/openapi.json", app), tokens.score is not None))
        process = stack.enter_context(ours(work, bundle.path, place, token=_TOKEN, admin_token="admin"))
        schema = schemathesis.openapi.from_url(f"http://{HOST}:{process.port}/openapi.json")
        found.append(Served("process", schema, True))
        yield found


def one_round(
    served: Served, mode: GenerationMode, *, seed: int, examples: int, path: str = "/v1/score"
) -> tuple[int, Finding | None]:
    """How many requests were made, and what is wrong with the smallest that was answered otherwise."""
    made = count()
    operation = served.schema[path]["POST" if path.startswith("/v1/") else "GET"]

    @seeded(seed)
    @settings(max_examples=examples, database=None, deadline=None, derandomize=False, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def ask(data: st.DataObject) -> None:
        next(made)
        case = data.draw(operation.as_strategy(generation_mode=mode))
        if served.has_token and not data.draw(st.booleans()):
            response = case.call(headers=data.draw(st.sampled_from(_WRONG)))
            assert response.status_code in (401, 404, 405), f"without the token: {response.status_code}"
            return
        case.call_and_validate(headers=_RIGHT if served.has_token else None, checks=GUARDED if served.has_token else CHECKS)

    try:
        ask()
    except (Exception, BaseExceptionGroup) as error:  # whatever is raised against the schema is what is looked for
        first = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error
        words = f"{type(first).__name__}: {' '.join(str(first).split())[:200]}"
        return next(made), Finding("http", f"{served.name}: {words}", type(first).__name__, str(error).encode())
    return next(made), None


def fuzz_http(seconds: float, *, seed: int, work: Path, tell: Callable[[str], None] = lambda line: None) -> Ran:
    """Rounds for so many seconds."""
    ran, seen = Ran("http", LAW), set[str]()
    bundle = load.bundle(work / "bundle")
    began = time.monotonic()
    with served(work, bundle) as servers:
        turns = cycle([(each, mode) for each in servers for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)])
        while time.monotonic() - began < seconds:
            each, mode = next(turns)
            seed += 1
            requests, finding = one_round(each, mode, seed=seed, examples=_A_ROUND)
            ran.runs += requests
            if finding is not None and finding.place not in seen:
                seen.add(finding.place)
                ran.findings.append(finding)
            tell(f"http: {ran.runs:,} requests, {len(ran.findings)} findings")
    ran.seconds = time.monotonic() - began
    return ran
