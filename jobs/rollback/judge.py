"""Are the memories after a rollback what they must be? The events since the daily checkpoint, folded onto the memories in it.

Without Flink and without what is left out. What readers got as of the cut is held against the same fold, where one bundle alone
has made it: what was active then, and where another took over, nothing says.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from jobs.checkpoints import form_of
from jobs.event_log import Dead, TopicLog
from jobs.rollback.in_savepoint import memories_of_users
from jobs.rollback.journal import Journal
from jobs.rollback.proof import Memories
from jobs.rollback.world import FollowedStore
from jobs.settings import Settings
from jobs.verdict import LeftOut
from uic.bundle import Bundle
from uic.fold import Logged
from uic.memory import UserMemory
from uic.passage import Model, find_passage
from uic.tolerance import TIE_MARGIN
from uic.update import Ledger, Rules, StepFunction, is_idle


class Verified(NamedTuple):
    """Users whose memory is not what it must be, and those of whom nothing can be said, each with why; how many are tied."""

    differing: dict[str, str]
    undecided: dict[str, str]
    tied: int


def verify(
    settings: Settings,
    journal: Journal,
    rules: Rules,
    left_out: LeftOut,
    sample: Memories,
    stores: Sequence[FollowedStore],
    *,
    promoted: Path | None = None,
) -> Verified:
    """Whether the sample's memories are what the events since the checkpoint make of those in it, also as of the cut.

    `promoted`: the bundle that took over from the plan's meanwhile, if any did.
    """
    plan = journal.plan
    bundles = [Bundle.open(Path(plan.bundle)), *([] if promoted is None else [Bundle.open(promoted)])]
    # Read first: what is published meanwhile is in the log then.
    found = [{user: store.read(user) for user in sample} for store in stores]
    form = form_of(bundles[0].path)
    assert form is not None  # the bundle was opened
    begins = memories_of_users(Path(plan.savepoint), form, sample)
    accepted = frozenset().union(*(bundle.accepted for bundle in bundles))
    log = read_log(settings, journal, accepted, left_out, sample)
    judge = Judge(bundles, rules, log, left_out)
    verified = Verified({}, {}, 0)
    for user, as_of_cut in sample.items():
        begin = judge.begin(user, begins.get(user))
        verdicts = [judge.as_of_cut(user, begin, as_of_cut), *(judge.now(user, begin, each[user]) for each in found)]
        for kind, why in verdicts:
            if kind == "tied":
                verified = verified._replace(tied=verified.tied + 1)
            elif kind != "right":
                getattr(verified, kind).setdefault(user, why)
    return verified


Verdict = tuple[Literal["right", "differing", "undecided", "tied"], str]
_RIGHT: Verdict = ("right", "")


@dataclass
class Log:
    """Of each user of a sample the events that count, and how many of them come before the cut, and before the goal."""

    newest_ms: int = 0
    events: dict[str, list[Logged]] = field(default_factory=dict)
    at_cut: dict[str, int] = field(default_factory=dict)
    at_goal: dict[str, int] = field(default_factory=dict)


def read_log(settings: Settings, journal: Journal, accepted: frozenset[str], left_out: LeftOut, users: Collection[str]) -> Log:
    """The events topic from the checkpoint to its end."""
    plan, kafka = journal.plan, settings.kafka
    log = Log(events={user: [] for user in users})
    for begins, until, counts in (
        (plan.offsets, plan.cut, log.at_cut),
        (plan.cut, journal.goal, log.at_goal),
        (journal.goal, None, {}),
    ):
        for each in TopicLog(kafka, begins, until).events(accepted, 1000 * settings.stream.max_ahead_s):
            if isinstance(each, Dead):
                continue
            log.newest_ms = max(log.newest_ms, each.log_time_ms)
            if each.event.user_id in log.events and left_out.counts_as(each) is None:
                log.events[each.event.user_id].append(each)
        counts |= {user: len(events) for user, events in log.events.items()}
    return log


class Judge:
    """Holds memories against what bundles make of events onto the memories of the checkpoint."""

    def __init__(self, bundles: Sequence[Bundle], rules: Rules, log: Log, left_out: LeftOut) -> None:
        from uic.runtime import OnnxStep

        self._bundles = bundles
        self._rules = rules
        self._log = log
        self._left_out = left_out
        self._models = self._open([OnnxStep(bundle) for bundle in bundles])

    def begin(self, user: str, blob: bytes | None) -> UserMemory | None:
        """The memory in the checkpoint as the job goes on from it."""
        memory = None if blob is None else self._bundles[0].codec.decode(blob)
        forgotten = self._left_out.forgotten
        if memory is None or forgotten is None or memory.log_time_ms is None:
            return memory
        return None if forgotten.is_gone(user, memory.log_time_ms) else memory

    def as_of_cut(self, user: str, begin: UserMemory | None, blob: bytes | None) -> Verdict:
        """Of what readers got at the cut, made by whichever bundle was active then: right unless that was the plan's alone."""
        forgotten, version = self._left_out.forgotten, self._bundles[0].manifest.version
        has_left = begin is None and self._rules.idle_after_ms is not None
        if blob is None or has_left or (forgotten is not None and forgotten.entry(user) is not None):
            return _RIGHT
        memory = self._bundles[0].published.decode(blob)
        events = self._log.events[user][: self._log.at_cut[user]]
        if events and {memory.bundle_version, version if begin is None else begin.bundle_version} != {version}:
            return _RIGHT
        known = self._models[0] if events else Model(self._models[0].updater, frozenset())
        kind, why = self._judge([known], events, begin, memory, len(events))
        return kind, why and f"as of the cut {why}"

    def now(self, user: str, begin: UserMemory | None, blob: bytes | None) -> Verdict:
        """Of what is read now, after the goal."""
        if (why := self._left_out.why_undecided(user)) is not None:
            return "undecided", why
        events, at_goal = self._log.events[user], self._log.at_goal[user]
        if blob is None:
            ledger = self._ledger(begin, events[:at_goal])
            is_right = ledger.sequence == 0 or is_idle(ledger.log_time_ms, self._log.newest_ms, self._rules)
            return _RIGHT if is_right else ("differing", f"not in the store, expected a memory after {ledger.sequence} events")
        memory = self._bundles[0].published.decode(blob)
        # Nobody has touched it since.
        known = {bundle.manifest.version for bundle in self._bundles} | ({begin.bundle_version} if begin is not None else set())
        if memory.bundle_version in known:
            return self._judge(self._models, events, begin, memory, at_goal)
        ours = replace(memory, bundle_version=self._bundles[-1].manifest.version)
        kind, why = self._judge(self._models, events, begin, ours, at_goal, only_events=True)
        return (kind, why) if kind == "differing" else ("undecided", f"bundle {memory.bundle_version} has touched it meanwhile")

    def _judge(
        self,
        models: Sequence[Model],
        events: Sequence[Logged],
        begin: UserMemory | None,
        memory: UserMemory,
        least: int,
        *,
        only_events: bool = False,
    ) -> Verdict:
        from uic.oracle import NumpyStep

        passage = find_passage(models, events, memory, begin=begin, least=least)
        if passage is None:
            return "undecided", f"{len(events)} events and {len(models)} bundles: too many ways to take turns"
        if passage.explains or (only_events and not np.isinf(passage.excess)):
            return _RIGHT
        if np.isinf(passage.excess):
            return "differing", f"a memory after {memory.sequence} events, expected one after {passage.sequence or 'none'}"
        exact = self._open([NumpyStep.of(bundle) for bundle in self._bundles])
        nearest = find_passage(exact[: len(models)], events, memory, begin=begin, least=least)
        if nearest is not None and nearest.margin < TIE_MARGIN:
            return "tied", ""
        return "differing", "another state after the same events"

    def _ledger(self, begin: UserMemory | None, events: Sequence[Logged]) -> Ledger:
        ledger = Ledger.of(self._bundles[0].initial if begin is None else begin)
        for each in events:
            ledger.take(each.event, each.log_time_ms, self._rules, accepts_late=each.accepts_late)
        return ledger

    def _open(self, steps: Sequence[StepFunction]) -> list[Model]:
        pairs = zip(self._bundles, steps, strict=True)
        return [Model(bundle.updater(step, self._rules), bundle.accepted) for bundle, step in pairs]
