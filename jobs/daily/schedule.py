"""`uic checkpoint schedule`: a savepoint a lead time before each day begins, sealed after it, and what fails tried again.

All that is due at a moment is one function, `Keeper.tend`, and doing it twice does no harm; so the service (APScheduler) and a
CronJob that runs it every few minutes are the same thing.
"""

import signal
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.interval import IntervalTrigger
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential

from jobs.daily.metrics import DailyMetrics
from jobs.daily.midnights import Midnights, TooLate
from uic.clock import Days
from uic.errors import UicError

TEND_EVERY_S = 300
_FIRST_WAIT_S, _LONGEST_WAIT_S = 2.0, 60.0
# A cluster that restarts, a broker that is away, a disk that is full: what a later attempt may find mended.
_MENDABLE = (UicError, OSError)


class Keeper:
    """Keeps the daily checkpoints of one job. `sleep` waits between two attempts; `is_ending`: whether to try no more."""

    def __init__(
        self,
        midnights: Midnights,
        metrics: DailyMetrics,
        *,
        sleep: Callable[[float], None] = time.sleep,
        is_ending: Callable[[], bool] = lambda: False,
    ) -> None:
        self._midnights = midnights
        self._metrics = metrics
        self._sleep = sleep
        self._is_ending = is_ending

    def tend(self) -> list[str]:
        """Do all that is due now; returns what is wrong, in words. Raises nothing that a later attempt may mend."""
        problems = []
        for do in (self._take_if_due, self._seal, self._prune, self._check_log):
            try:
                problems += do()
            except _MENDABLE as error:
                problems.append(str(error))
        problems += self._tell()
        for problem in problems:
            self._midnights.say(f"problem: {problem}")
        return problems

    def due_day(self) -> date | None:
        """The day for which a savepoint is to be taken now, if any: its lead time has come, and there is none from then on."""
        midnights = self._midnights
        day = midnights.next_day()
        from_ms = midnights.days.begins_ms(day) - midnights.lead_ms
        entries = midnights.catalogue.entries()
        has_one = any(entry.day == day and entry.tainted is None and entry.taken_ms >= from_ms for entry in entries)
        return None if has_one or midnights.now_ms() < from_ms else day

    def _take_if_due(self) -> list[str]:
        day = self.due_day()
        if day is None:
            return []
        midnights = self._midnights
        # After midnight a job that lags may still not have read the day's first event: the offsets decide.
        until_ms = midnights.days.begins_ms(day) + midnights.lead_ms
        attempts = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, _MENDABLE) and not isinstance(error, TooLate)),
            wait=wait_exponential(multiplier=_FIRST_WAIT_S, max=_LONGEST_WAIT_S),
            stop=lambda state: self._is_ending() or midnights.now_ms() + 1000 * state.upcoming_sleep >= until_ms,
            before_sleep=self._say_failed,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            entry = attempts(midnights.take, day)
        except _MENDABLE as error:
            self._metrics.count("late" if isinstance(error, TooLate) else "failed")
            return [f"no daily checkpoint for {day}: {error}"]
        self._metrics.count("taken")
        midnights.say(f"{entry.id}: taken for {day}, {entry.memories:,} memories, {entry.bytes / 1e6:,.1f} MB")
        return []

    def _say_failed(self, state: RetryCallState) -> None:
        self._metrics.count("failed")
        error = None if state.outcome is None else state.outcome.exception()
        self._midnights.say(f"attempt {state.attempt_number} failed, again in {state.upcoming_sleep:.0f} s: {error}")

    def _seal(self) -> list[str]:
        done = self._midnights.seal()
        self._metrics.count("sealed", len(done.sealed))
        self._metrics.count("late", len(done.late))
        for entry in done.sealed:
            self._midnights.say(f"{entry.id}: sealed, it stands for {entry.day}")
        return [f"{entry.id} came too late for {day}; it is filed under {entry.day}" for day, entry in done.late]

    def _prune(self) -> list[str]:
        gone = self._midnights.prune()
        self._metrics.count("removed", len(gone))
        for entry in gone:
            self._midnights.say(f"{entry.id}: removed, no kept day is gone back to from it any more")
        return []

    def _check_log(self) -> list[str]:
        retention = self._midnights.check_log()
        self._metrics.log(lost=len(retention.lost), problems=len(retention.problems))
        return retention.problems

    def _tell(self) -> list[str]:
        entries, unreadable = self._midnights.catalogue.contents()
        missing = self._midnights.missing()
        today = self._midnights.kept_days()[-1]
        newest_ms = max((entry.taken_ms for entry in entries if entry.tainted is None), default=None)
        self._metrics.catalogue(entries=len(entries), unreadable=len(unreadable), missing=len(missing), newest_ms=newest_ms)
        # Said as long as it is news; the days before are told by the metric and by `uic checkpoint list`.
        return [*unreadable.values(), *(f"{day}: no daily checkpoint of its own" for day in missing if day == today)]


class AroundMidnights(BaseTrigger):  # type: ignore[misc]  # apscheduler ships no types
    """Fires so long after each day's first instant, before it where negative; no cron line can say that of all zones."""

    def __init__(self, days: Days, offset_ms: int) -> None:
        self._days = days
        self._offset_ms = offset_ms

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime:
        """The next one after `previous`, not before `now`."""
        now_ms = int(now.timestamp() * 1000)
        after_ms = now_ms - 1 if previous is None else max(now_ms - 1, round(previous.timestamp() * 1000))
        begins_ms = self._days.bounds_ms(after_ms - self._offset_ms)[1]
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=begins_ms + self._offset_ms)


def serve(keeper: Keeper, zone: str, *, lead_ms: int, margin_ms: int, wait: Callable[[], object]) -> None:
    """Tend now, around each midnight, and every few minutes, until `wait` returns."""
    # One thread: two passes at a time would take two savepoints.
    scheduler = BackgroundScheduler(
        timezone=UTC,
        executors={"default": {"type": "threadpool", "max_workers": 1}},
        job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
    )
    scheduler.add_job(keeper.tend, IntervalTrigger(seconds=TEND_EVERY_S, timezone=UTC), next_run_time=datetime.now(UTC))
    for offset_ms in (-lead_ms, margin_ms):
        scheduler.add_job(keeper.tend, AroundMidnights(Days(zone), offset_ms))
    scheduler.start()
    try:
        wait()
    finally:
        scheduler.shutdown(wait=True)


def until_signal() -> tuple[Callable[[], object], Callable[[], bool], Callable[[float], Any]]:
    """Three functions: wait for SIGTERM or SIGINT; whether one came; sleep, but not beyond it."""
    from threading import Event

    ends = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ends.set())
    return ends.wait, ends.is_set, ends.wait
