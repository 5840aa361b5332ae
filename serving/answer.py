"""From a request to its answer: read, decode, score. Pure but for the store that is read.

A memory that cannot be used never gives a score. Its user is scored from the initial memory like a new one, marked
`incompatible` with the reason: one damaged memory must not take the page from a user, nor the answer from the other users of a
request, and a caller who cares sees the mark.
"""

import time
from collections.abc import Callable, Sequence
from datetime import date
from typing import NamedTuple, Protocol

import numpy as np

from serving.model import Model
from serving.wire import Found, MemoryFacts, Refused, ScoreAnswer, ScoreRequest, UserScores
from uic.bundle import Bundle
from uic.errors import (
    BadInput,
    ChecksumMismatch,
    CorruptMemory,
    LayoutMismatch,
    NotAMemory,
    TruncatedMemory,
    UnknownFormat,
)
from uic.memory import UserMemory

_WHY: dict[type[CorruptMemory], str] = {
    ChecksumMismatch: "checksum",
    LayoutMismatch: "layout",
    NotAMemory: "magic",
    TruncatedMemory: "truncated",
    UnknownFormat: "format",
}
Observe = Callable[[str, float], None]


class Memories(Protocol):
    """What of an online store is needed here."""

    def read(self, user_id: str, as_of: date | None = None) -> bytes | None: ...


class Remembered(NamedTuple):
    """The memory to score a user from, and how it was found; `why` says what is wrong with one that is `incompatible`."""

    memory: UserMemory
    found: Found
    why: str | None = None


def answer(request: ScoreRequest, model: Model, store: Memories, observe: Observe = lambda stage, seconds: None) -> ScoreAnswer:
    """The answer to a request, all of it from one model. `observe` is told how many seconds each stage took.

    Raises Refused: for a day that is not kept, a head feature that is missing, a store that does not answer.
    """
    users = [str(asked.user_id) for asked in request.users]
    began = time.perf_counter()
    blobs = [_read(store, user, request.as_of) for user in users]
    read = time.perf_counter()
    remembered = [_remembered(model.bundle, blob, request.as_of) for blob in blobs]
    decoded = time.perf_counter()
    candidates = [asked.candidates for asked in request.users]
    scores = model.score([each.memory for each in remembered], candidates)
    for place in [place for place, scores_N in enumerate(scores) if not np.isfinite(scores_N).all()]:
        remembered[place] = Remembered(model.bundle.initial, "incompatible", "not_finite")
        scores[place] = model.score([model.bundle.initial], [candidates[place]])[0]
        if not np.isfinite(scores[place]).all():
            raise Refused(422, "features", f"user {users[place]}: these head features give no finite score")
    scored = time.perf_counter()
    observe("read", read - began)
    observe("decode", decoded - read)
    observe("score", scored - decoded)
    return ScoreAnswer(
        bundle_version=model.version,
        users=[
            UserScores(
                user_id=user,
                found=each.found,
                why=each.why,
                memory=_facts(each.memory) if each.found in ("live", "as_of") else None,
                probabilities=probability_N.tolist(),
            )
            for user, each, probability_N in zip(users, remembered, scores, strict=True)
        ],
    )


def _read(store: Memories, user_id: str, as_of: date | None) -> bytes | CorruptMemory | None:
    try:
        return store.read(user_id, as_of=as_of)
    except CorruptMemory as error:
        return error
    except BadInput as error:
        raise Refused(422, "day_not_kept", str(error)) from None
    except Exception as error:  # whatever the store's client raises: no score can be given
        raise Refused(503, "store", f"the online store does not answer: {error}", **{"retry-after": "1"}) from error


def _remembered(bundle: Bundle, blob: bytes | CorruptMemory | None, as_of: date | None) -> Remembered:
    if blob is None:
        return Remembered(bundle.initial, "initial")
    try:
        if isinstance(blob, CorruptMemory):
            raise blob
        return Remembered(bundle.published.decode(blob), "live" if as_of is None else "as_of")
    except CorruptMemory as error:
        return Remembered(bundle.initial, "incompatible", _WHY.get(type(error), "corrupt"))


def _facts(memory: UserMemory) -> MemoryFacts:
    return MemoryFacts(
        bundle_version=memory.bundle_version,
        generation=memory.generation,
        events=memory.sequence,
        last_event_ms=memory.last_time_ms,
        taken_in_ms=memory.log_time_ms,
    )


def founds(users: Sequence[UserScores]) -> dict[str, int]:
    """How many users were found in which way."""
    counts: dict[str, int] = {}
    for user in users:
        counts[user.found] = counts.get(user.found, 0) + 1
    return counts
