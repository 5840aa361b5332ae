"""One behaviour event applied to one user's memory: the pure transition that every plan and tool of the project shares.

Each event is asked, in this order: valid? (uic/event.py) of before the hand-over? duplicate? late? Only what passes changes a
memory. State goes in as bytes and comes out as bytes; nothing is kept between two calls.
"""

import enum
import struct
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from uic.codec import Codec
from uic.event import BehaviourEvent
from uic.memory import Float32, UserMemory
from uic.vocabulary import Vocabulary

Int64 = NDArray[np.int64]


class StepFunction(Protocol):
    """One MIMN step for B users at once; the exported ONNX graph and the numpy oracle are two of them."""

    def __call__(self, state_BF: Float32, item_rows_B: Int64, category_rows_B: Int64) -> Float32:
        """The packed states after one event each, [B, F]; the inputs are not changed."""
        ...


@runtime_checkable
class HasMargin(Protocol):
    """A step that tells, after a call, how clearly each user's channels were chosen."""

    margin_B: NDArray[np.float64]


class Outcome(enum.Enum):
    """What became of a valid event."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    LATE = "late"


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How tolerant the stream is. `lateness_ms`: how much older than its user's last event an event may be.

    `idle_after_ms`: a memory whose last event lies further back than this, in log time, counts as gone (None: never).
    `not_before_ms`: the hand-over from a warm-up, which has applied all events of before; here they are late, whatever else is
    accepted (None: there was none).
    """

    lateness_ms: int = 86_400_000
    accept_late: bool = False
    idle_after_ms: int | None = None
    not_before_ms: int | None = None


class Update(NamedTuple):
    """The outcome of one event; `blob` is the new state where it was applied, else None."""

    outcome: Outcome
    blob: bytes | None
    detail: str = ""


def fingerprints(event: BehaviourEvent) -> tuple[bytes, bytes]:
    """8 bytes over (time, item, behaviour) and 8 bytes over the event id; zero bytes where the event has no id.

    Two events with either of them equal are one event that came twice.
    """
    return content_mark(event.time_ms, event.item_id, event.behaviour), id_mark(event.event_id)


def content_mark(time_ms: int, item_id: int, behaviour: str) -> bytes:
    """The first of an event's two fingerprints."""
    return _hash8(_TIME_AND_ITEM.pack(time_ms, item_id) + behaviour.encode())


def id_mark(event_id: str | None) -> bytes:
    """The second one."""
    return _NO_FINGERPRINT if event_id is None else _hash8(event_id.encode())


def admit(
    ring: bytes,
    last_time_ms: int | None,
    event: BehaviourEvent,
    marks: tuple[bytes, bytes],
    rules: Rules,
    *,
    accepts_late: bool = False,
) -> tuple[Outcome, str]:
    """Whether an event may change a memory with this fingerprint ring and last event time, and why not."""
    # A plain search first: the bytes are nearly always absent, and then one call has settled it.
    content, event_id = marks
    if content != _NO_FINGERPRINT and content in ring and _holds(ring, content, 0):
        return Outcome.DUPLICATE, "same time, item and behaviour"
    if event_id != _NO_FINGERPRINT and event_id in ring and _holds(ring, event_id, 8):
        return Outcome.DUPLICATE, "same event_id"
    if (
        last_time_ms is not None
        and not (rules.accept_late or accepts_late)
        and event.time_ms < last_time_ms - rules.lateness_ms
    ):
        behind_s = (last_time_ms - event.time_ms) // 1000
        return Outcome.LATE, f"{behind_s} s before the user's last event, allowed are {rules.lateness_ms // 1000} s"
    return Outcome.APPLIED, ""


