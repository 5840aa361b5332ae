"""Histories folded in columns (uic/warm): the memories are those of one event after the other in uic/update.py."""

from collections import Counter

import numpy as np
import pytest
from drawn import event, updater
from hypothesis import given, settings
from hypothesis import strategies as st

from uic.event import BehaviourEvent
from uic.update import Outcome, Rules, Updater
from uic.warm.fold import fold_history
from uic.warm.history import NO_ID, History, in_order
from uic.warm.judge import APPLIED, SAME_CONTENT, SAME_ID, judge

BEHAVIOURS = ["buy", "click"]


@st.composite
def recorded(draw: st.DrawFn) -> list[BehaviourEvent]:
    """Events as they were recorded: few users, times, items and ids, so that everything that can happen does."""
    return [
        event(
            user_id=draw(st.sampled_from(["u1", "u2", "ü", "u4"])),
            item_id=draw(st.integers(8, 12)),
            category_id=draw(st.integers(1, 10)),
            behaviour=draw(st.sampled_from(BEHAVIOURS)),
            time_ms=draw(st.sampled_from([0, 1, 2, 3, 50, 51, 500, 501, 1000, 10_000])),
            event_id=draw(st.none() | st.sampled_from(["a", "b", "c"])),
        )
        for _ in range(draw(st.integers(0, 60)))
    ]


def columns(events: list[BehaviourEvent]) -> History:
    users = sorted({each.user_id for each in events})
    ids = sorted({each.event_id for each in events if each.event_id is not None})
    return in_order(
        users=users,
        behaviours=BEHAVIOURS,
        event_ids=ids,
        user_E=np.array([users.index(each.user_id) for each in events], dtype=np.int64),
        times_E=np.array([each.time_ms for each in events], dtype=np.int64),
        items_E=np.array([each.item_id for each in events], dtype=np.int64),
        categories_E=np.array([each.category_id for each in events], dtype=np.int64),
        behaviours_E=np.array([BEHAVIOURS.index(each.behaviour) for each in events], dtype=np.int64),
        ids_E=np.array([NO_ID if each.event_id is None else ids.index(each.event_id) for each in events], dtype=np.int64),
    )


def streamed(center: Updater, events: list[BehaviourEvent]) -> tuple[dict[str, bytes], list[tuple[int, str]], Counter[str]]:
    """Memories, what was not applied with its reason, and the counts; the log is in the order of time."""
    memories: dict[str, bytes] = {}
    left = []
    outcomes: Counter[str] = Counter()
    for place, one in sorted(enumerate(events), key=lambda entry: entry[1].time_ms):
        update = center.update(memories.get(one.user_id), one, log_time_ms=one.time_ms)
        outcomes[update.outcome.value] += 1
        if update.blob is not None:
            memories[one.user_id] = update.blob
        else:
            left.append((place, update.detail))
    return memories, sorted(left), outcomes


def warmed(center: Updater, history: History, lanes: int) -> tuple[dict[str, bytes], list[tuple[int, str]]]:
    details = {SAME_CONTENT: "same time, item and behaviour", SAME_ID: "same event_id"}
    ring_size, rules = center.codec.layout.ring_size, center.rules
    verdicts = judge(history, ring_size=ring_size, idle_after_ms=rules.idle_after_ms)
    memories: dict[str, bytes] = {}
    for block in fold_history(center, history, verdicts, lanes=lanes):
        for number, user in enumerate(block.users):
            assert user not in memories
            memories[user] = bytes(block.packed[number * center.codec.size : (number + 1) * center.codec.size])
    left = np.flatnonzero(verdicts.outcomes_E != APPLIED)
    pairs = zip(history.places_E[left].tolist(), verdicts.outcomes_E[left].tolist(), strict=True)
    return memories, sorted((place, details[outcome]) for place, outcome in pairs)


@given(recorded(), st.sampled_from([0, 1, 2, 3, 16]), st.sampled_from([None, 10, 100, 5000]), st.sampled_from([1, 2, 3, 256]))
@settings(max_examples=600)
def test_a_warm_up_is_the_stream_of_the_same_events(
    events: list[BehaviourEvent], ring_size: int, idle_after_ms: int | None, lanes: int
) -> None:
    center = updater(ring_size=ring_size, rules=Rules(idle_after_ms=idle_after_ms))
    memories, left, outcomes = streamed(center, events)
    assert outcomes[Outcome.LATE.value] == 0
    assert warmed(center, columns(events), lanes) == (memories, left)


def test_a_users_events_may_be_anywhere_in_time() -> None:
    """Times so far apart that user and time do not fit one number to sort by."""
    events = [event(2**62, 10), event(0, 11), event(2**62, 12, user_id="u2"), event(5, 13, user_id="u2")]
    center = updater()
    assert warmed(center, columns(events), 4)[0] == streamed(center, events)[0]


@pytest.mark.parametrize("is_in_order", [True, False])
def test_events_of_many_users_are_in_the_order_of_user_time_and_recording(is_in_order: bool) -> None:
    draw = np.random.default_rng(3)
    users, events = 70_000, 90_000
    user_E = draw.permutation(np.arange(events) % users)
    times_E = draw.integers(0, 50, events)
    times_E = np.sort(times_E) if is_in_order else times_E
    rest_E = np.zeros(events, dtype=np.int64)
    found = in_order(
        users=[str(user) for user in range(users)], behaviours=["click"], event_ids=[], user_E=user_E, times_E=times_E,
        items_E=rest_E, categories_E=rest_E, behaviours_E=rest_E, ids_E=rest_E - 1,
    )  # fmt: skip
    assert found.places_E.tolist() == sorted(range(events), key=lambda at: (user_E[at], times_E[at], at))
    assert (found.user_E == user_E[found.places_E]).all()
