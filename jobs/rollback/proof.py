"""What came of a rollback: how many events were applied again, which were left out, and whether memories are as they must be.

Of some users the memory as of the cut is kept before anything is changed; jobs/rollback/judge.py holds it, and what is read in
the end, against an offline fold.
"""

import base64
import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.event_log import Dead, TopicLog
from jobs.rollback.journal import Journal, Plan
from jobs.settings import Settings
from uic.bundle import Bundle

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
               `undecided` those of whom that cannot be said; `unverified`: why nobody was verified, where the log does not go
               back to the checkpoint any more
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
    undecided: Mapping[str, str] = field(default_factory=dict)

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
