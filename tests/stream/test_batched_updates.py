"""The Python half of the batched plan, called as Java calls it: memories beside the request, in bytes that both sides see."""

import ctypes
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[1] / "scenarios"))

from toy import make_bundle

from benchmarks.load import START_MS
from benchmarks.profile import request_of
from operators import outgoing
from operators.batched import CORRUPT_MEMORY, OK, BatchedUpdates, open_batched
from operators.settings import UpdateSettings
from uic.bundle import Bundle
from uic.codec import read_header
from uic.event import BehaviourEvent, parse_event, to_json
from uic.runtime import OnnxStep
from uic.update import Rules, Updater

BATCH = 16
LOG_TIME_MS = START_MS + 86_400_000
RULES = Rules(lateness_ms=1000)


class Caller:
    """What BatchedUpdate.java is to Python: it keeps the memories and the bytes that both see."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        bundle = Bundle.open(make_bundle(folder / "bundle"))
        self.updater = bundle.updater(OnnxStep(bundle), RULES)
        settings = UpdateSettings(
            bundle=str(bundle.path), job_dir=str(folder), run=1, rules=RULES, max_ahead_ms=86_400_000, store=None, **changes
        )
        updates, problem = open_batched(settings.to_json())
        assert updates is not None, problem
        self.updates: BatchedUpdates = updates
        self._shared = ctypes.create_string_buffer(BATCH * updates.blob_size)
        updates.share(ctypes.addressof(self._shared), len(self._shared))

    def apply(
        self, memories: dict[str, bytes], events: list[tuple[bytes, bytes]], log_times_ms: list[int] | None = None
    ) -> tuple[bytes, list[bytes]]:
        """The answer's first byte, or all of it where it failed; and the records. The memories are updated."""
        size = self.updates.blob_size
        request, blobs = request_of(memories, events, size, log_times_ms)
        ctypes.memmove(self._shared, blobs, len(blobs))
        answer = self.updates.apply(request)
        if not answer.startswith(OK):
            return answer, []
        changed, count = struct.unpack_from("<ii", answer, 1)
        numbers = struct.unpack_from(f"<{changed + count}i", answer, 9)
        users = list(dict.fromkeys(key.decode() for key, _ in events))
        for place, user in enumerate(numbers[:changed]):
            memories[users[user]] = self._shared.raw[place * size : (place + 1) * size]
        at = 9 + 4 * len(numbers)
        records = []
        for length in numbers[changed:]:
            records.append(answer[at : at + length])
            at += length
        assert at == len(answer)
        return OK, records


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Caller:
    return Caller(tmp_path_factory.mktemp("batched"))


def one(user: str, n: int, *, time_ms: int = START_MS) -> tuple[bytes, bytes]:
    event = BehaviourEvent(user_id=user, item_id=n % 200 + 1, category_id=n % 10 + 1, behaviour="click", time_ms=time_ms + n)
    return user.encode(), to_json(event)


def one_by_one(updater: Updater, memories: dict[str, bytes], events: list[tuple[bytes, bytes]]) -> None:
    for key, payload in events:
        event = parse_event(payload, now_ms=LOG_TIME_MS, accepted=None, max_ahead_ms=86_400_000)
        update = updater.update(memories.get(key.decode()), event, log_time_ms=LOG_TIME_MS)
        if update.blob is not None:
            memories[key.decode()] = update.blob


@settings(max_examples=30)
@given(st.lists(st.lists(st.sampled_from(["u1", "u2", "ü", "u4"]), min_size=1, max_size=BATCH), min_size=1, max_size=5))
def test_batches_through_shared_bytes_give_the_bytes_of_one_event_at_a_time(caller: Caller, batches: list[list[str]]) -> None:
    ours: dict[str, bytes] = {}
    theirs: dict[str, bytes] = {}
    count = 0
    for users in batches:
        events = [one(user, count + n) for n, user in enumerate(users)]
        count += len(users)
        assert caller.apply(ours, events) == (OK, [])
        one_by_one(caller.updater, theirs, events)
    assert ours == theirs


def test_an_event_that_is_not_applied_leaves_as_a_record_and_changes_nothing(caller: Caller) -> None:
    memories: dict[str, bytes] = {}
    late = one("u1", 0, time_ms=START_MS - 60_000)
    assert caller.apply(memories, [one("u1", 5)]) == (OK, [])
    before = dict(memories)
    code, records = caller.apply(memories, [late, (b"u2", b"{")])
    assert code == OK
    assert len(records) == 2
    assert memories == before


@pytest.mark.parametrize("size_change", [-1, 1])
def test_a_memory_of_another_size_is_refused_by_its_users_name(caller: Caller, size_change: int) -> None:
    memories: dict[str, bytes] = {}
    caller.apply(memories, [one("u1", 0), one("u2", 1), one("u3", 2)])
    memories["u2"] = memories["u2"][:-1] if size_change < 0 else memories["u2"] + b"x"
    answer, _ = caller.apply(memories, [one("u1", 3), one("u2", 4), one("u3", 5)])
    assert answer.startswith(CORRUPT_MEMORY + b"TruncatedMemory")
    assert b"'u2'" in answer


def test_a_flipped_bit_is_refused_by_its_users_name(caller: Caller) -> None:
    memories: dict[str, bytes] = {}
    caller.apply(memories, [one("u1", 0), one("u2", 1)])
    flipped = bytearray(memories["u2"])
    flipped[200] ^= 1
    memories["u2"] = bytes(flipped)
    answer, _ = caller.apply(memories, [one("u1", 3), one("u2", 4)])
    assert answer.startswith(CORRUPT_MEMORY + b"ChecksumMismatch")
    assert b"'u2'" in answer


def test_a_user_whose_day_ends_within_a_batch_leaves_that_days_memory_as_a_record(caller: Caller) -> None:
    before: dict[str, bytes] = {}
    caller.apply(before, [one("u1", 0)])
    memories: dict[str, bytes] = {}
    events = [one("u1", 0), one("u1", 1), one("u2", 2)]
    code, records = caller.apply(memories, events, log_times_ms=[LOG_TIME_MS, LOG_TIME_MS + 86_400_000, LOG_TIME_MS])
    assert code == OK
    assert records == [outgoing.snapshot("u1", before["u1"])]
    assert read_header(memories["u1"]).sequence == 2


def test_days_that_end_before_a_rollbacks_cut_leave_nothing(tmp_path: Path) -> None:
    # The store has one of each, of the generation that was; one of the new generation would hide those of the days after it.
    day_ms = 86_400_000
    caller = Caller(tmp_path, silent_before_ms=LOG_TIME_MS + 2 * day_ms, generation=1)
    memories: dict[str, bytes] = {}
    events = [one("u1", number) for number in range(4)]
    code, records = caller.apply(memories, events, log_times_ms=[LOG_TIME_MS + number * day_ms for number in range(4)])
    assert code == OK
    until_the_third: dict[str, bytes] = {}
    caller.apply(until_the_third, events[:3], log_times_ms=[LOG_TIME_MS + number * day_ms for number in range(3)])
    assert records == [outgoing.snapshot("u1", until_the_third["u1"])]
