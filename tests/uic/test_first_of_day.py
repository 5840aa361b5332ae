"""The first memory of a day, applied to a store: it leaves the day before behind without looking up what lies there."""

from hypothesis import given, settings
from hypothesis import strategies as st
from test_apply import CODEC, memory

from uic.store.apply import Applier, Snapshot
from uic.store.contract import InMemoryStore
from uic.store.lineage import Cell

DAY_MS = 86_400_000
START_MS = 20_000 * DAY_MS
USERS = [b"u", b"v", b"w"]
# Of a user: how many days later a memory comes than the one before in the log, or that they left (None).
said = st.lists(st.tuples(st.sampled_from(USERS), st.none() | st.integers(-1, 2)), max_size=30)


class Counted(InMemoryStore):
    """Counts how often the copies of a user are looked up."""

    looked_up = 0

    def copies(self, user: bytes) -> dict[Cell, bytes]:
        self.looked_up += 1
        return super().copies(user)


def log_of(said: list[tuple[bytes, int | None]]) -> list[Snapshot]:
    found, time_ms = [], START_MS
    for number, (user, days) in enumerate(said):
        if days is None:
            found.append(Snapshot(0, number, user, None, generation=0))
        else:
            time_ms += days * DAY_MS // 2
            found.append(Snapshot(0, number, user, memory(1 + number, time_ms)))
    return found


@settings(max_examples=300, deadline=None)
@given(said, st.integers(1, 8))
def test_applied_in_batches_every_day_reads_as_if_written_one_by_one_and_a_sweep_leaves_the_same(
    said: list[tuple[bytes, int | None]], batch: int
) -> None:
    log = log_of(said)
    applied, written = InMemoryStore(kept=3), InMemoryStore(kept=3)
    applier = Applier(applied, CODEC)
    for at in range(0, len(log), batch):
        applier.apply(log[at : at + batch], now_ms=0)
    for snapshot in log:
        user = (snapshot.key or b"").decode()
        if snapshot.value is None:
            written.delete(user, generation=0)
        else:
            written.write(user, snapshot.value)
    days = applied.days_kept()
    assert days == written.days_kept()
    for each in USERS:
        for day in (None, *days):
            assert applied.read(each.decode(), as_of=day) == written.read(each.decode(), as_of=day), day
    for store in (applied, written):
        assert store.sweep()
    assert [applied.copies(user) for user in USERS] == [written.copies(user) for user in USERS]


def test_no_copy_is_looked_up_for_the_first_memories_of_a_day() -> None:
    store = Counted(kept=3)
    applier = Applier(store, CODEC)
    for day in range(6):
        first = [Snapshot(0, day, b"clock", memory(1 + day, START_MS + day * DAY_MS))]
        rest = [Snapshot(0, day, user, memory(1 + day, START_MS + day * DAY_MS + 1)) for user in USERS]
        applier.apply(first, now_ms=0)
        store.looked_up = 0
        assert applier.apply(rest, now_ms=0).written == len(USERS)
        assert store.looked_up == 0
    assert store.sweep()
    assert {len(store.copies(user)) for user in USERS} == {3}
    days = store.days_kept()
    assert [store.read("u", as_of=day) for day in days] == [
        memory(1 + number, START_MS + number * DAY_MS + 1) for number in (2, 3, 4)
    ]
