"""What is to be forgotten does not count in the stream: whichever state a job begins with and however often the log is read."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_batched_updates import LOG_TIME_MS, Caller, one

from operators import control, outgoing
from operators.batched import FORGET, OK
from uic.codec import NO_TIME, read_header
from uic.forgetting import FILE, FOREVER_MS, Entry, Forgotten

USERS = ["u1", "u2", "ü", "u4"]
Events = list[tuple[bytes, bytes]]


@pytest.fixture
def make(tmp_path: Path) -> Callable[[dict[str, Entry]], Caller]:
    """An operator that opens where this is noted."""

    def opened(noted: dict[str, Entry]) -> Caller:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for user, entry in noted.items():
            Forgotten(folder / FILE).note(user, entry)
        return Caller(folder)

    return opened


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Caller:
    return Caller(tmp_path_factory.mktemp("straight"))


def run(caller: Caller, memories: dict[str, bytes], users: list[str], first: int = 0, batch: int = 5) -> dict[str, bytes]:
    """Events numbered from `first` on, whose log time is their number, onto these memories."""
    for at in range(0, len(users), batch):
        part = users[at : at + batch]
        numbers = [first + at + n for n in range(len(part))]
        events = [one(user, number) for user, number in zip(part, numbers, strict=True)]
        code, records = caller.apply(memories, events, log_times_ms=[LOG_TIME_MS + number for number in numbers])
        assert (code, records) == (OK, [])
    return memories


log = st.lists(st.sampled_from(USERS), min_size=1, max_size=25)


@settings(max_examples=15, deadline=None)
@given(log, st.integers(0, 24), st.integers(0, 24), st.data())
def test_from_any_older_state_a_replay_ends_where_only_later_events_were_ever_sent(
    tmp_path_factory: pytest.TempPathFactory,
    straight: Caller,
    users: list[str],
    until: int,
    savepoint: int,
    data: st.DataObject,
) -> None:
    gone = data.draw(st.sets(st.sampled_from(USERS), min_size=1))
    folder = tmp_path_factory.mktemp("replayed")
    for user in gone:
        Forgotten(folder / FILE).note(user, Entry(LOG_TIME_MS + until, "anew", 0))
    state = run(straight, {}, users[:savepoint])
    replayed = run(Caller(folder), state, users[savepoint:], first=savepoint)
    # What lies untouched in a state is not looked at; it counts for nobody, and the Java operator sweeps it out.
    forgotten = Forgotten(folder / FILE)
    seen = {user: blob for user, blob in replayed.items() if not forgotten.is_gone(user, read_header(blob).log_time_ms)}
    expected: dict[str, bytes] = {}
    for number, user in enumerate(users):
        if user not in gone or number > until:
            run(straight, expected, [user], first=number)
    assert seen == expected


def test_what_is_dropped_leaves_no_letter_even_where_it_is_no_event(make: Callable[[dict[str, Entry]], Caller]) -> None:
    caller = make({"u1": Entry(None, "drop", 0)})
    memories: dict[str, bytes] = {}
    assert caller.apply(memories, [one("u1", 1), (b"u1", b"{"), one("u2", 2)]) == (OK, [])
    assert set(memories) == {"u2"}


def ask(caller: Caller, user: str, *, until_ms: int = LOG_TIME_MS, to: str = "", token: str = "t") -> bytes:
    return caller.updates.control(control.to_json(control.Forget(to=to, user=user, until_ms=until_ms, token=token)))


def test_the_owner_says_how_far_the_old_life_reached_and_the_next_event_begins_a_new_one(
    make: Callable[[dict[str, Entry]], Caller], tmp_path: Path
) -> None:
    caller = make({"u9": Entry(1, "anew", 0)})
    memories = run(caller, {}, ["u1", "u2", "u1"])
    Forgotten(tmp_path / "0" / FILE).note("u1", Entry(None, "anew", 0))
    assert ask(caller, "u1") == FORGET + b"u1"
    # The log had come to 0 when it was asked, event 2 was applied meanwhile.
    assert caller.updates.forget(LOG_TIME_MS + 2) == outgoing.forgotten("u1", "t", LOG_TIME_MS + 2)
    del memories["u1"]
    again = run(caller, memories, ["u1", "u1"], first=2)
    header = read_header(again["u1"])
    assert (header.sequence, header.log_time_ms) == (1, LOG_TIME_MS + 3)
    # Asked again by a replay of the control topic, the new life stays.
    assert ask(caller, "u1") == FORGET + b"u1"
    assert caller.updates.forget(header.log_time_ms) == b""


def test_what_is_meant_for_another_start_or_was_never_noted_changes_nothing(make: Callable[[dict[str, Entry]], Caller]) -> None:
    caller = make({"u1": Entry(LOG_TIME_MS, "anew", 0)})
    assert ask(caller, "u1", to="an earlier start") == OK
    assert caller.updates.forget(NO_TIME) == b""
    assert ask(caller, "u2") == FORGET + b"u2"
    assert caller.updates.forget(NO_TIME) == b""


def test_a_sweep_is_told_of_every_user_up_to_when_they_are_forgotten(make: Callable[[dict[str, Entry]], Caller]) -> None:
    caller = make({"ü": Entry(7, "anew", 0), "u4": Entry(None, "drop", 0)})
    assert caller.updates.must_sweep
    ids = b"".join(struct.pack("<i", len(user.encode())) + user.encode() for user in USERS)
    assert struct.unpack("<4q", caller.updates.forgotten_until(ids)) == (NO_TIME, NO_TIME, 7, FOREVER_MS)
    assert not make({}).updates.must_sweep
