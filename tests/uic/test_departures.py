"""Users who leave: only the job that is in charge may say so."""

from datetime import date

from hypothesis import given, settings
from hypothesis import strategies as st
from test_apply import CODEC, memory

from operators.publish import Records
from uic.clock import Days
from uic.store.apply import Applier, Snapshot
from uic.store.contract import InMemoryStore

HOUR_MS = 3_600_000
MONDAY = date(2026, 11, 16)
TUESDAY = date(2026, 11, 17)
CUT_MS = Days().begins_ms(TUESDAY)
USERS = [b"u", b"v"]
# Of a user: hours after the cut at which a job publishes a memory, or that it says that they have left (None).
Said = list[tuple[bytes, int | None]]
said = st.lists(st.tuples(st.sampled_from(USERS), st.none() | st.integers(0, 30)), max_size=12)


def messages(said: Said, *, generation: int) -> list[Snapshot]:
    """As a job of this generation publishes them: later memories have seen more, and a deletion names the job's generation."""
    found = []
    for number, (user, hours) in enumerate(said):
        if hours is None:
            found.append(Snapshot(0, 0, user, None, generation=generation))
        else:
            time_ms = CUT_MS + hours * HOUR_MS
            found.append(Snapshot(0, 0, user, memory(10 + number, time_ms, generation=generation)))
    return found


def reads(store: InMemoryStore) -> list[bytes | None]:
    days = [None, *store.days_kept()]
    return [store.read(user.decode(), as_of=day) for user in USERS for day in days if day is None or day <= TUESDAY]


@settings(max_examples=200, deadline=None)
@given(said, said, said, st.data())
def test_whatever_a_job_of_an_earlier_generation_still_says_nobody_reads(
    before: Said, after: Said, zombie: Said, data: st.DataObject
) -> None:
    log = messages(after, generation=1)
    mixed = list(log)
    at = 0
    for late in messages(zombie, generation=0):
        at = data.draw(st.integers(at, len(mixed)))
        mixed.insert(at, late)
    stores = []
    for part in (log, mixed):
        store = InMemoryStore()
        applier = Applier(store, CODEC)
        first = [Snapshot(0, 0, user, memory(1, CUT_MS - HOUR_MS)) for user in USERS]
        applier.apply([*first, *messages(before, generation=0), Snapshot(0, 0, b"w", memory(1, CUT_MS))], now_ms=0)
        store.begin_generation(1, CUT_MS)
        for snapshot in part:
            applier.apply([snapshot], now_ms=0)
        stores.append(store)
    assert reads(stores[0]) == reads(stores[1])


def test_a_deletion_of_an_earlier_release_that_names_no_generation_takes_the_user_out() -> None:
    store = InMemoryStore()
    applier = Applier(store, CODEC)
    applier.apply([Snapshot(0, 0, b"u", memory(1, CUT_MS))], now_ms=0)
    store.begin_generation(1, CUT_MS)
    applier.apply([Snapshot(0, 1, b"u", memory(1, CUT_MS, generation=1))], now_ms=0)
    assert applier.apply([Snapshot(0, 2, b"u", None, generation=0)], now_ms=0).fenced == 1
    assert store.read("u") is not None
    assert applier.apply([Snapshot(0, 3, b"u", None)], now_ms=0).deleted == 1
    assert store.read("u") is None


def test_what_a_job_sends_for_a_user_who_left_names_its_generation() -> None:
    (record,) = Records(12).departure("u")
    assert record.endswith(b"\x01\x0ageneration\x02\x00\x00\x0012")
