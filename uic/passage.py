"""A memory that several bundles have made in turn: is there a place for each change of bundle that explains it?

A promotion swaps the step between two batches, and nothing says where in the log that was; a failure may move the place, a
rollback begins with a bundle of its choice. So every place is tried: a *path* is one way in which the bundles may have taken
turns, and all paths are folded side by side. One that ends in the memory found explains it; where none does, it is wrong.
A user of n events has n + 1 paths through two bundles and about n^2 / 2 through three: beyond `most_steps` nothing is said.

With a bundle every hour that is soon the case. About when each took over is known, though, and a memory that any path explains
is right: so paths close to those times are tried first. The times guide, they do not judge: what is called wrong is what no
path at all explains. Each event close to the time of a promotion still doubles the paths.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from uic.fold import Logged
from uic.memory import Float32, UserMemory
from uic.tolerance import memory_excess
from uic.update import HasMargin, Ledger, Outcome, Updater

MOST_STEPS = 200_000
# How far from the time known of it a bundle may have taken over: clocks apart, a job that lags or has failed. None: anywhere.
_APART_MS = (1_000, 60_000, 600_000, 3_600_000, None)


class Model(NamedTuple):
    """A bundle that may have made a memory: its transition, and the behaviours that it accepts."""

    updater: Updater
    accepted: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Passage:
    """The nearest to a memory that the bundles can have made of the events.

    excess      how far it is, in units of the tolerance; infinite where no path has applied these events and no others
    tensor      where it is furthest
    turns       the number of events that were applied when each later bundle took over
    margin      the smallest margin of the channels chosen on the way, where the steps tell it
    sequence    how many events were applied in the end, on the path that applied most
    """

    excess: float
    tensor: str
    turns: tuple[int, ...]
    margin: float
    sequence: int

    @property
    def explains(self) -> bool:
        return self.excess <= 1.0


def find_passage(
    models: Sequence[Model],
    events: Sequence[Logged],
    found: UserMemory,
    *,
    begin: UserMemory | None = None,
    least: int | None = None,
    most_steps: int = MOST_STEPS,
    took_over_ms: Sequence[int | None] = (),
) -> Passage | None:
    """How `found` may have come of one user's events, onto `begin`, by these bundles in this order; None: too many ways.

    Some of the bundles may have had no turn, and one may be named twice. `least`: the memory may be as of any time from so many
    events on; by default it is the one after all of them. `took_over_ms`: about when each bundle did, in log time.
    """
    touched = [place for place, model in enumerate(models) if model.updater.bundle_version == found.bundle_version]
    if touched and len({model.accepted for model in models}) == 1:
        models = models[: touched[-1] + 1]  # a later one had no turn, or the memory would be its own
    begin = models[0].updater.initial if begin is None else begin
    least = len(events) if least is None else least
    known_ms = [*took_over_ms, *[None] * len(models)][: len(models)]
    passage = None
    for apart_ms in _APART_MS if any(each is not None for each in known_ms) else (None,):
        paths = _Paths(models, begin, _spans(known_ms, apart_ms))
        passage = _nearest(paths, events, found, least, most_steps)
        if passage is not None and passage.explains:
            return passage
    return passage


def _nearest(paths: "_Paths", events: Sequence[Logged], found: UserMemory, least: int, most_steps: int) -> Passage | None:
    best = Passage(excess=np.inf, tensor="", turns=(), margin=np.inf, sequence=paths.sequence)
    steps = 0
    for at in range(len(events) + 1):
        if at:
            paths.take(events[at - 1])
            steps += len(paths.models_P)
        if steps > most_steps:
            return None
        if at >= least:
            best = min(best, paths.nearest(found), key=lambda each: each.excess)
    return Passage(**{**vars(best), "sequence": paths.sequence})


class _Span(NamedTuple):
    """The log times at which a bundle may have been the one that applies events."""

    from_ms: float
    until_ms: float

    def holds(self, log_time_ms: int) -> bool:
        return self.from_ms <= log_time_ms <= self.until_ms


def _spans(took_over_ms: Sequence[int | None], apart_ms: int | None) -> list[_Span]:
    """The span of each bundle, from when it took over to when the next one did, and so far beyond.

    >>> [tuple(span) for span in _spans([None, 100, None, 300], 5)]
    [(-inf, 105), (95, 305), (-inf, 305), (295, inf)]
    """
    begins = [-np.inf if each is None or apart_ms is None else each - apart_ms for each in took_over_ms]
    ends = [np.inf if each is None or apart_ms is None else each + apart_ms for each in took_over_ms]
    return [_Span(begin, min(ends[place + 1 :], default=np.inf)) for place, begin in enumerate(begins)]


class _Paths:
    """All ways in which the bundles may have taken turns so far: [P] places in the list of models, ledgers, turns, states."""

    def __init__(self, models: Sequence[Model], begin: UserMemory, spans: Sequence[_Span]) -> None:
        self._models = models
        self._spans = spans
        self.models_P = [0]
        self._ledgers_P = [Ledger.of(begin)]
        self._turns_P: list[tuple[int, ...]] = [()]
        self._versions_P = [begin.bundle_version]
        self._states_PF: Float32 = begin.state_F[None].copy()
        self._margin_P: NDArray[np.float64] = np.full(1, np.inf)

    @property
    def sequence(self) -> int:
        return max((ledger.sequence for ledger in self._ledgers_P), default=0)

    def take(self, logged: Logged) -> None:
        """The next event, by the bundle of each path or, on a path of its own, by a later one from here on."""
        old = list(zip(self.models_P, self._ledgers_P, self._turns_P, self._versions_P, strict=True))
        self.models_P, self._ledgers_P, self._turns_P, self._versions_P = [], [], [], []
        parents, changed = list[int](), list[int]()

        def go_on(parent: int, model: int, ledger: Ledger, turns: tuple[int, ...], *, is_taken: bool) -> None:
            if is_taken:
                changed.append(len(parents))
            parents.append(parent)
            self.models_P.append(model)
            self._ledgers_P.append(ledger)
            self._turns_P.append(turns)
            self._versions_P.append(old[parent][3])

        for place, (model, ledger, turns, _) in enumerate(old):
            laters = [later for later in range(model + 1, len(self._models)) if self._spans[later].holds(logged.log_time_ms)]
            forks = [(later, _copy(ledger)) for later in laters]
            turn, was_taken = ledger.sequence, self._takes(model, ledger, logged)
            if not was_taken or self._spans[model].holds(logged.log_time_ms):
                go_on(place, model, ledger, turns, is_taken=was_taken)
            for later, fork in forks:
                is_taken = self._takes(later, fork, logged)
                # Of the places between two events that either would apply, one is enough.
                if is_taken or was_taken:
                    go_on(place, later, fork, (*turns, turn), is_taken=is_taken)
        self._states_PF, self._margin_P = self._states_PF[parents], self._margin_P[parents]
        for number in sorted({self.models_P[place] for place in changed}):
            self._step(number, [place for place in changed if self.models_P[place] == number], logged)

    def nearest(self, found: UserMemory) -> Passage:
        """The path that is nearest to a memory, of those that this bundle touched last and that applied the same events."""
        same = [
            place
            for place, ledger in enumerate(self._ledgers_P)
            if self._versions_P[place] == found.bundle_version
            and found.comes_of(ledger.sequence, ledger.last_time_ms, ledger.log_time_ms, ledger.ring)
        ]
        if not same:
            return Passage(excess=np.inf, tensor="", turns=(), margin=np.inf, sequence=self.sequence)
        layout = self._models[0].updater.codec.layout
        by_tensor = memory_excess(layout, np.tile(found.state_F, (len(same), 1)), self._states_PF[same], found.numbers)
        names = list(by_tensor)
        excess_TP = np.stack([by_tensor[name] for name in names])
        best = int(excess_TP.max(axis=0).argmin())
        return Passage(
            excess=float(excess_TP[:, best].max()),
            tensor=names[int(excess_TP[:, best].argmax())],
            turns=self._turns_P[same[best]],
            margin=float(self._margin_P[same[best]]),
            sequence=self.sequence,
        )

    def _takes(self, model: int, ledger: Ledger, logged: Logged) -> bool:
        updater, accepted = self._models[model]
        if logged.event.behaviour not in accepted:
            return False
        outcome, _ = ledger.take(logged.event, logged.log_time_ms, updater.rules, accepts_late=logged.accepts_late)
        return outcome is Outcome.APPLIED

    def _step(self, model: int, places: list[int], logged: Logged) -> None:
        updater, event = self._models[model].updater, logged.event
        before_BF = self._states_PF[places]
        for row, place in enumerate(places):
            self._versions_P[place] = updater.bundle_version
            if self._ledgers_P[place].sequence == 1:
                before_BF[row] = updater.initial.state_F
                self._margin_P[place] = np.inf
        items_B = np.full(len(places), updater.items.row(event.item_id))
        categories_B = np.full(len(places), updater.categories.row(event.category_id))
        self._states_PF[places] = updater.step(before_BF, items_B, categories_B)
        if isinstance(updater.step, HasMargin):
            self._margin_P[places] = np.minimum(self._margin_P[places], updater.step.margin_B)


def _copy(ledger: Ledger) -> Ledger:
    return Ledger(ledger.ring, ledger.sequence, ledger.last_time_ms, ledger.log_time_ms)
