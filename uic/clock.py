"""Days of a time zone, as intervals of milliseconds since 1970: each begins where the one before ends.

A day begins at its first local instant. That is not always 00:00 (where daylight saving skips midnight, as in Africa/Cairo, it
is 01:00), and what the clock shows after it may be the day before once more (where midnight comes twice): the day has begun all
the same. A day that a zone left out (Pacific/Apia, 2011-12-30) is empty, it begins and ends where the next one begins.
"""

import datetime
from datetime import date, timedelta
from zoneinfo import ZoneInfo

from uic.errors import BadInput

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_ONE_DAY = timedelta(days=1)
# Far enough from the ends of Python's calendar for any zone's offset.
FIRST_DAY = date.min + 3 * _ONE_DAY
LAST_DAY = date.max - 3 * _ONE_DAY
_FOREVER_MS = 1 << 63
_REMEMBERED = 16


class Days:
    """The days of one zone, named as in the IANA database.

    >>> days = Days("Africa/Cairo")
    >>> days.begins_ms(date(2026, 4, 24)) - days.begins_ms(date(2026, 4, 23))  # 24 h, since 00:00 is skipped
    86400000
    >>> days.day_of(days.begins_ms(date(2026, 4, 24)) - 1)
    datetime.date(2026, 4, 23)
    """

    def __init__(self, zone: str = "UTC") -> None:
        try:
            self._zone = ZoneInfo(zone)
        except (KeyError, ValueError, OSError) as error:  # unknown to the database, or no name at all
            raise BadInput(f"time zone: expected a name such as UTC or Africa/Cairo, got {zone!r}") from error
        self.zone = zone
        # The days asked for last, the newest first: begin, end, day. One that is replaced as a whole, since threads share it.
        self._recent: tuple[tuple[int, int, date], ...] = ()

    def day_of(self, time_ms: int) -> date:
        """The day that a time falls on. Times outside the years 1 to 9999 fall on the first and the last day."""
        return self._of(time_ms)[2]

    def bounds_ms(self, time_ms: int) -> tuple[int, int]:
        """Where the day of a time begins, and where the next one does."""
        return self._of(time_ms)[:2]

    def begins_ms(self, day: date) -> int:
        """The first instant of a day; of one that the zone left out, that of the next."""
        day = min(max(day, FIRST_DAY), LAST_DAY)
        midnight = datetime.datetime(day.year, day.month, day.day, tzinfo=self._zone)
        first_s = _seconds(midnight)
        if self._date(first_s) > day or self._date(first_s - 1) >= day:
            # Midnight is in a gap: the day begins at the gap's end, between what the two offsets make of 00:00.
            before_s = _seconds(midnight.replace(fold=1)) - 1
            while first_s - before_s > 1:
                middle_s = (before_s + first_s) // 2
                before_s, first_s = (before_s, middle_s) if self._date(middle_s) >= day else (middle_s, first_s)
        return first_s * 1000

    def before(self, day: date, count: int = 1) -> date:
        """The day that came `count` days before, not counting those left out."""
        for _ in range(count):
            ends_ms = self.begins_ms(day)
            day = self.day_of(ends_ms - 1)
        return day

    def _of(self, time_ms: int) -> tuple[int, int, date]:
        for known in self._recent:
            if known[0] <= time_ms < known[1]:
                return known
        found = self._find(time_ms)
        self._recent = (found, *self._recent[: _REMEMBERED - 1])
        return found

    def _find(self, time_ms: int) -> tuple[int, int, date]:
        if time_ms < self.begins_ms(FIRST_DAY + _ONE_DAY):
            return -_FOREVER_MS, self.begins_ms(FIRST_DAY + _ONE_DAY), FIRST_DAY
        if time_ms >= self.begins_ms(LAST_DAY):
            return self.begins_ms(LAST_DAY), _FOREVER_MS, LAST_DAY
        day = self._date(time_ms // 1000)
        # The clock may show the day before once more.
        while self.begins_ms(day + _ONE_DAY) <= time_ms:
            day += _ONE_DAY
        return self.begins_ms(day), self.begins_ms(day + _ONE_DAY), day

    def _date(self, time_s: int) -> date:
        """What the calendar on the wall shows."""
        return (_EPOCH + timedelta(seconds=time_s)).astimezone(self._zone).date()


def in_ms(moment: datetime.datetime) -> int:
    """Whole milliseconds from 1970 to a moment with its zone. A float of seconds on the way loses some from 2038 on.

    >>> in_ms(datetime.datetime.fromisoformat("2038-01-20T00:00:00.002+00:00"))
    2147558400002
    """
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def _seconds(moment: datetime.datetime) -> int:
    return (moment - _EPOCH) // timedelta(seconds=1)
