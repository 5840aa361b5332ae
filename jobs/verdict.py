"""Every memory of a store against an offline fold of the log: what agrees, what does not, and of whom nothing can be said.

The fold leaves out what the job leaves out: events in quarantine, and of a forgotten user whatever came up to the forgetting.
Where a memory was made by several bundles in turn, nothing says exactly where one took over; uic/passage.py tries every place.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from jobs.event_log import Dead, FileLog, TopicLog
from jobs.score import open_pair
from jobs.settings import KafkaSettings
from uic.bundle import Bundle
from uic.errors import BadInput, CorruptMemory, InvalidEvent
from uic.fold import Logged, fold_log
from uic.forgetting import Forgotten
from uic.memory import UserMemory
from uic.passage import Model, find_passage
from uic.quarantine import Quarantine
from uic.store.contract import ReadableStore
from uic.tolerance import TIE_MARGIN, memory_excess
from uic.update import Rules, is_idle

Oracle = Literal["numpy", "onnx"]
FORGOTTEN = "forgotten"


@dataclass
class Verdict:
    """What a verification found. `mismatches` maps a user to what differs, `undecided` to why nothing can be said.

    `passed`: users whose memory several bundles have made in turn; `tied`: told apart by nothing; `idle`: had left, and might.
    """

    users: int = 0
    worst: float = 0.0
    passed: int = 0
    tied: int = 0
    idle: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    mismatches: dict[str, str] = field(default_factory=dict)
    undecided: dict[str, str] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        return not self.mismatches and self.tied <= max(1, self.users // 100)


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """What a job leaves out of the log. `forgotten`: whose life up to when (None: nobody's)."""

    quarantine: Quarantine | None = None
    forgotten: Forgotten | None = None

    def counts_as(self, logged: Logged) -> str | None:
        """As what an event is counted that is left out; None: it is to be applied."""
        if self.forgotten is not None and self.forgotten.is_gone(logged.event.user_id, logged.log_time_ms):
            return FORGOTTEN
        try:
            if self.quarantine is not None:
                self.quarantine.check(logged.event, logged.log_time_ms)
        except InvalidEvent:
            return "dead"
        return None

    def why_undecided(self, user: str) -> str | None:
        """Why nobody can say what of this user counts; None: it is known."""
        entry = None if self.forgotten is None else self.forgotten.entry(user)
        if entry is None or not entry.is_open:
            return None
        return "is being forgotten, and how far the old life reached is not known yet: `uic user forget` once more finds out"


def verify(
    events: Path | KafkaSettings,
    bundle: Path | Sequence[Path],
    store: Path,
    *,
    oracle: Oracle,
    lateness_ms: int,
    max_ahead_ms: int,
    accept_late: bool = False,
    idle_after_ms: int | None = None,
    left_out: LeftOut | None = None,
    took_over_ms: Mapping[int, int] | None = None,
) -> Verdict:
    """Fold event files, or the events topic, offline and compare with the store; users in only one of both are mismatches.

    Of several bundles each took over from the one before it; `took_over_ms`: about when, by their versions, as far as known.
    """
    first, *others = [bundle] if isinstance(bundle, Path) else bundle
    log = TopicLog(events) if isinstance(events, KafkaSettings) else FileLog(events)
    opened, memories = open_pair(first, store)
    try:
        bundles = [opened, *map(Bundle.open, others)]
        for each in bundles:
            if each.identity != opened.identity:
                raise BadInput(f"{each.path}: expected a bundle of {opened.identity} as {first} is, got {each.identity}")
        rules = Rules(lateness_ms=lateness_ms, accept_late=accept_late, idle_after_ms=idle_after_ms)
        counted = _Counted(log, frozenset().union(*(each.accepted for each in bundles)), max_ahead_ms, left_out or LeftOut())
        known_ms = [(took_over_ms or {}).get(each.manifest.version) for each in bundles]
        verdict = _Comparison(bundles, rules, oracle, counted, memories, [None, *known_ms[1:]]).run()
    finally:
        memories.close()
    if isinstance(log, TopicLog):
        for user, partitions in log.divided.items():
            verdict.mismatches[user] = f"has events in partitions {sorted(partitions)}, so nothing says their order"
    return verdict


@dataclass
class _Counted:
    """The events of a log that count, each time the same ones; `left`: how many do not, `newest_ms`: how far the log goes."""

    log: FileLog | TopicLog
    accepted: frozenset[str]
    max_ahead_ms: int
    left_out: LeftOut
    left: Counter[str] = field(default_factory=Counter)
    newest_ms: int = 0

    def all(self) -> Iterator[Logged]:
        self.left.clear()
        for each in self.log.events(self.accepted, self.max_ahead_ms):
            if isinstance(each, Dead):
                self.left["dead"] += 1
                continue
            self.newest_ms = max(self.newest_ms, each.log_time_ms)
            if (kind := self.left_out.counts_as(each)) is not None:
                self.left[kind] += 1
            else:
                yield each

    def of(self, users: Collection[str]) -> dict[str, list[Logged]]:
        found: dict[str, list[Logged]] = {user: [] for user in users}
        for each in self.all() if users else ():
            if each.event.user_id in found:
                found[each.event.user_id].append(each)
        return found


class _Comparison:
    def __init__(
        self,
        bundles: Sequence[Bundle],
        rules: Rules,
        oracle: Oracle,
        log: _Counted,
        memories: ReadableStore,
        took_over_ms: Sequence[int | None],
    ) -> None:
        self._bundles = bundles
        self._rules = rules
        self._oracle = oracle
        self._log = log
        self._memories = memories
        self._took_over_ms = took_over_ms

    def run(self) -> Verdict:
        verdict = Verdict()
        first, *later = self._models(self._oracle)
        folded = fold_log(first.updater, self._log.all())
        verdict.outcomes.update({outcome.value: count for outcome, count in folded.outcomes.items()})
        verdict.outcomes.update(self._log.left)
        expected = {user: memory for user, memory in folded.memories.items() if memory.sequence > 0}
        verdict.users = len(expected)
        unlike: dict[str, UserMemory] = {}
        for user, memory in expected.items():
            why = self._log.left_out.why_undecided(user)
            blob = None if why is not None else self._memories.read(user)
            if why is not None:
                verdict.undecided[user] = why
            elif blob is None and is_idle(memory.log_time_ms, self._log.newest_ms, self._rules):
                verdict.idle += 1
            elif blob is None:
                verdict.mismatches[user] = f"not in the store, expected a memory after {memory.sequence} events"
            else:
                found = self._decode(user, blob)
                what, worst = _difference(first, memory, found)
                if what is None:
                    verdict.worst = max(verdict.worst, worst)
                elif worst > 1.0 or later:
                    unlike[user] = found
                else:
                    verdict.mismatches[user] = what
        self._explain(verdict, unlike, expected)
        for user in sorted(set(self._memories.users()) - set(expected)):
            if (why := self._log.left_out.why_undecided(user)) is not None:
                verdict.undecided[user] = why
            else:
                verdict.mismatches[user] = "in the store, but no event of theirs was to be applied"
        return verdict

    def _explain(self, verdict: Verdict, unlike: Mapping[str, UserMemory], expected: Mapping[str, UserMemory]) -> None:
        """Of memories that the first bundle alone has not made: have several, may it be chance, or are they wrong?"""
        models = self._models(self._oracle)
        known = {bundle.manifest.version for bundle in self._bundles}
        is_alike = len({bundle.accepted for bundle in self._bundles}) == 1
        for user, events in self._log.of(unlike).items():
            found = unlike[user]
            passage = find_passage(models, events, found, took_over_ms=self._took_over_ms)
            what, worst = _difference(models[0], expected[user], found)
            if passage is None and is_alike and worst <= 1.0:
                assert what is not None  # which events are applied is the same on all ways, and these were not
                verdict.mismatches[user] = what
            elif passage is None:
                verdict.undecided[user] = f"{len(events)} events and {len(models)} bundles: too many ways to take turns"
            elif passage.explains:
                verdict.passed += 1
                verdict.worst = max(verdict.worst, passage.excess)
            elif found.bundle_version not in known and worst > 1.0:
                verdict.undecided[user] = f"bundle {found.bundle_version} has touched it last, which --bundle does not name"
            elif np.isinf(passage.excess):
                assert what is not None  # or it would not have come here
                verdict.mismatches[user] = what
            elif self._may_be_chance(events, found):
                verdict.tied += 1
            else:
                whoever = "" if len(models) == 1 else ", wherever one bundle took over from another"
                verdict.mismatches[user] = (
                    f"{passage.tensor} differs by {passage.excess:.1f} of the tolerance after {found.sequence} events{whoever}"
                )

    def _may_be_chance(self, events: Sequence[Logged], found: UserMemory) -> bool:
        """Whether the channels chosen were so alike that two runtimes may rightly differ."""
        nearest = find_passage(self._models("numpy"), events, found, took_over_ms=self._took_over_ms)
        return nearest is not None and nearest.margin < TIE_MARGIN

    def _models(self, oracle: Oracle) -> list[Model]:
        from uic.oracle import NumpyStep
        from uic.runtime import OnnxStep

        steps = [NumpyStep.of(bundle) if oracle == "numpy" else OnnxStep(bundle) for bundle in self._bundles]
        return [
            Model(bundle.updater(step, self._rules), bundle.accepted) for bundle, step in zip(self._bundles, steps, strict=True)
        ]

    def _decode(self, user: str, blob: bytes) -> UserMemory:
        try:
            return self._bundles[0].published.decode(blob)
        except CorruptMemory as error:
            raise type(error)(f"user {user!r}: {error}") from error


def _difference(model: Model, expected: UserMemory, found: UserMemory) -> tuple[str | None, float]:
    """What differs, None if nothing does, and by how much the tensors do in units of the tolerance."""
    if found.sequence != expected.sequence:
        return f"{found.sequence} events applied, expected {expected.sequence}", 0.0
    if not found.comes_of(expected.sequence, expected.last_time_ms, found.log_time_ms, expected.fingerprints):
        return "last event time or fingerprints differ: other events were applied", 0.0
    if found.log_time_ms != expected.log_time_ms:
        return f"taken in by the log at {found.log_time_ms}, expected {expected.log_time_ms}", 0.0
    by_tensor = memory_excess(model.updater.codec.layout, found.state_F[None], expected.state_F[None], found.numbers)
    tensor, worst = max(((name, float(value[0])) for name, value in by_tensor.items()), key=lambda pair: pair[1])
    if worst > 1.0:
        return f"{tensor} differs by {worst:.1f} of the tolerance after {found.sequence} events", worst
    return None, worst
