"""Many users folded offline (uic/fold.py) equal the same events applied one by one, in whatever order they come."""

from collections import Counter
from dataclasses import replace

import numpy as np
from drawn import event, updater
from hypothesis import given, settings
from hypothesis import strategies as st

from uic.event import BehaviourEvent
from uic.fold import fold
from uic.memory import UserMemory
from uic.update import Outcome, Updater

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


def one_by_one(center: Updater, events: list[BehaviourEvent]) -> tuple[dict[str, UserMemory], Counter[Outcome]]:
    blobs: dict[str, bytes] = {}
    outcomes: Counter[Outcome] = Counter()
    for each in events:
        update = center.update(blobs.get(each.user_id), each, log_time_ms=each.time_ms)
        outcomes[update.outcome] += 1
        if update.blob is not None:
            blobs[each.user_id] = update.blob
    return {user: center.codec.decode(blob) for user, blob in blobs.items()}, outcomes


@settings(max_examples=200)
@given(STREAMS, st.integers(0, 3), st.integers(0, 30), st.booleans())
def test_a_fold_equals_the_events_applied_one_by_one_exactly(
    events: list[BehaviourEvent], ring_size: int, lateness_ms: int, accept_late: bool
) -> None:
    center = updater(ring_size=ring_size, lateness_ms=lateness_ms, accept_late=accept_late)
    folded = fold(center, events)
    memories, outcomes = one_by_one(center, events)
    assert folded.outcomes == outcomes
    assert folded.memories.keys() == memories.keys()
    for user, memory in memories.items():
        # The toy step is exact in float32, so that bytes can be compared.
        assert center.codec.encode(folded.memories[user]) == center.codec.encode(memory)


def test_more_users_than_one_wave_holds_are_all_folded() -> None:
    center = updater()
    events = [event(1000 + t, item_id=10 + t, user_id=f"u{user}") for t in range(3) for user in range(0, 1100, t + 1)]
    folded = fold(center, events)
    memories, _ = one_by_one(center, events)
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
