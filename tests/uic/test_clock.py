"""Days of a zone (uic/clock.py) cover time without gap or overlap, whatever its clocks do at midnight."""

import datetime
import zoneinfo
from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uic.clock import FIRST_DAY, LAST_DAY, Days, in_ms
from uic.errors import BadInput

HOUR_MS = 3_600_000
ONE_DAY = timedelta(days=1)
ZONES = st.sampled_from(sorted(zoneinfo.available_timezones() - {"localtime"}))
TIMES = st.integers(-4_000_000_000_000, 4_000_000_000_000)  # 1843 to 2096
DAYS = st.dates(date(1840, 1, 1), date(2100, 1, 1))


def wall(zone: str, time_ms: int) -> datetime.datetime:
    moment = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + timedelta(milliseconds=time_ms)
    return moment.astimezone(zoneinfo.ZoneInfo(zone))


@given(ZONES, TIMES)
def test_every_time_is_in_its_day_and_in_no_other(zone: str, time_ms: int) -> None:
    days = Days(zone)
    day = days.day_of(time_ms)
    following = day + ONE_DAY
    while days.begins_ms(following) == days.begins_ms(day):
        following += ONE_DAY  # pragma: no cover  # a day that was left out
    assert days.begins_ms(day) <= time_ms < days.begins_ms(following)
    assert days.bounds_ms(time_ms) == (days.begins_ms(day), days.begins_ms(following))


@given(ZONES, st.lists(TIMES, min_size=2, max_size=6))
def test_a_later_time_is_never_in_an_earlier_day(zone: str, times_ms: list[int]) -> None:
    days = Days(zone)
    found = {time_ms: days.day_of(time_ms) for time_ms in times_ms}  # in any order: what is remembered must not matter
    assert [found[time_ms] for time_ms in sorted(times_ms)] == sorted(found[time_ms] for time_ms in times_ms)


@settings(max_examples=300)
@given(ZONES, DAYS)
def test_a_day_begins_when_the_clock_first_shows_it_or_a_later_one(zone: str, day: date) -> None:
    begins_ms = Days(zone).begins_ms(day)
    assert wall(zone, begins_ms).date() >= day
    for minutes in (*range(1, 190, 3), *range(190, 30 * 60, 30)):
        assert wall(zone, begins_ms - minutes * 60_000).date() < day
    assert wall(zone, begins_ms - 1).date() < day


@given(ZONES, DAYS)
def test_the_day_before_is_the_one_that_ends_where_this_one_begins(zone: str, day: date) -> None:
    days = Days(zone)
    day = days.day_of(days.begins_ms(day))
    assert days.day_of(days.begins_ms(day) - 1) == days.before(day)
    assert days.before(day, 3) == days.before(days.before(days.before(day)))


@pytest.mark.parametrize(
    ("zone", "day", "shows", "hours"),
    [
        ("UTC", date(2026, 11, 22), "00:00", 24),
        ("Africa/Cairo", date(2026, 4, 24), "01:00", 23),
        ("America/Sao_Paulo", date(2018, 11, 4), "01:00", 23),
        ("Asia/Beirut", date(2022, 3, 27), "01:00", 23),
        # Midnight comes twice: the first one counts.
        ("America/St_Johns", date(2010, 11, 7), "00:00", 25),
        ("America/Havana", date(2020, 11, 1), "00:00", 25),
        # The hour before midnight comes twice: it is still the day before.
        ("America/Sao_Paulo", date(2018, 2, 17), "00:00", 25),
        # Left out.
        ("Pacific/Apia", date(2011, 12, 30), "00:00", 0),
        ("Pacific/Kwajalein", date(1993, 8, 21), "00:00", 0),
    ],
)
def test_days_that_are_not_like_others(zone: str, day: date, shows: str, hours: int) -> None:
    days = Days(zone)
    begins_ms = days.begins_ms(day)
    assert wall(zone, begins_ms).strftime("%H:%M") == shows
    assert days.begins_ms(day + ONE_DAY) - begins_ms == hours * HOUR_MS


def test_a_day_that_was_left_out_is_nobodys() -> None:
    days = Days("Pacific/Apia")
    assert days.day_of(days.begins_ms(date(2011, 12, 30))) == date(2011, 12, 31)
    assert days.before(date(2011, 12, 31)) == date(2011, 12, 29)


@given(ZONES, st.sampled_from([-(2**63), -1, 2**62, 2**63 - 1]), st.booleans())
def test_times_beyond_the_calendar_fall_on_its_ends(zone: str, time_ms: int, is_first: bool) -> None:
    days = Days(zone)
    if is_first:
        days.day_of(0)
    begins_ms, ends_ms = days.bounds_ms(time_ms)
    assert begins_ms <= time_ms < ends_ms
    assert FIRST_DAY <= days.day_of(time_ms) <= LAST_DAY
    assert days.begins_ms(date.min) < days.begins_ms(date.max)


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "../etc/passwd", "Europe", "a\0b"])
def test_a_zone_that_is_none_is_refused_with_its_name(zone: str) -> None:
    with pytest.raises(BadInput, match="time zone: expected a name such as UTC or Africa/Cairo, got "):
        Days(zone)


@given(ZONES, TIMES, st.integers(0, 999))
def test_a_time_is_its_milliseconds_again_whatever_zone_it_is_told_in(zone: str, time_ms: int, more_us: int) -> None:
    assert in_ms(wall(zone, time_ms) + timedelta(microseconds=more_us)) == time_ms
