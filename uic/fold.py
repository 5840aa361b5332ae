"""Many users' events folded offline, without a stream: what `uic verify` compares the store against.

Which events are applied is decided event by event in log order, exactly as in the stream; the steps are then taken in
waves, the n-th event of every user at once, because a step for 256 users costs little more than a step for one.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from uic.event import BehaviourEvent
from uic.memory import Float32, UserMemory
from uic.update import HasMargin, Ledger, Outcome, Updater

_WAVE_B = 512


class Logged(NamedTuple):
    """An event and when the log took it in; `accepts_late`: it is to be applied whatever its time."""

    event: BehaviourEvent
    log_time_ms: int
    accepts_late: bool = False


@dataclass
class _History:
    ledger: Ledger
    item_ids: list[int] = field(default_factory=list)
    category_ids: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Folded:
    """Every user's memory after all events, and how many events had which outcome.

    `margins`, where the step tells them (uic/oracle.py), is each user's smallest margin of the channels chosen.
    """

    memories: dict[str, UserMemory]
    outcomes: Counter[Outcome]
    margins: dict[str, float] = field(default_factory=dict)


def fold(updater: Updater, events: Iterable[BehaviourEvent]) -> Folded:
    """Fold events in log order, from the initial memory on; log time is each event's own time, as in event files."""
    return fold_log(updater, (Logged(event, event.time_ms) for event in events))


def fold_log(updater: Updater, log: Iterable[Logged]) -> Folded:
    """The same for events that the log took in at a time of its own, as Kafka does.

    A user who was idle for too long and came back begins anew; one who did not come back keeps the last memory here.
    """
    histories: dict[str, _History] = {}
    outcomes: Counter[Outcome] = Counter()
    for event, log_time_ms, accepts_late in log:
        history = histories.get(event.user_id)
        if history is None:
            history = histories[event.user_id] = _History(Ledger(updater.initial.fingerprints))
        outcome, _ = history.ledger.take(event, log_time_ms, updater.rules, accepts_late=accepts_late)
        outcomes[outcome] += 1
        if outcome is not Outcome.APPLIED:
            continue
        if history.ledger.sequence == 1:
            history.item_ids.clear()
            history.category_ids.clear()
        history.item_ids.append(event.item_id)
        history.category_ids.append(event.category_id)

    users = sorted(histories, key=lambda user: -len(histories[user].item_ids))
    memories: dict[str, UserMemory] = {}
    margins: dict[str, float] = {}
    for start in range(0, len(users), _WAVE_B):
        batch = users[start : start + _WAVE_B]
        states_BF, margin_B = _waves(updater, [histories[user] for user in batch])
        margins |= zip(batch, margin_B.tolist(), strict=True)
        for user, state_F in zip(batch, states_BF, strict=True):
            ledger = histories[user].ledger
            memories[user] = UserMemory(
                state_F=state_F,
                fingerprints=ledger.ring,
                sequence=ledger.sequence,
                last_time_ms=ledger.last_time_ms,
                log_time_ms=ledger.log_time_ms,
                bundle_version=updater.bundle_version,
            )
    return Folded(memories, outcomes, margins)


def _waves(updater: Updater, histories: list[_History]) -> tuple[Float32, NDArray[np.float64]]:
    """Final states [B, F] and smallest margins [B] of users given longest history first."""
    items = [updater.items.rows(np.array(history.item_ids, dtype=np.int64)) for history in histories]
    categories = [updater.categories.rows(np.array(history.category_ids, dtype=np.int64)) for history in histories]
    lengths = np.array([len(rows) for rows in items])
    states_BF = np.tile(updater.initial.state_F, (len(histories), 1))
    margin_B = np.full(len(histories), np.inf)
    for t in range(int(lengths.max(initial=0))):
        active = int(np.count_nonzero(lengths > t))
        states_BF[:active] = updater.step(
            states_BF[:active],
            np.array([rows[t] for rows in items[:active]]),
            np.array([rows[t] for rows in categories[:active]]),
        )
        if isinstance(updater.step, HasMargin):
            margin_B[:active] = np.minimum(margin_B[:active], updater.step.margin_B)
    return states_BF, margin_B
