"""One event applied to one memory (uic/update.py): duplicate, late, applied; and what may never happen to a blob."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from drawn import event, fake_step, updater
from hypothesis import given
from hypothesis import strategies as st

from uic.codec import Codec
from uic.errors import ChecksumMismatch, CorruptMemory, LayoutMismatch, TruncatedMemory
from uic.event import BehaviourEvent
from uic.memory import Float32, MemoryLayout, UserMemory
from uic.update import Outcome, Update, Updater, fingerprints, remember
from uic.variant import preset
from uic.vocabulary import UNKNOWN_ROW

APPLIED, DUPLICATE, LATE = Outcome.APPLIED, Outcome.DUPLICATE, Outcome.LATE
LOG_TIME_MS = 5_000_000


def apply(center: Updater, *events: BehaviourEvent, blob: bytes | None = None) -> tuple[bytes | None, list[Outcome]]:
    """The blob after these events, and what became of each."""
    outcomes = []
    for each in events:
        update = center.update(blob, each, log_time_ms=LOG_TIME_MS)
        outcomes.append(update.outcome)
        blob = update.blob if update.outcome is APPLIED else blob
    return blob, outcomes


def memory_after(center: Updater, *events: BehaviourEvent) -> UserMemory:
    blob, _ = apply(center, *events)
    assert blob is not None
    return center.codec.decode(blob)


def test_an_applied_event_takes_one_step_and_is_counted() -> None:
    center = updater()
    memory = memory_after(center, event(1000, item_id=12), event(2000, item_id=13))
    items, categories = center.items.rows(np.array([12, 13])), center.categories.rows(np.array([7]))
    first = fake_step(center.initial.state_F.reshape(1, -1), items[:1], categories)
    assert np.array_equal(memory.state_F, fake_step(first, items[1:], categories)[0])
    assert (memory.sequence, memory.last_time_ms, memory.log_time_ms, memory.bundle_version) == (2, 2000, LOG_TIME_MS, 99)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(8, 15), st.sampled_from(["click", "buy"])), max_size=40))
def test_the_sequence_is_the_number_of_applied_events_and_the_size_never_changes(draws: list[tuple[int, int, str]]) -> None:
    center = updater(ring_size=4, lateness_ms=20)
    blob, applied, last = None, 0, 0
    for time, item, behaviour in draws:
        update = center.update(blob, event(time, item, behaviour=behaviour), log_time_ms=time)
        assert (update.blob is not None) == (update.outcome is APPLIED) == (update.detail == "")
        if update.blob is not None:
            blob, applied, last = update.blob, applied + 1, max(last, time)
            memory = center.codec.decode(blob)
            assert (memory.sequence, memory.last_time_ms, len(blob)) == (applied, last, center.codec.size)


def test_the_same_event_twice_is_a_duplicate_and_makes_no_new_blob() -> None:
    center = updater()
    blob, _ = apply(center, event())
    assert center.update(blob, event(), log_time_ms=0) == Update(DUPLICATE, None, "same time, item and behaviour")


def test_an_event_id_seen_before_is_a_duplicate_whatever_else_it_says() -> None:
    center = updater()
    blob, _ = apply(center, event(1000, event_id="e1"))
    again = event(1500, item_id=11, behaviour="buy", event_id="e1")
    assert center.update(blob, again, log_time_ms=0) == Update(DUPLICATE, None, "same event_id")


def test_the_same_time_item_and_behaviour_is_a_duplicate_also_under_another_event_id() -> None:
    _, outcomes = apply(updater(), event(event_id="e1"), event(event_id="e2"), event(event_id=None))
    assert outcomes == [APPLIED, DUPLICATE, DUPLICATE]


@pytest.mark.parametrize("change", [{"time_ms": 1001}, {"item_id": 11}, {"behaviour": "buy"}])
def test_an_event_that_differs_in_time_item_or_behaviour_is_another_event(change: dict[str, int | str]) -> None:
    assert apply(updater(), event(), msgspec.structs.replace(event(), **change))[1] == [APPLIED, APPLIED]


@pytest.mark.parametrize("change", [{"category_id": 8}, {"source": "other"}, {"user_id": "u2"}])
def test_category_and_source_do_not_make_another_event(change: dict[str, int | str]) -> None:
    assert apply(updater(), event(), msgspec.structs.replace(event(), **change))[1] == [APPLIED, DUPLICATE]


def test_two_events_without_id_are_not_the_same_for_having_none() -> None:
    assert apply(updater(), event(1000), event(1001), event(1002, event_id="e"))[1] == [APPLIED] * 3


@pytest.mark.parametrize("ring_size", [1, 2, 5, 16])
def test_duplicates_are_known_within_the_ring_and_not_beyond_it(ring_size: int) -> None:
    center = updater(ring_size=ring_size)
    stream = [event(1000 + number, event_id=f"e{number}") for number in range(ring_size + 1)]
    blob, outcomes = apply(center, *stream)
    assert outcomes == [APPLIED] * (ring_size + 1)
    kept = [center.update(blob, each, log_time_ms=0).outcome for each in stream]
    # The known limit: the event before the last `ring_size` ones is forgotten, and would be applied again.
    assert kept == [APPLIED] + [DUPLICATE] * ring_size


def test_a_ring_of_no_places_forgets_at_once() -> None:
    assert apply(updater(ring_size=0), event(), event())[1] == [APPLIED, APPLIED]


def test_an_event_at_exactly_the_allowed_lateness_is_applied_and_one_ms_beyond_is_late() -> None:
    center = updater(lateness_ms=1000)
    blob, _ = apply(center, event(50_000))
    assert center.update(blob, event(49_000), log_time_ms=0).outcome is APPLIED
    late = center.update(blob, event(48_999), log_time_ms=0)
    assert late == Update(LATE, None, "1 s before the user's last event, allowed are 1 s")


def test_late_events_are_applied_when_they_are_accepted() -> None:
    center = updater(lateness_ms=1000, accept_late=True)
    memory = memory_after(center, event(50_000), event(1))
    assert (memory.sequence, memory.last_time_ms) == (2, 50_000)


def test_an_older_event_that_is_not_late_does_not_move_the_last_time_back() -> None:
    center = updater(lateness_ms=1000)
    assert memory_after(center, event(50_000), event(49_500)).last_time_ms == 50_000
    assert apply(center, event(50_000), event(49_500), event(48_999))[1] == [APPLIED, APPLIED, LATE]


def test_the_first_event_of_a_user_is_never_late() -> None:
    assert apply(updater(lateness_ms=0), event(0))[1] == [APPLIED]


def test_a_last_time_of_zero_is_a_time() -> None:
    assert memory_after(updater(), event(0)).last_time_ms == 0


def test_whether_it_is_a_duplicate_is_asked_before_whether_it_is_late() -> None:
    center = updater(lateness_ms=1000)
    _, outcomes = apply(center, event(1000), event(1500, item_id=11), event(90_000), event(1000))
    assert outcomes == [APPLIED, APPLIED, APPLIED, DUPLICATE]


def test_a_late_event_is_not_remembered_so_that_its_replay_is_no_duplicate() -> None:
    strict, lenient = updater(lateness_ms=1000), updater(lateness_ms=1000, accept_late=True)
    blob, outcomes = apply(strict, event(90_000), event(1000))
    assert outcomes == [APPLIED, LATE]
    assert lenient.update(blob, event(1000), log_time_ms=0).outcome is APPLIED


@pytest.mark.parametrize("empty", [b"", bytes(10)])
def test_corrupt_bytes_are_never_taken_for_a_user_without_events(empty: bytes) -> None:
    with pytest.raises(TruncatedMemory):
        updater().update(empty, event(), log_time_ms=0)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_blob_with_any_byte_altered_raises_and_changes_nothing(place: int, mask: int) -> None:
    center = updater()
    blob, _ = apply(center, event())
    assert blob is not None
    altered = bytearray(blob)
    altered[place % len(blob)] ^= mask
    with pytest.raises(CorruptMemory):
        center.update(bytes(altered), event(2000), log_time_ms=0)


def test_a_duplicate_in_a_corrupt_memory_is_not_answered_from_it() -> None:
    center = updater()
    blob, _ = apply(center, event())
    assert blob is not None
    with pytest.raises(ChecksumMismatch):
        center.update(blob[:-1] + bytes([blob[-1] ^ 1]), event(), log_time_ms=0)


def test_the_memory_of_another_bundle_layout_is_refused() -> None:
    layout = MemoryLayout(preset("official"))
    blob = Codec(layout).encode(UserMemory(state_F=np.zeros(layout.size_F, np.float32), fingerprints=bytes(256)))
    with pytest.raises(LayoutMismatch):
        updater().update(blob, event(), log_time_ms=0)


def test_unknown_items_and_categories_step_with_the_unknown_row_and_never_with_padding() -> None:
    seen: list[tuple[int, int]] = []

    def record(state_BF: Float32, item_rows_B: np.ndarray, category_rows_B: np.ndarray) -> Float32:
        seen.append((int(item_rows_B[0]), int(category_rows_B[0])))
        return state_BF

    center = updater()
    center.step = record
    apply(
        center, event(1, item_id=0, category_id=0), event(2, item_id=-1, category_id=999), event(3, item_id=10, category_id=1)
    )
    assert seen == [(UNKNOWN_ROW, UNKNOWN_ROW), (UNKNOWN_ROW, UNKNOWN_ROW), (2, 2)]


def test_an_update_keeps_nothing_between_two_calls() -> None:
    center = updater()
    blob, _ = apply(center, event(1000))
    once = center.update(blob, event(2000, item_id=12), log_time_ms=7)
    apply(center, event(1000, user_id="u2"), event(5000, user_id="u2"))
    assert center.update(blob, event(2000, item_id=12), log_time_ms=7) == once
    assert center.initial.sequence == 0
    assert not center.initial.state_F.any()


def test_a_new_memory_is_of_the_updaters_generation_whatever_the_old_one_was_of() -> None:
    center = updater()
    center.generation = 3
    blob = center.codec.encode(replace(center.initial, generation=7))
    after, _ = apply(center, event(), blob=blob)
    assert after is not None
    assert center.codec.decode(after).generation == 3


def test_fingerprints_are_these_very_bytes() -> None:
    content, event_id = fingerprints(event(1000, event_id="e1"))
    # Another hash would make every event in flight during an upgrade unknown to the rings written before it.
    assert (content.hex(), event_id.hex()) == ("2ebc87ffd69795ca", "1b5d5e51f54f0f04")
    assert fingerprints(event(1000))[1] == bytes(8)


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_time_and_item_do_not_stand_for_each_other_in_a_fingerprint(time_ms: int, item_id: int) -> None:
    same = time_ms == item_id
    assert (fingerprints(event(time_ms, item_id)) == fingerprints(event(item_id, time_ms))) == same


def test_event_number_s_lies_at_place_s_modulo_the_ring() -> None:
    ring = bytes(48)
    for number in range(7):
        ring = remember(ring, number, (bytes([number + 1]) * 8, bytes([number + 101]) * 8))
    assert [ring[at] for at in range(0, 48, 8)] == [7, 107, 5, 105, 6, 106]


def test_a_fingerprint_is_not_found_across_two_neighbours() -> None:
    # Places hold (content, event id): a content that equals an event id, or lies askew, is no duplicate.
    center = updater(ring_size=2)
    content, _ = fingerprints(event(2000))
    askew = bytes(4) + content + bytes(20)
    as_event_id = bytes(8) + content + bytes(16)
    for ring in (askew, as_event_id):
        blob = center.codec.encode(replace(center.initial, fingerprints=ring))
        assert center.update(blob, event(2000), log_time_ms=0).outcome is APPLIED
    for before in (bytes(16), bytes(4) + content + bytes(4), bytes(8) + content):
        blob = center.codec.encode(replace(center.initial, fingerprints=before + content + bytes(8)))
        assert center.update(blob, event(2000), log_time_ms=0).outcome is DUPLICATE


def test_a_log_whose_clock_goes_back_does_not_take_a_memory_back() -> None:
    center = updater()
    first = center.update(None, event(1000), log_time_ms=5000).blob
    second = center.update(first, event(2000, item_id=11), log_time_ms=4000).blob
    assert second is not None
    assert center.codec.decode(second).log_time_ms == 5000
