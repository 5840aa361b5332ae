"""Has the second job the memories that it must have? Of some users all is folded anew, from the recorded history to the log.

Nothing of the warm-up, of Flink or of the follower is used: the history's files are read again (in one pass over all of them),
the topic from where the second job began, and each event is applied by itself.
"""

import json
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from jobs.bundles.migration import Journal
from jobs.cluster.status import cluster_record
from jobs.event_log import Dead, TopicLog
from jobs.folder import JobFolder
from jobs.rollback.world import StoreOnDisk
from jobs.run import rules
from jobs.settings import Settings
from uic.bundle import Bundle
from uic.errors import InvalidEvent
from uic.event import BehaviourEvent
from uic.fold import Logged
from uic.forgetting import FILE as FORGOTTEN
from uic.forgetting import Forgotten
from uic.memory import Numbers, UserMemory
from uic.quarantine import Quarantine
from uic.update import HasMargin, Outcome, Rules, StepFunction, is_idle

_LOOKED_AT = 300  # events of each partition, at each of the places where users are taken from
_CANDIDATES = 20
# That two runtimes round a state otherwise moves a small number by a whole step now and then.
_SCORES_ATOL: dict[Numbers, float] = {"float32": 1e-4, "float16": 2e-3, "int8": 0.05}


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was found. `differing`: users whose memory is not what it must be, and why; `tied`: told apart by nothing;
    `absent`: not in the store, and rightly so; `score_difference`: the largest between scores of store and fold; `numbers`:
    those that the store keeps memories in."""

    users: int
    differing: Mapping[str, str] = field(default_factory=dict)
    tied: int = 0
    absent: int = 0
    score_difference: float = 0.0
    numbers: Numbers = "float32"

    @property
    def holds(self) -> bool:
        return (
            not self.differing
            and self.tied <= max(1, self.users // 100)
            and self.score_difference <= _SCORES_ATOL[self.numbers]
        )

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "holds": self.holds}, indent=1) + "\n"


def prove(journal: Journal, settings: Settings, goal: Mapping[int, int], *, job_dir: Path, most: int) -> Proof:
    """Hold the second store against the fold; `goal` is up to where the second job has read, and its store applied."""
    from uic.oracle import NumpyStep
    from uic.runtime import OnnxStep
    from uic.tolerance import TIE_MARGIN

    bundle = Bundle.open(Path(journal.plan.bundle))
    sample = _choose(journal, settings, bundle, goal, Forgotten(job_dir / FORGOTTEN), most)
    store = StoreOnDisk(journal.plan.new_store)
    try:
        # Read first: what is published meanwhile is in the log then.
        found = {user: store.read(user) for user in sample}
        numbers = store.numbers
    finally:
        store.close()
    fold = _Fold(journal, settings, bundle, goal)
    folded = fold(OnnxStep(bundle), sample)
    differing: dict[str, str] = {}
    pairs: dict[str, tuple[UserMemory, UserMemory]] = {}
    absent = 0
    for user, blob in found.items():
        versions = folded.versions[user]
        if blob is None:
            last = versions[-1]
            if last is not None and not is_idle(bundle.codec.decode(last).log_time_ms, folded.newest_ms, fold.rules):
                differing[user] = f"not in the store, expected a memory after {bundle.codec.decode(last).sequence} events"
            absent += user not in differing
            continue
        memory = bundle.published.decode(blob)
        expected = [bundle.codec.decode(one) for one in versions if one is not None]
        same = next((each for each in expected if memory.comes_of(*_facts(each))), None)
        if same is not None:
            pairs[user] = memory, same
        else:
            wanted = ", ".join(str(each.sequence) for each in expected) or "none"
            differing[user] = f"a memory after {memory.sequence} events, expected one after {wanted}"
    unlike = {user for user, (ours, theirs) in pairs.items() if _excess(bundle, ours, theirs) > 1}
    margins = fold(NumpyStep.of(bundle), sorted(unlike)).margins if unlike else {}
    tied = {user for user in unlike if margins.get(user, 1.0) < TIE_MARGIN}
    differing |= dict.fromkeys(sorted(unlike - tied), "another state after the same events")
    alike = [pair for user, pair in pairs.items() if user not in unlike]
    return Proof(
        users=len(sample),
        differing=differing,
        tied=len(tied),
        absent=absent,
        score_difference=_score_difference(bundle, alike, journal.plan.version),
        numbers=numbers,
    )


def _choose(
    journal: Journal, settings: Settings, bundle: Bundle, goal: Mapping[int, int], forgotten: Forgotten, most: int
) -> list[str]:
    """Users from the warm-up, and of those whom the topic has events of, at its begin and at its end."""
    from jobs.warm_up.work import WorkFolder
    from uic.warm.packed import read

    work, begins = WorkFolder(journal.plan.work), journal.plan.begins
    users: set[str] = set()
    for number in range(work.plan().partitions):
        block = next(read(work.memories(number), bundle.codec), None)
        users |= {user.decode() for user in block.users[:_LOOKED_AT]} if block is not None else set()
        if len(users) >= 10 * most:
            break
    last = {partition: max(begins[partition], end - _LOOKED_AT) for partition, end in goal.items()}
    live: set[str] = set()
    for places in (begins, last):
        until = {each: min(goal[each], begin + _LOOKED_AT) for each, begin in places.items()}
        log = TopicLog(settings.kafka, places, until).events(bundle.accepted, 1000 * settings.stream.max_ahead_s)
        live |= {each.event.user_id for each in log if not isinstance(each, Dead)}
    draw = random.Random(journal.plan.until_ms)
    users, live = ({user for user in found if forgotten.entry(user) is None} for found in (users | live, live))
    chosen = draw.sample(sorted(live), min(len(live), most - most // 2))
    rest = sorted(users - set(chosen))
    return chosen + draw.sample(rest, min(len(rest), most - len(chosen)))


@dataclass(frozen=True)
class _Folded:
    """Of each user the memory at the goal and after each event since, and the smallest margin; and the newest log time."""

    versions: dict[str, list[bytes | None]]
    margins: dict[str, float]
    newest_ms: int


class _Fold:
    """The events of some users from the beginning of the window on, one after the other."""

    def __init__(self, journal: Journal, settings: Settings, bundle: Bundle, goal: Mapping[int, int]) -> None:
        stream, plan = settings.stream, journal.plan
        _, on = cluster_record(JobFolder(plan.job_dir, make=False))
        judged = rules(stream.lateness_s, stream.idle_after_s, accept_late=on.accept_late)
        self.rules = replace(judged, not_before_ms=plan.until_ms)
        self._journal = journal
        self._settings = settings
        self._bundle = bundle
        self._goal = goal
        self._quarantine = None if plan.quarantine is None else Quarantine.read(Path(plan.quarantine))

    def __call__(self, step: StepFunction, sample: Collection[str]) -> _Folded:
        versions: dict[str, list[bytes | None]] = {user: [None] for user in sample}
        margins: dict[str, float] = {}
        newest_ms = 0
        of_history = replace(self.rules, accept_late=True, not_before_ms=None)
        for logged in _recorded(self._journal, self._bundle, sample):
            self._take(step, of_history, logged, versions, margins, is_over=False)
        kafka, begins, goal = self._settings.kafka, self._journal.plan.begins, self._goal
        for log, is_over in ((TopicLog(kafka, begins, goal), False), (TopicLog(kafka, goal), True)):
            for each in log.events(self._bundle.accepted, 1000 * self._settings.stream.max_ahead_s):
                if isinstance(each, Dead):
                    continue
                newest_ms = max(newest_ms, each.log_time_ms)
                if each.event.user_id in versions and self._counts(each):
                    self._take(step, self.rules, each, versions, margins, is_over=is_over)
        return _Folded(versions, margins, newest_ms)

    def _take(
        self,
        step: StepFunction,
        rules: Rules,
        logged: Logged,
        versions: dict[str, list[bytes | None]],
        margins: dict[str, float],
        *,
        is_over: bool,
    ) -> None:
        event, log_time_ms, accepts_late = logged
        of_user = versions[event.user_id]
        updater = self._bundle.updater(step, rules)
        done = updater.update(of_user[-1], event, log_time_ms=log_time_ms, accepts_late=accepts_late)
        if done.outcome is not Outcome.APPLIED:
            return
        if isinstance(step, HasMargin):
            margins[event.user_id] = min(margins.get(event.user_id, 1.0), float(step.margin_B[0]))
        of_user[slice(len(of_user), None) if is_over else slice(None)] = [done.blob]

    def _counts(self, logged: Logged) -> bool:
        try:
            if self._quarantine is not None:
                self._quarantine.check(logged.event, logged.log_time_ms)
        except InvalidEvent:
            return False
        return True


def _recorded(journal: Journal, bundle: Bundle, sample: Collection[str]) -> Iterator[Logged]:
    """The history's events of these users in the order of time; a history's log time is the event's own."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from jobs.warm_up import inputs
    from jobs.warm_up.read import SCHEMA, Left, read
    from jobs.warm_up.work import WorkFolder

    plan = WorkFolder(journal.plan.work).plan()
    wanted = pa.array(sorted(sample), pa.string())
    tables = [SCHEMA.empty_table()]
    for task in inputs.cut(plan.inputs):
        read_tables = read(task, accepted=bundle.accepted, from_ms=plan.from_ms, until_ms=plan.until_ms, left=Left())
        tables += [table.filter(pc.is_in(table.column("user"), value_set=wanted)) for table in read_tables]
    table = pa.concat_tables(tables)
    order = np.argsort(table.column("time_ms").to_numpy(), kind="stable")
    for row in table.take(order).to_pylist():
        yield Logged(
            BehaviourEvent(
                user_id=row["user"],
                item_id=row["item_id"],
                category_id=row["category_id"],
                behaviour=row["behaviour"],
                time_ms=row["time_ms"],
                event_id=row["event_id"],
            ),
            row["time_ms"],
        )


