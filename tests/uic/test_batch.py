"""Batches of events (uic/batch.py): however a log is cut into batches, the memories are those of one event at a time."""

import dataclasses
import itertools
from collections import Counter

import msgspec
import pytest
from drawn import event, layouts, memories, updater
from hypothesis import given, settings
from hypothesis import strategies as st

from uic.batch import Arrival, BatchUpdater, Left
from uic.clock import Days
from uic.codec import Codec
from uic.errors import ChecksumMismatch, CorruptMemory
from uic.event import BehaviourEvent, parse_event, to_json
from uic.memory import MemoryLayout
from uic.update import Outcome, Rules, Updater

ACCEPTED = frozenset({"click", "buy"})
RULES = Rules(lateness_ms=50, idle_after_ms=500)
AHEAD_MS = 1000


DAY_MS = 86_400_000
STEPS_MS = [0, 1, 40, 400, 600]


@st.composite
def logs(draw: st.DrawFn, steps_ms: list[int] = STEPS_MS) -> list[tuple[str, int, bool, bytes]]:
    """A log of (key, log time, accepts late, payload): few users, items and times, so that everything that can happen does."""
    log: list[tuple[str, int, bool, bytes]] = []
    log_time_ms = 1000
    for _ in range(draw(st.integers(0, 40))):
        log_time_ms += draw(st.sampled_from(steps_ms))
        one = event(
            user_id=draw(st.sampled_from(["u1", "u2", "ü"])),
            item_id=draw(st.integers(8, 12)),
            behaviour=draw(st.sampled_from(["click", "buy", "stare"])),
            time_ms=max(0, log_time_ms + draw(st.sampled_from([0, 0, 0, -30, -100, 5000]))),
            event_id=draw(st.none() | st.sampled_from(["a", "b"])),
        )
        key = one.user_id if draw(st.integers(0, 9)) else "somebody else"
        payload = to_json(one) if draw(st.integers(0, 9)) else draw(st.sampled_from([b"", b"{", b"[1]", b'{"user_id": "u1"}']))
        log.append((key, log_time_ms, not draw(st.integers(0, 9)), payload))
    return log


def one_by_one(center: Updater, log: list[tuple[str, int, bool, bytes]]) -> tuple[dict[str, bytes], Counter[str]]:
    memories: dict[str, bytes] = {}
    outcomes: Counter[str] = Counter()
    for key, log_time_ms, accepts_late, payload in log:
        try:
            one = parse_event(payload, now_ms=log_time_ms, accepted=ACCEPTED, max_ahead_ms=AHEAD_MS)
        except Exception:
            outcomes["dead"] += 1
            continue
        if one.user_id != key:
            outcomes["dead"] += 1
            continue
        update = center.update(memories.get(key), one, log_time_ms=log_time_ms, accepts_late=accepts_late)
        outcomes[update.outcome.value] += 1
        if update.blob is not None:
            memories[key] = update.blob
    return memories, outcomes


def batched(
    center: Updater, log: list[tuple[str, int, bool, bytes]], cuts: list[int]
) -> tuple[dict[str, bytes], Counter[str], list[tuple[int, Left]]]:
    batches = BatchUpdater(center, accepted=ACCEPTED, max_ahead_ms=AHEAD_MS)
    memories: dict[str, bytes] = {}
    outcomes: Counter[str] = Counter()
    left: list[tuple[int, Left]] = []
    edges = sorted({0, len(log), *(cut for cut in cuts if cut < len(log))})
    for start, end in itertools.pairwise(edges):
        users = list(dict.fromkeys(key for key, *_ in log[start:end]))
        arrivals = [Arrival(users.index(key), *rest) for key, *rest in log[start:end]]
        done = batches.apply(users, [memories.get(user) for user in users], arrivals)
        memories |= {users[place]: blob for place, blob in done.blobs.items()}
        outcomes += done.outcomes
        left += [(start + each.event, each) for each in done.left]
    return memories, +outcomes, left


