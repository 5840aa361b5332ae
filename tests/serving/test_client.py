"""The client over a transport that answers as told: what is tried again, for how long, and what its callers are told."""

from collections.abc import Sequence

import httpx
import msgspec
import pytest

from serving.client import Candidate, NotScored, ScoreClient
from serving.wire import Refused, ScoreAnswer, ScoreRequest, UserScores

SCORES = UserScores(user_id="u", found="initial", why=None, memory=None, probabilities=[0.25, 0.5])
GOOD = (200, msgspec.json.encode(ScoreAnswer(bundle_version=1, users=[SCORES])))
CANDIDATES = [Candidate(1), Candidate(2, 3, {"price": 1.0})]


def refusal(status: int, code: str) -> tuple[int, bytes]:
    return status, Refused(status, code, "told so").body()


class Told:
    """A transport that gives these answers one after the other; an exception is raised."""

    def __init__(self, *answers: tuple[int, bytes] | Exception, headers: dict[str, str] | None = None) -> None:
        self._answers = list(answers)
        self._headers = headers
        self.requests: list[httpx.Request] = []
        self.slept: list[float] = []

    def client(self, **asked: float) -> ScoreClient:
        return ScoreClient(
            "http://rtp", transport=httpx.MockTransport(self._answer), sleep=self.slept.append, tries=3, token="secret", **asked
        )

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answers[len(self.requests) - 1]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer[0], content=answer[1], headers=self._headers)


def test_a_request_says_what_was_asked_and_the_answer_comes_typed() -> None:
    told = Told(GOOD)
    with told.client() as client:
        assert client.score("u", CANDIDATES) == SCORES
    (request,) = told.requests
    assert (request.url.path, request.headers["authorization"]) == ("/v1/score", "Bearer secret")
    asked = msgspec.json.decode(request.content, type=ScoreRequest)
    assert (asked.users[0].user_id, asked.users[0].candidates, asked.as_of) == ("u", CANDIDATES, None)


PASSING: Sequence[tuple[int, bytes] | Exception] = (
    httpx.ConnectError("refused"), httpx.ReadTimeout("slow"), httpx.RemoteProtocolError("cut off"),
    refusal(503, "overloaded"), refusal(504, "too_late"), refusal(408, "slow_body"), (502, b"<html>a proxy</html>"),
)  # fmt: skip


@pytest.mark.parametrize("failure", PASSING, ids=repr)
def test_what_may_pass_is_tried_again(failure: tuple[int, bytes] | Exception) -> None:
    told = Told(failure, failure, GOOD)
    with told.client() as client:
        assert client.score("u", CANDIDATES) == SCORES
    assert len(told.requests) == 3
    assert 0 < told.slept[0] <= 0.1
    assert told.slept[1] <= 0.2


@pytest.mark.parametrize("failure", PASSING, ids=repr)
def test_after_the_last_try_the_caller_is_told(failure: tuple[int, bytes] | Exception) -> None:
    told = Told(failure, failure, failure)
    with told.client() as client, pytest.raises(NotScored, match="http://rtp: ") as error:
        client.score("u", CANDIDATES)
    assert error.value.may_pass
    assert len(told.requests) == 3


@pytest.mark.parametrize(("status", "code"), [(400, "bad_json"), (401, "unauthorized"), (413, "too_large"), (500, "internal")])
def test_what_is_wrong_is_not_tried_again(status: int, code: str) -> None:
    told = Told(refusal(status, code))
    with told.client() as client, pytest.raises(NotScored, match=f"{status} {code}: told so") as error:
        client.score("u", CANDIDATES)
    assert (error.value.status, error.value.code, error.value.may_pass) == (status, code, False)


def test_a_server_that_says_when_to_come_back_is_waited_for_within_bounds() -> None:
    told = Told(refusal(503, "overloaded"), GOOD, headers={"retry-after": "60"})
    with told.client() as client:
        client.score("u", CANDIDATES)
    assert 0.5 <= told.slept[0] <= 1.0


def test_all_tries_together_have_an_end() -> None:
    told = Told(refusal(503, "overloaded"), headers={"retry-after": "1"})
    with told.client(within_s=0.1) as client, pytest.raises(NotScored):
        client.score("u", CANDIDATES)
    assert told.slept == []


def test_an_answer_of_another_kind_is_an_error() -> None:
    told = Told((200, b'{"scores": []}'))
    with told.client() as client, pytest.raises(NotScored, match="not an answer of this release"):
        client.score("u", CANDIDATES)
