"""Targets: what comes over a wire. Control messages, requests for scores, and the answers that a client is given."""

from contextlib import closing, suppress

import httpx
import msgspec

from benchmarks.fuzz.target import Target
from operators import control
from serving.client import Candidate, NotScored, ScoreClient
from serving.wire import MemoryFacts, ProblemAnswer, Refused, ScoreAnswer, UserScores, read_request
from uic.errors import BadInput
from uic.event import MAX_TEXT_BYTES

_USERS, _CANDIDATES = 3, 8
_CONTROL = (
    control.Promote(to="a1", version=5, url="registry", digest="0" * 64, issued_ms=7),
    control.Prepare(to="a1", version=5, url="file:/r", digest="0" * 64, issued_ms=7),
    control.Forget(to="a1", user="ü", until_ms=1000, token="t"),
)
_REQUESTS = (
    b'{"users": [{"user_id": "u", "candidates": [{"item_id": 1, "category_id": 2}, {"item_id": 3}]}]}',
    b'{"as_of": "2026-11-20", "users": [{"user_id": 196, "candidates": []}, {"user_id": "\xc3\xbc", "candidates": []}]}',
    b'{"users": [{"user_id": "u", "candidates": [{"item_id": 1, "features": {"price": 1.5, "hour": -0.0}}]}]}',
)
_FACTS = MemoryFacts(bundle_version=1, generation=0, events=7, last_event_ms=None, taken_in_ms=1000)
_ANSWERS = (
    ScoreAnswer(bundle_version=1, users=[UserScores(user_id="u", found="live", why=None, memory=_FACTS, probabilities=[0.5])]),
    ScoreAnswer(
        bundle_version=1, users=[UserScores(user_id="u", found="incompatible", why="crc", memory=None, probabilities=[])]
    ),
)
_DEEP = b'{"a":' + b"[" * 3000


def check_control(data: bytes) -> None:
    """A message of this release, or BadInput: the operator passes over it and the job goes on."""
    with suppress(BadInput):
        message = control.read(data)
        assert control.read(control.to_json(message)) == message
    asked = control.read_forget(data)
    assert asked is None or control.read_forget(control.to_json(asked)) == asked


def check_request(data: bytes) -> None:
    """A request within its bounds, or Refused with a status that is the caller's fault."""
    try:
        request = read_request(data, most_users=_USERS, most_candidates=_CANDIDATES)
    except Refused as refused:
        _check_refusal(refused)
        return
    assert 1 <= len(request.users) <= _USERS
    assert sum(len(asked.candidates) for asked in request.users) <= _CANDIDATES
    assert all(1 <= len(str(asked.user_id).encode()) <= MAX_TEXT_BYTES for asked in request.users)
    again = read_request(msgspec.json.encode(request), most_users=_USERS, most_candidates=_CANDIDATES)
    # A feature that is no number is none in JSON either: it cannot have been read.
    assert again == request


def _check_refusal(refused: Refused) -> None:
    assert 400 <= refused.status < 500
    msgspec.json.decode(refused.body(), type=ProblemAnswer)


def check_answer(data: bytes) -> None:
    """A client is given scores, or NotScored. The first byte is the status: 200, or that of a problem."""
    status = 200 if data[:1] < b"\x80" else 503
    transport = httpx.MockTransport(lambda request: httpx.Response(status, content=data[1:], headers={"retry-after": "1"}))
    with closing(ScoreClient("http://rtp", tries=1, transport=transport)) as client:
        try:
            answer = client.score_users([("u", [Candidate(1)])])
        except NotScored:
            return
    assert msgspec.json.decode(msgspec.json.encode(answer), type=ScoreAnswer) == answer


def targets() -> list[Target]:
    """All three targets."""
    answers = [msgspec.json.encode(each) for each in _ANSWERS]
    problem = Refused(503, "overloaded", "told so").body()
    return [
        Target(
            name="control",
            law="a control message is read and written back the same, or BadInput",
            check=check_control,
            seeds=[control.to_json(message) for message in _CONTROL],
            words=(b'"kind":', b'"promote"', b'"prepare"', b'"forget"', b'"format":', b"\xff", b"\\ud800", b"null", _DEEP),
        ),
        Target(
            name="request",
            law="a request for scores is within its bounds, or refused with 4xx and a reason",
            check=check_request,
            seeds=_REQUESTS,
            words=(
                b'"as_of":',
                b'"users":',
                b'"candidates":',
                b'"features":',
                b'"item_id":',
                b"\\ud800",
                b"1e999",
                b"null",
                _DEEP,
            ),
        ),
        Target(
            name="answer",
            law="a client is given scores, or NotScored",
            check=check_answer,
            seeds=[*(b"\0" + each for each in answers), b"\xff" + problem, b"\xff<html>", b"\0"],
            words=(b'"found":"live"', b'"probabilities":', b'"error":', b"null", b"\xff", b"\\ud800", _DEEP),
        ),
    ]
