"""Many users folded offline (uic/fold.py) equal the same events applied one by one, in whatever order they come."""

from collections import Counter
from dataclasses import replace
from itertools import accumulate

import numpy as np
from drawn import event, updater
from hypothesis import given, settings
from hypothesis import strategies as st

from uic.event import BehaviourEvent
from uic.fold import Logged, fold, fold_log
from uic.memory import UserMemory
from uic.update import Outcome, Rules, Updater

STREAMS = st.lists(
    st.builds(
        event,
        st.integers(0, 40),
        st.integers(8, 14),
        user_id=st.sampled_from(["u1", "u2", "u3", "ü\0"]),
        behaviour=st.sampled_from(["click", "buy"]),
        event_id=st.sampled_from([None, None, "e1", "e2", "e3"]),
    ),
    max_size=60,
)


def one_by_one(center: Updater, log: list[Logged]) -> tuple[dict[str, UserMemory], Counter[Outcome]]:
    blobs: dict[str, bytes] = {}
    outcomes: Counter[Outcome] = Counter()
    for each, log_time_ms, accepts_late in log:
        update = center.update(blobs.get(each.user_id), each, log_time_ms=log_time_ms, accepts_late=accepts_late)
        outcomes[update.outcome] += 1
        if update.blob is not None:
            blobs[each.user_id] = update.blob
    return {user: center.codec.decode(blob) for user, blob in blobs.items()}, outcomes


def by_their_own_times(events: list[BehaviourEvent]) -> list[Logged]:
    return [Logged(each, each.time_ms) for each in events]


@settings(max_examples=200)
@given(STREAMS, st.integers(0, 3), st.integers(0, 30), st.booleans())
def test_a_fold_equals_the_events_applied_one_by_one_exactly(
    events: list[BehaviourEvent], ring_size: int, lateness_ms: int, accept_late: bool
) -> None:
    center = updater(ring_size=ring_size, lateness_ms=lateness_ms, accept_late=accept_late)
    folded = fold(center, events)
    memories, outcomes = one_by_one(center, by_their_own_times(events))
    assert folded.outcomes == outcomes
    assert folded.memories.keys() == memories.keys()
    for user, memory in memories.items():
        # The toy step is exact in float32, so that bytes can be compared.
        assert center.codec.encode(folded.memories[user]) == center.codec.encode(memory)


@given(STREAMS, st.integers(0, 30), st.sampled_from([None, 0, 1, 3]), st.data())
def test_a_fold_of_a_log_keeps_the_logs_own_times_and_what_it_says_of_late_events(
    events: list[BehaviourEvent], lateness_ms: int, idle_after_ms: int | None, data: st.DataObject
) -> None:
    center = updater(rules=Rules(lateness_ms=lateness_ms, idle_after_ms=idle_after_ms))
    steps = data.draw(st.lists(st.integers(0, 2), min_size=len(events), max_size=len(events)))
    log = [
        Logged(each, 1000 + log_time_ms, data.draw(st.booleans()))
        for each, log_time_ms in zip(events, accumulate(steps), strict=True)
    ]
    folded = fold_log(center, log)
    memories, outcomes = one_by_one(center, log)
    assert folded.outcomes == outcomes
    blobs = {user: center.codec.encode(memory) for user, memory in folded.memories.items()}
    assert blobs == {user: center.codec.encode(memory) for user, memory in memories.items()}


def test_more_users_than_one_wave_holds_are_all_folded() -> None:
    center = updater()
    events = [event(1000 + t, item_id=10 + t, user_id=f"u{user}") for t in range(3) for user in range(0, 1100, t + 1)]
    folded = fold(center, events)
    memories, _ = one_by_one(center, by_their_own_times(events))
    assert len(folded.memories) == 1100
    assert all(center.codec.encode(folded.memories[user]) == center.codec.encode(memories[user]) for user in memories)


def test_no_events_fold_to_no_memories() -> None:
    assert fold(updater(), []) == fold(updater(), iter([]))
    assert fold(updater(), []).memories == {}


def test_the_users_of_a_fold_do_not_touch_each_other() -> None:
    center = updater()
    alone = fold(center, [event(1, user_id="a"), event(2, 11, user_id="a")]).memories["a"]
    mixed = fold(center, [event(1, user_id="a"), event(1, 19, user_id="b"), event(2, 11, user_id="a")]).memories["a"]
    assert np.array_equal(alone.state_F, mixed.state_F)
    assert replace(alone, state_F=mixed.state_F) == mixed
