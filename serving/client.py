"""A client for the server: typed answers, time limits, tries, connections that are used again.

    with ScoreClient("https://rtp.example:8080", token=os.environ["RTP_TOKEN"]) as client:
        scores = client.score("196", [Candidate(item_id=242, category_id=3), Candidate(item_id=302)])
        if scores.found == "initial":
            ...                                     # a user the stream has not seen yet
        best = scores.probabilities.index(max(scores.probabilities))

One client serves many threads, and should live as long as its program: it keeps its connections.
"""

import random
import ssl
import time
from collections.abc import Callable, Sequence
from datetime import date
from types import TracebackType

import httpx
import msgspec
import tenacity

from serving.wire import Asked, Candidate, Problem, ProblemAnswer, ScoreAnswer, ScoreRequest, UserScores
from uic.errors import UicError

__all__ = ["Candidate", "NotScored", "ScoreAnswer", "ScoreClient", "UserScores"]

# What another try may mend. Scoring changes nothing, so a request may be sent twice.
_AGAIN = frozenset({408, 502, 503, 504})
_LONGEST_WAIT_S = 1.0
# Text that is not UTF-8, and what is nested too deeply, msgspec tells with errors that are not its own.
_NO_ANSWER = (msgspec.MsgspecError, UnicodeError, RecursionError)


class NotScored(UicError):
    """The server gave no scores: `status` is its HTTP status, `code` its word for why; None where no answer came at all."""

    def __init__(self, message: str, *, status: int | None, code: str | None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s

    @property
    def may_pass(self) -> bool:
        """Whether another try may succeed."""
        return self.status is None or self.status in _AGAIN


class ScoreClient:
    """Asks one server, or several behind one address.

    timeout_s   how long one try may take
    within_s    how long all tries together may take, with the pauses between them
    tries       at most so many; only what may pass is tried again: no connection, no answer in time, 408, 502, 503, 504
    verify      the certificates to trust, where they are not the system's
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float = 1.0,
        within_s: float = 3.0,
        tries: int = 3,
        connections: int = 32,
        verify: ssl.SSLContext | bool = True,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        headers = {"content-type": "application/json"} | ({} if token is None else {"authorization": f"Bearer {token}"})
        self._http = httpx.Client(
            base_url=url,
            headers=headers,
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            verify=verify,
            transport=transport,
        )
        self._url = url
        self._trying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, NotScored) and error.may_pass),
            stop=tenacity.stop_after_attempt(tries) | tenacity.stop_before_delay(within_s),
            wait=_pause,
            sleep=sleep,
            reraise=True,
        )

    def score(self, user_id: str, candidates: Sequence[Candidate], *, as_of: date | None = None) -> UserScores:
        """The scores of one user's candidates; raises NotScored."""
        return self.score_users([(user_id, candidates)], as_of=as_of).users[0]

    def score_users(self, asked: Sequence[tuple[str, Sequence[Candidate]]], *, as_of: date | None = None) -> ScoreAnswer:
        """The scores of several users, each with candidates of their own, in the order asked; raises NotScored."""
        users = [Asked(user_id=user, candidates=list(candidates)) for user, candidates in asked]
        body = msgspec.json.encode(ScoreRequest(users=users, as_of=as_of))
        answer: ScoreAnswer = self._trying.copy()(self._ask, body)
        return answer

    def _ask(self, body: bytes) -> ScoreAnswer:
        try:
            response = self._http.post("/v1/score", content=body)
        except httpx.HTTPError as error:
            raise NotScored(f"{self._url}: no answer: {error!r}", status=None, code=None) from error
        if response.status_code == httpx.codes.OK:
            try:
                return msgspec.json.decode(response.content, type=ScoreAnswer)
            except _NO_ANSWER as error:
                raise NotScored(f"{self._url}: not an answer of this release: {error}", status=200, code=None) from error
        problem = _problem(response)
        raise NotScored(
            f"{self._url}: {response.status_code} {problem.code}: {problem.message}",
            status=response.status_code,
            code=problem.code,
            retry_after_s=_seconds(response.headers.get("retry-after")),
        )

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> "ScoreClient":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _problem(response: httpx.Response) -> Problem:
    try:
        return msgspec.json.decode(response.content, type=ProblemAnswer).error
    except _NO_ANSWER:  # a proxy's page, perhaps
        return Problem("unknown", response.text[:200])


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isdecimal() else None


def _pause(state: tenacity.RetryCallState) -> float:
    """What the server asked for, else growing pauses; partly at random, so that not all callers come back together."""
    error = state.outcome.exception() if state.outcome is not None else None
    asked_s = error.retry_after_s if isinstance(error, NotScored) else None
    longest_s = min(_LONGEST_WAIT_S, 0.05 * 2**state.attempt_number if asked_s is None else asked_s)
    return longest_s * (0.5 + random.random() / 2)
