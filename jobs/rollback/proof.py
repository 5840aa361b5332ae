"""What came of a rollback: how many events were applied again, which were left out, and whether memories are as they must be.

Of some users the memory as of the cut is kept before anything is changed. Afterwards the events from the cut on are folded onto
it, without Flink and without what is in quarantine, and the store must say the same.
"""

import base64
import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.event_log import Dead, TopicLog
from jobs.rollback.journal import Journal, Plan
from jobs.rollback.world import FollowedStore
from jobs.settings import Settings
from uic.bundle import Bundle
from uic.errors import InvalidEvent
from uic.event import BehaviourEvent
from uic.quarantine import Quarantine
from uic.update import HasMargin, Outcome, Rules, StepFunction, is_idle

if TYPE_CHECKING:
    from jobs.letter_topics import TopicLetter

SAMPLE = "sample.json"
_LOOKED_AT = 300  # events of each partition, at each of the places where users are taken from
_RULE = "quarantined_"
Memories = Mapping[str, bytes | None]


@dataclass(frozen=True, kw_only=True)
class Report:
    """The outcome. `silent`: events applied again before the cut; `replayed`: those from the cut on, up to the goal.

    left       those of them that were not applied, by the reason of their letter (a rule of the quarantine, or what it was)
    absent     users who are not readable, all of whose events from the cut on were left out by a rule
    verified   users of the sample, `differing` those whose memory is not what it must be; `tied`: told apart by nothing;
               `unverified`: why nobody was verified, where the log does not go back to the cut any more
    """

    day: str
    generation: int
    entry: str
    evidence: str | None
    fresh: str | None
    silent: int
    replayed: int
    left: Mapping[str, int]
    absent: int
    verified: int
    tied: int
    differing: Mapping[str, str]
    unverified: str | None = None

    @property
    def holds(self) -> bool:
        return not self.differing and self.tied <= max(1, self.verified // 100)

    @property
    def applied(self) -> int:
        """Events applied again from the cut on, duplicates among them: those leave no letter."""
        return self.replayed - sum(self.left.values())

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "applied": self.applied, "holds": self.holds}, indent=1) + "\n"


def choose_users(settings: Settings, plan: Plan, most: int) -> list[str]:
    """Users with events between the checkpoint and the cut, after the cut, and at the end of the log."""
    bundle = Bundle.open(Path(plan.bundle))
    ends = TopicLog(settings.kafka, plan.offsets).ends
    last = {partition: max(plan.cut[partition], end - _LOOKED_AT) for partition, end in ends.items()}
    users: set[str] = set()
    for begins in (plan.offsets, plan.cut, last):
        log = TopicLog(settings.kafka, begins, {each: begin + _LOOKED_AT for each, begin in begins.items()})
        found = (each for each in log.events(bundle.accepted, 1000 * settings.stream.max_ahead_s) if not isinstance(each, Dead))
        users |= {each.event.user_id for each in found}
    return random.Random(plan.cut_ms).sample(sorted(users), min(most, len(users)))


def sample_to_json(memories: Memories) -> str:
    return json.dumps({user: None if blob is None else base64.b64encode(blob).decode() for user, blob in memories.items()})


def sample_from_json(text: str) -> Memories:
    return {user: None if blob is None else base64.b64decode(blob) for user, blob in json.loads(text).items()}


def count_left(letters: Iterable["TopicLetter"], journal: Journal, topic: str) -> tuple[Counter[str], set[str]]:
    """How many events from the cut to the goal were left, by reason, and the users of those left by a rule."""
    places: set[tuple[int, int]] = set()
    reasons: Counter[str] = Counter()
    users: set[str] = set()
    for letter in letters:
        name, _, partition = letter.source.rpartition("-")
        if name != topic or not partition.isdecimal() or not letter.offset.isdecimal():
            continue
        place = int(partition), int(letter.offset)
        is_of_replay = journal.plan.cut.get(place[0], 0) <= place[1] < journal.goal.get(place[0], 0)
        if not is_of_replay or place in places:  # a letter may come twice
            continue
        places.add(place)
        reasons[letter.reason] += 1
        if letter.reason.startswith(_RULE) and letter.key is not None:
            users.add(letter.key.decode("utf-8", "replace"))
    return reasons, users