def _score_difference(bundle: Bundle, pairs: Sequence[tuple[UserMemory, UserMemory]], seed: int) -> float:
    """The largest difference of a probability, over the same candidates; infinite where one is not finite."""
    from uic.runtime import OnnxScore

    if not pairs:
        return 0.0
    score, draw = OnnxScore(bundle), np.random.default_rng(seed)
    shape = len(pairs), _CANDIDATES
    items_BN = bundle.items.rows(draw.choice(bundle.items.ids, shape))
    categories_BN = bundle.categories.rows(draw.choice(bundle.categories.ids, shape))
    count = len(bundle.manifest.head_features)
    features_BNC = np.zeros((*shape, count), dtype=np.float32) if count else None
    scores = [
        score(np.stack([pair[side].state_F for pair in pairs]), items_BN, categories_BN, None, features_BNC) for side in (0, 1)
    ]
    if not all(np.isfinite(each).all() for each in scores):
        return float("inf")
    return float(np.abs(scores[0] - scores[1]).max())


def _excess(bundle: Bundle, published: UserMemory, folded: UserMemory) -> float:
    from uic.tolerance import memory_excess

    by_tensor = memory_excess(bundle.layout, published.state_F[None], folded.state_F[None], published.numbers)
    return max(float(each[0]) for each in by_tensor.values())


def _facts(memory: UserMemory) -> tuple[int, int | None, int | None, bytes]:
    """What tells one memory of a user from another, without its tensors."""
    return memory.sequence, memory.last_time_ms, memory.log_time_ms, memory.fingerprints