@given(logs(), st.lists(st.integers(1, 39), max_size=10))
@settings(max_examples=300)
def test_however_a_log_is_cut_into_batches_the_memories_are_those_of_one_event_at_a_time(
    log: list[tuple[str, int, bool, bytes]], cuts: list[int]
) -> None:
    expected, counts = one_by_one(updater(rules=RULES), log)
    memories, outcomes, _ = batched(updater(rules=RULES), log, cuts)
    assert memories == expected
    assert outcomes == +counts


@given(logs(), st.integers(0, 40))
def test_memories_side_by_side_are_the_same_memories(log: list[tuple[str, int, bool, bytes]], cut: int) -> None:
    center = updater(rules=RULES)
    known = one_by_one(center, log[:cut])[0]
    rest = log[cut:]
    users = list(dict.fromkeys(key for key, *_ in rest))
    arrivals = [Arrival(users.index(key), *more) for key, *more in rest]
    present = [place for place, user in enumerate(users) if user in known]
    packed = memoryview(b"".join(known[users[place]] for place in present))
    batches = BatchUpdater(center, accepted=ACCEPTED, max_ahead_ms=AHEAD_MS)
    one = batches.apply(users, [known.get(user) for user in users], arrivals)
    other = batches.apply_packed(users, present, packed, arrivals)
    assert (one.blobs, one.left, one.outcomes) == (other.blobs, other.left, other.outcomes)