def verify(
    settings: Settings,
    journal: Journal,
    rules: Rules,
    quarantine: Quarantine,
    sample: Memories,
    stores: Sequence[FollowedStore],
) -> tuple[dict[str, str], int]:
    """The users whose memory is not what the events from the cut on make of the one as of the cut, and why; and the ties."""
    from uic.oracle import NumpyStep
    from uic.runtime import OnnxStep
    from uic.tolerance import TIE_MARGIN, memory_excess

    bundle = Bundle.open(Path(journal.plan.bundle))
    # Read first: what is published meanwhile is in the log then.
    found = [{user: store.read(user) for user in sample} for store in stores]
    refold = _Fold(settings, journal, bundle, rules, quarantine)
    folded = refold(OnnxStep(bundle), sample)
    differing: dict[str, str] = {}
    unlike: set[str] = set()
    for user in sample:
        for each in found:
            blob = each[user]
            versions = {_version(bundle, version): version for version in folded.versions[user]}
            expected = versions.get(_version(bundle, blob))
            if blob is None and None not in versions:
                memory = bundle.codec.decode(folded.versions[user][-1] or b"")
                if not is_idle(memory.log_time_ms, folded.newest_ms, rules):
                    differing[user] = f"not in the store, expected a memory after {memory.sequence} events"
            elif blob is not None and expected is None:
                last = folded.versions[user][-1]
                wanted = "none" if last is None else f"one after {bundle.codec.decode(last).sequence}"
                differing[user] = f"a memory after {bundle.codec.decode(blob).sequence} events, expected {wanted}"
            elif blob is not None and expected is not None:
                ours, theirs = bundle.codec.decode(expected), bundle.codec.decode(blob)
                excess = memory_excess(bundle.layout, theirs.state_F[None], ours.state_F[None])
                if max(float(value[0]) for value in excess.values()) > 1.0:
                    unlike.add(user)
    margins = refold(NumpyStep.of(bundle), {user: sample[user] for user in unlike}).margins if unlike else {}
    tied = {user for user in unlike if margins.get(user, 1.0) < TIE_MARGIN}
    differing |= dict.fromkeys(sorted(unlike - tied), "another state after the same events")
    return differing, len(tied)


@dataclass(frozen=True)
class _Folded:
    """Of each user the memory at the goal and after each event since, and the smallest margin; and the newest log time."""

    versions: dict[str, list[bytes | None]]
    margins: dict[str, float]
    newest_ms: int


@dataclass(frozen=True)
class _Fold:
    """Events from the cut on, folded onto memories as of the cut."""

    settings: Settings
    journal: Journal
    bundle: Bundle
    rules: Rules
    quarantine: Quarantine

    def __call__(self, step: StepFunction, sample: Memories) -> _Folded:
        updater = self.bundle.updater(step, self.rules)
        versions = {user: [blob] for user, blob in sample.items()}
        margins: dict[str, float] = {}
        newest_ms = 0
        kafka, cut, goal = self.settings.kafka, self.journal.plan.cut, self.journal.goal
        for log, is_over in ((TopicLog(kafka, cut, goal), False), (TopicLog(kafka, goal), True)):
            for each in log.events(self.bundle.accepted, 1000 * self.settings.stream.max_ahead_s):
                if isinstance(each, Dead):
                    continue
                newest_ms = max(newest_ms, each.log_time_ms)
                of_user = versions.get(each.event.user_id)
                if of_user is None or not self._takes(each.event, each.log_time_ms):
                    continue
                done = updater.update(of_user[-1], each.event, log_time_ms=each.log_time_ms, accepts_late=each.accepts_late)
                if done.outcome is not Outcome.APPLIED:
                    continue
                if isinstance(step, HasMargin):
                    margins[each.event.user_id] = min(margins.get(each.event.user_id, 1.0), float(step.margin_B[0]))
                of_user[slice(None, None) if not is_over else slice(len(of_user), None)] = [done.blob]
        return _Folded(versions, margins, newest_ms)

    def _takes(self, event: BehaviourEvent, log_time_ms: int) -> bool:
        try:
            self.quarantine.check(event, log_time_ms)
        except InvalidEvent:
            return False
        return True


def _version(bundle: Bundle, blob: bytes | None) -> tuple[object, ...] | None:
    """What tells one memory of a user from another, without its tensors."""
    if blob is None:
        return None
    memory = bundle.codec.decode(blob)
    return memory.sequence, memory.last_time_ms, memory.log_time_ms, memory.fingerprints
