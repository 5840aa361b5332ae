"""The hand-over: a history until T and then the live stream from a while before T on, are one stream of all events."""

from drawn import event, updater
from hypothesis import given, settings
from hypothesis import strategies as st
from test_warm_fold import columns, recorded, warmed

from uic.batch import Arrival, BatchUpdater
from uic.event import BehaviourEvent, to_json
from uic.update import Outcome, Rules, Updater

T_MS = 500
IDLE = st.sampled_from([None, 10, 600, 5000])


@given(recorded(), st.lists(st.sampled_from([0, 1, 30, 700]), max_size=60), IDLE, st.integers(0, 500))
@settings(max_examples=300)
def test_warm_up_and_live_with_an_overlap_are_one_stream_of_all_events(
    events: list[BehaviourEvent], delays: list[int], idle_after_ms: int | None, overlap_ms: int
) -> None:
    """Live events come in the order of a log of their own, a little after their time; its begin repeats the history's end."""
    history = [each for each in events if each.time_ms < T_MS]
    delayed = [
        (each.time_ms + delay, each)
        for each, delay in zip(events, [*delays, *[0] * len(events)], strict=False)
        if each.time_ms >= T_MS - overlap_ms
    ]
    live = sorted(delayed, key=lambda entry: entry[0])
    rules = Rules(idle_after_ms=idle_after_ms, lateness_ms=100)

    one = updater(rules=rules)
    expected: dict[str, bytes] = {}
    recorded_log = [(each.time_ms, each) for each in sorted(history, key=lambda each: each.time_ms)]
    for log_time_ms, each in recorded_log + [entry for entry in live if entry[1].time_ms >= T_MS]:
        blob = one.update(expected.get(each.user_id), each, log_time_ms=log_time_ms).blob
        expected |= {} if blob is None else {each.user_id: blob}

    memories, _ = warmed(updater(rules=rules), columns(history), 2)
    after = updater(rules=Rules(idle_after_ms=idle_after_ms, lateness_ms=100, not_before_ms=T_MS))
    by_event = dict(memories)
    for log_time_ms, each in live:
        update = after.update(by_event.get(each.user_id), each, log_time_ms=log_time_ms)
        if each.time_ms < T_MS:
            assert (update.outcome, update.blob) == (Outcome.LATE, None)
        by_event |= {} if update.blob is None else {each.user_id: update.blob}
    assert by_event == expected
    assert batched(after, memories, live) == expected


def batched(center: Updater, memories: dict[str, bytes], live: list[tuple[int, BehaviourEvent]]) -> dict[str, bytes]:
    """The live part as the batched plan applies it."""
    users = sorted({each.user_id for _, each in live})
    arrivals = [Arrival(users.index(each.user_id), log_time_ms, False, to_json(each)) for log_time_ms, each in live]
    batches = BatchUpdater(center, accepted=None, max_ahead_ms=1 << 40)
    done = batches.apply(users, [memories.get(user) for user in users], arrivals)
    return memories | {users[place]: blob for place, blob in done.blobs.items()}


def test_what_is_of_before_the_hand_over_is_late_whatever_else_is_accepted() -> None:
    center = updater(rules=Rules(accept_late=True, not_before_ms=2000))
    update = center.update(None, event(1999), log_time_ms=5000, accepts_late=True)
    assert (update.outcome, update.blob) == (Outcome.LATE, None)
    assert "before the hand-over" in update.detail
    assert center.update(None, event(2000), log_time_ms=5000).outcome is Outcome.APPLIED


def test_an_event_of_before_the_hand_over_ends_nobodys_memory() -> None:
    """It comes after the user was idle for long: still it neither changes the memory nor begins another one."""
    center = updater(rules=Rules(idle_after_ms=10))
    blob = center.update(None, event(1000), log_time_ms=1000).blob
    after = updater(rules=Rules(idle_after_ms=10, not_before_ms=2000))
    live = [(9000, event(1500, 11)), (9000, event(9000, 12))]
    alone = after.update(blob, live[1][1], log_time_ms=9000).blob
    assert batched(after, {"u1": blob or b""}, live) == {"u1": alone}
