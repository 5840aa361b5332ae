"""Which daily checkpoints stay: laws over all catalogues, and what stands for which day."""

from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from jobs.daily.entry import Entry, example
from jobs.daily.keeping import base, missing, superfluous, usable

FIRST = date(2026, 11, 1)


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


@st.composite
def entries(draw: st.DrawFn) -> list[Entry]:
    """Entries of some weeks, in the order in which they were taken; each further in the log than the one before."""
    made: list[Entry] = []
    offset = 0
    for number in range(draw(st.integers(1, 12))):
        offset += draw(st.integers(0, 3))
        is_sealed = draw(st.booleans())
        made.append(
            example(
                id=f"{number:02}",
                taken_ms=number,
                day=day(draw(st.integers(0, 20))),
                offsets={0: offset},
                cut={0: offset + draw(st.integers(0, 3))} if is_sealed else None,
                pins=("me",) if draw(st.integers(0, 5)) == 0 else (),
                tainted="rolled back" if draw(st.integers(0, 3)) == 0 else None,
            )
        )
    return made


KEPT = st.builds(
    lambda last, count: [day(last - each) for each in reversed(range(count))], st.integers(0, 22), st.integers(1, 9)
)


@given(entries(), KEPT)
def test_each_kept_day_is_gone_back_to_from_the_same_entry_before_and_after(there: list[Entry], days: list[date]) -> None:
    gone = {entry.id for entry in superfluous(there, days)}
    left = [entry for entry in there if entry.id not in gone]
    assert [base(left, each) for each in days] == [base(there, each) for each in days]


@given(entries(), KEPT)
def test_pinned_and_waiting_ones_stay_and_never_none_is_left(there: list[Entry], days: list[date]) -> None:
    gone = superfluous(there, days)
    assert len(gone) < len(there)
    assert not [entry for entry in gone if entry.pins or (not entry.is_sealed and entry.tainted is None)]


@given(entries(), KEPT)
def test_what_stays_once_stays_and_no_more_than_one_good_entry_a_day_is_kept(there: list[Entry], days: list[date]) -> None:
    gone = {entry.id for entry in superfluous(there, days)}
    left = [entry for entry in there if entry.id not in gone]
    assert superfluous(left, days) == []
    good = [entry.day for entry in left if entry.is_good and not entry.pins]
    assert len(good) == len(set(good)) <= len(days)


@given(entries(), st.integers(0, 20))
def test_what_is_usable_has_read_nothing_of_the_day_and_nothing_newer_has_either(there: list[Entry], offset: int) -> None:
    found = usable(there, {0: offset})
    clean = [entry for entry in there if entry.tainted is None]
    if found is None:
        assert all(entry.offsets[0] > offset for entry in clean)
    else:
        assert found in clean
        assert found.offsets[0] <= offset
        assert all(entry.offsets[0] > offset for entry in clean if entry.taken_ms > found.taken_ms)


def test_a_partition_that_the_cut_does_not_know_makes_an_entry_unusable() -> None:
    assert usable([example(offsets={0: 1, 1: 1})], {0: 5}) is None


def test_a_failed_midnight_costs_no_good_one() -> None:
    sealed = {0: 5, 1: 7}
    week = [example(id=str(number), day=day(number), taken_ms=number, cut=sealed) for number in range(8) if number != 1]
    days = [day(number) for number in range(1, 8)]
    # Day 1 has none of its own: what it is gone back to from, day 0's, stays beyond its own time.
    assert superfluous(week, days) == []
    assert missing(week, days) == [day(1)]
    assert [entry.id for entry in superfluous(week, [each + timedelta(days=1) for each in days])] == ["0"]


def test_a_newer_savepoint_of_a_day_supersedes_the_older_only_when_it_is_sealed() -> None:
    old = example(id="1", taken_ms=1, cut={0: 5, 1: 7})
    new = example(id="2", taken_ms=2)
    assert superfluous([old, new], [old.day]) == []
    assert superfluous([old, example(id="2", taken_ms=2, cut={0: 5, 1: 7})], [old.day]) == [old]


def test_days_before_the_first_entry_are_not_missing() -> None:
    assert missing([], [day(1)]) == []
    assert missing([example(day=day(3), cut={})], [day(2), day(3), day(4)]) == [day(4)]