def remember(ring: bytes, sequence: int, marks: tuple[bytes, bytes]) -> bytes:
    """The ring with the fingerprints of event number `sequence` in their place, over the oldest ones."""
    if not ring:
        return ring
    at = sequence % (len(ring) // 16) * 16
    return ring[:at] + marks[0] + marks[1] + ring[at + 16 :]


class Ledger:
    """What decides over a user's next event: the events applied so far, their fingerprints, and two times."""

    __slots__ = ("last_time_ms", "log_time_ms", "ring", "sequence")

    def __init__(self, ring: bytes, sequence: int = 0, last_time_ms: int | None = None, log_time_ms: int | None = None) -> None:
        self.ring = ring
        self.sequence = sequence
        self.last_time_ms = last_time_ms
        self.log_time_ms = log_time_ms

    @classmethod
    def of(cls, memory: UserMemory) -> "Ledger":
        return cls(memory.fingerprints, memory.sequence, memory.last_time_ms, memory.log_time_ms)

    def take(self, event: BehaviourEvent, log_time_ms: int, rules: Rules, *, accepts_late: bool = False) -> tuple[Outcome, str]:
        """Judge an event; where it is to be applied, enter it. After that `sequence` 1 means: to the initial memory."""
        if rules.not_before_ms is not None and event.time_ms < rules.not_before_ms:
            behind_s = (rules.not_before_ms - event.time_ms) // 1000
            return (
                Outcome.LATE,
                f"{behind_s} s before the hand-over from the warm-up, which applied what was recorded till then",
            )
        if rules.idle_after_ms is not None and is_idle(self.log_time_ms, log_time_ms, rules):
            self.ring, self.sequence, self.last_time_ms = bytes(len(self.ring)), 0, None
        marks = fingerprints(event)
        outcome, detail = admit(self.ring, self.last_time_ms, event, marks, rules, accepts_late=accepts_late)
        if outcome is Outcome.APPLIED:
            self.ring = remember(self.ring, self.sequence, marks)
            self.sequence += 1
            if self.last_time_ms is None or event.time_ms > self.last_time_ms:
                self.last_time_ms = event.time_ms
            # A broker's clock may go back. A memory is as late as the latest event in it, or a cut could let one through.
            self.log_time_ms = log_time_ms if self.log_time_ms is None else max(self.log_time_ms, log_time_ms)
        return outcome, detail


def is_idle(last_log_time_ms: int | None, log_time_ms: int, rules: Rules) -> bool:
    """Whether a memory last changed at the first log time counts as gone for an event at the second."""
    if rules.idle_after_ms is None or last_log_time_ms is None:
        return False
    return log_time_ms - last_log_time_ms > rules.idle_after_ms


class Updater:
    """Applies events to memories of one bundle."""

    def __init__(
        self,
        *,
        codec: Codec,
        step: StepFunction,
        initial: UserMemory,
        items: Vocabulary,
        categories: Vocabulary,
        bundle_version: int,
        rules: Rules,
        generation: int = 0,
    ) -> None:
        self.codec = codec
        self.step = step
        self.initial = initial
        self.items = items
        self.categories = categories
        self.bundle_version = bundle_version
        self.rules = rules
        self.generation = generation

    def update(self, blob: bytes | None, event: BehaviourEvent, *, log_time_ms: int, accepts_late: bool = False) -> Update:
        """Apply one event to the memory in `blob`, or to the initial memory where that is None.

        Raises CorruptMemory if the blob cannot be used: it is never treated as an empty memory.
        """
        memory = self.initial if blob is None else self.codec.decode(blob)
        ledger = Ledger.of(memory)
        outcome, detail = ledger.take(event, log_time_ms, self.rules, accepts_late=accepts_late)
        if outcome is not Outcome.APPLIED:
            return Update(outcome, None, detail)
        before_F = self.initial.state_F if ledger.sequence == 1 else memory.state_F
        after_BF = self.step(
            before_F.reshape(1, -1),
            np.array([self.items.row(event.item_id)]),
            np.array([self.categories.row(event.category_id)]),
        )
        after = UserMemory(
            state_F=after_BF[0],
            fingerprints=ledger.ring,
            sequence=ledger.sequence,
            last_time_ms=ledger.last_time_ms,
            log_time_ms=ledger.log_time_ms,
            generation=self.generation,
            bundle_version=self.bundle_version,
        )
        return Update(Outcome.APPLIED, self.codec.encode(after))


_NO_FINGERPRINT = bytes(8)
_TIME_AND_ITEM = struct.Struct("<qq")


def _hash8(data: bytes) -> bytes:
    digest = blake2b(data, digest_size=8).digest()
    return digest if digest != _NO_FINGERPRINT else b"\x01" + bytes(7)


def _holds(ring: bytes, mark: bytes, offset: int) -> bool:
    at = ring.find(mark)
    while at >= 0:
        if at % 16 == offset:
            return True
        at = ring.find(mark, at + 1)
    return False