@given(logs([0, 0, 1, DAY_MS // 3, DAY_MS]), st.lists(st.integers(1, 39), max_size=4))
def test_however_a_log_is_cut_the_last_memory_of_every_users_day_is_published_in_order(
    log: list[tuple[str, int, bool, bytes]], cuts: list[int]
) -> None:
    center = updater(rules=RULES)
    expected: dict[tuple[str, int], bytes] = {}
    for end in range(1, len(log) + 1):
        key, log_time_ms, *_ = log[end - 1]
        memories, _ = one_by_one(center, log[:end])
        if key in memories and center.codec.decode(memories[key]).log_time_ms == log_time_ms:
            expected[key, log_time_ms // DAY_MS] = memories[key]
    published: dict[tuple[str, int], bytes] = {}
    batches = BatchUpdater(center, accepted=ACCEPTED, max_ahead_ms=AHEAD_MS, days=Days("UTC"))
    held: dict[str, bytes] = {}
    for start, end in itertools.pairwise(sorted({0, len(log), *(cut for cut in cuts if cut < len(log))})):
        users = list(dict.fromkeys(key for key, *_ in log[start:end]))
        arrivals = [Arrival(users.index(key), *rest) for key, *rest in log[start:end]]
        done = batches.apply(users, [held.get(user) for user in users], arrivals)
        assert [left.event for left in done.left] == sorted(left.event for left in done.left)
        for place, blob in [*done.earlier, *done.blobs.items()]:
            log_time_ms = center.codec.decode(blob).log_time_ms
            assert log_time_ms is not None
            assert all(day <= log_time_ms // DAY_MS for user, day in published if user == users[place])
            published[users[place], log_time_ms // DAY_MS] = held[users[place]] = blob
    assert published == expected


@given(logs())
def test_every_event_is_either_applied_or_left_with_its_reason(log: list[tuple[str, int, bool, bytes]]) -> None:
    _, outcomes, left = batched(updater(rules=RULES), log, [])
    assert sum(outcomes.values()) == len(log)
    assert len(left) == len(log) - outcomes["applied"]
    assert len({place for place, _ in left}) == len(left)
    assert all(each.reason and (each.detail or each.kind == "duplicate") for _, each in left)


def test_a_key_that_names_another_user_is_a_dead_letter_and_touches_neither() -> None:
    memories, outcomes, left = batched(updater(), [("u2", 2000, False, to_json(event()))], [])
    assert (memories, outcomes) == ({}, Counter(dead=1))
    assert left[0][1].reason == "key_mismatch"
    assert "'u1'" in left[0][1].detail
    assert "'u2'" in left[0][1].detail


def test_a_batch_with_a_corrupt_memory_is_refused_whole_and_names_the_user() -> None:
    center = updater()
    good = center.update(None, event(), log_time_ms=1).blob
    assert good is not None
    flipped = bytearray(good)
    flipped[100] ^= 4
    batches = BatchUpdater(center, accepted=None, max_ahead_ms=AHEAD_MS)
    arrivals = [Arrival(place, 3000, False, to_json(event(2000, user_id=user))) for place, user in enumerate(("u1", "u2"))]
    with pytest.raises(ChecksumMismatch, match="user 'u2'"):
        batches.apply(["u1", "u2"], [good, bytes(flipped)], arrivals)
    with pytest.raises(ChecksumMismatch, match="user 'u2'"):
        batches.apply_packed(["u1", "u2"], [0, 1], memoryview(good + bytes(flipped)), arrivals)


def test_a_user_idle_for_long_begins_anew() -> None:
    center = updater(rules=Rules(idle_after_ms=100))
    old = center.update(None, event(1000), log_time_ms=1000).blob
    kept = center.update(old, event(1100), log_time_ms=1100)
    fresh = center.update(old, event(1101), log_time_ms=1101)
    assert kept.blob is not None
    assert fresh.blob is not None
    assert center.codec.decode(kept.blob).sequence == 2
    assert fresh.blob == center.update(None, event(1101), log_time_ms=1101).blob


def test_what_is_idle_is_no_duplicate_and_not_late_either() -> None:
    center = updater(rules=Rules(idle_after_ms=100, lateness_ms=0))
    old = center.update(None, event(1000, event_id="a"), log_time_ms=1000).blob
    again = center.update(old, event(10, event_id="a"), log_time_ms=2000)
    assert again.outcome is Outcome.APPLIED


def test_one_event_is_accepted_late_where_its_record_asks_for_it() -> None:
    center = updater(rules=Rules(lateness_ms=0))
    blob = center.update(None, event(1000), log_time_ms=1).blob
    assert center.update(blob, event(500), log_time_ms=2).outcome is Outcome.LATE
    assert center.update(blob, event(500), log_time_ms=2, accepts_late=True).outcome is Outcome.APPLIED


@given(st.data(), layouts)
def test_many_blobs_at_once_are_the_same_bytes_and_the_same_memories(data: st.DataObject, layout: MemoryLayout) -> None:
    codec = Codec(layout)
    drawn = [
        dataclasses.replace(each, bundle_version=7) for each in data.draw(st.lists(memories(layout), min_size=1, max_size=5))
    ]
    blobs = [codec.encode(each) for each in drawn]
    columns = codec.decode_many(blobs)
    assert codec.encode_many(columns, bundle_version=7) == blobs
    assert columns.sequences == [each.sequence for each in drawn]
    assert columns.rings == [each.fingerprints for each in drawn]
    assert columns.states_BF.tobytes() == b"".join(each.state_F.tobytes() for each in drawn)


@given(st.data())
def test_many_blobs_of_which_one_is_wrong_are_refused_as_that_one_is(data: st.DataObject) -> None:
    codec = updater().codec
    blobs = [codec.encode(dataclasses.replace(updater().initial, sequence=number)) for number in range(4)]
    which = data.draw(st.integers(0, 3))
    wrong = bytearray(blobs[which])
    at = data.draw(st.integers(0, len(wrong) - 1))
    if data.draw(st.booleans()):
        wrong[at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del wrong[at]
    blobs[which] = bytes(wrong)
    with pytest.raises(CorruptMemory) as alone:
        codec.decode(blobs[which])
    with pytest.raises(type(alone.value)) as together:
        codec.decode_many(blobs)
    assert str(together.value) == str(alone.value)


def test_an_event_is_changed_by_none_of_this() -> None:
    one = event()
    updater().update(None, one, log_time_ms=1)
    assert msgspec.structs.asdict(one) == msgspec.structs.asdict(event())
    assert isinstance(one, BehaviourEvent)
