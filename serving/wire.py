"""What goes over the wire between a caller and the server: requests, answers, errors. The client and the schema use the same.

{"users": [{"user_id": "196", "candidates": [{"item_id": 242, "category_id": 3}, {"item_id": 302}]}]}

{"bundle_version": 1795305600000, "users": [{"user_id": "196", "found": "live", "probabilities": [0.31, 0.08], ...}]}
"""

from datetime import date
from typing import Annotated, Literal

import msgspec

from uic.event import MAX_TEXT_BYTES

_INT64 = 1 << 63
Int64 = Annotated[int, msgspec.Meta(ge=-_INT64, le=_INT64 - 1)]
Found = Literal["live", "as_of", "initial", "incompatible"]
Features = dict[str, float]


class Candidate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False, omit_defaults=True):
    """An item that may be shown. Ids are the raw ones of the log; one the bundle does not know scores as an unknown item.

    `features` are the head features that the bundle wants, by name; others beside them are passed over, so that a caller can
    send what the next bundle will want.
    """

    item_id: Int64
    category_id: Int64 = -1
    features: Features | None = None


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One user and the candidates to score. A number as `user_id` is the user of that name, as in events."""

    user_id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TEXT_BYTES)] | int
    candidates: list[Candidate]


class ScoreRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Score the candidates of one user or more, from their memories now, or as these were when a day began."""

    users: Annotated[list[Asked], msgspec.Meta(min_length=1)]
    as_of: date | None = None


class MemoryFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a memory says of itself. Times are in ms since 1970, null before the first event.

    bundle_version   the bundle whose step touched it last
    events           behaviour events applied to it
    last_event_ms    when the user's last event happened
    taken_in_ms      when the log took in the event applied last
    """

    bundle_version: int
    generation: int
    events: int
    last_event_ms: int | None
    taken_in_ms: int | None


class UserScores(msgspec.Struct, frozen=True, kw_only=True):
    """The probabilities of one user's candidates in the order asked, and what they were read from.

    found   `live`: the latest memory; `as_of`: the one at the beginning of the day asked for; `initial`: there is none, a new
            user's was taken; `incompatible`: the bytes there cannot be used with this bundle or are damaged, a new user's
            memory was taken, never those bytes
    why     only where `incompatible`: a short word for what is wrong (`checksum`, `layout`, `format`, `truncated`, `magic`,
            `not_finite`)
    memory  null unless a stored memory was scored from
    """

    user_id: str
    found: Found
    why: str | None
    memory: MemoryFacts | None
    probabilities: list[float]


class ScoreAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Every score in it was given by one bundle, this one."""

    bundle_version: int
    users: list[UserScores]


class Problem(msgspec.Struct, frozen=True):
    """Why there is no answer: a short fixed word for programs, and a sentence for people."""

    code: str
    message: str


class ProblemAnswer(msgspec.Struct, frozen=True):
    """The body of every answer that is not 2xx."""

    error: Problem


class BundleAnswer(msgspec.Struct, frozen=True):
    """Which bundle scores from now on, and which one did before."""

    bundle_version: int
    before: int


class Refused(Exception):
    """A request that gets no scores; what the caller is told."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers

    def body(self) -> bytes:
        return msgspec.json.encode(ProblemAnswer(Problem(self.code, str(self))))


_REQUEST = msgspec.json.Decoder(ScoreRequest)
_ANSWER = msgspec.json.Encoder()


def read_request(body: bytes | bytearray, *, most_users: int, most_candidates: int) -> ScoreRequest:
    """The request in a body; raises Refused, saying where in it what is wrong.

    >>> read_request(b'{"users": [{"user_id": 7, "candidates": [{"item_id": "x"}]}]}', most_users=1, most_candidates=1)
    Traceback (most recent call last):
    serving.wire.Refused: Expected `int`, got `str` - at `$.users[0].candidates[0].item_id`
    """
    try:
        request: ScoreRequest = _REQUEST.decode(body if body.isascii() else body.decode())
    except msgspec.ValidationError as error:
        raise Refused(422, "invalid", str(error)) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Refused(400, "bad_json", f"expected a JSON object in UTF-8: {error}") from None
    if len(request.users) > most_users:
        raise Refused(422, "too_many_users", f"expected at most {most_users} users a request, got {len(request.users)}")
    candidates = sum(len(asked.candidates) for asked in request.users)
    if candidates > most_candidates:
        raise Refused(
            422,
            "too_many_candidates",
            f"expected at most {most_candidates} candidates a request over all users, got {candidates}",
        )
    for place, asked in enumerate(request.users):
        # A number of so many digits would be a user whom no event can name.
        if len(str(asked.user_id).encode()) > MAX_TEXT_BYTES:
            raise Refused(
                422, "invalid", f"Expected `str` of at most {MAX_TEXT_BYTES} UTF-8 bytes - at `$.users[{place}].user_id`"
            )
    return request


def write_answer(answer: ScoreAnswer) -> bytes:
    return _ANSWER.encode(answer)
