"""The schedule: what is due when, what is tried again, what is counted, and the service with its metrics."""

import errno
import os
import signal
import threading
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from midnight_world import World
from prometheus_client import CollectorRegistry

from jobs.daily.metrics import DailyMetrics
from jobs.daily.schedule import AroundMidnights, Keeper, serve, until_signal
from uic.clock import Days
from uic.errors import JobError

SECOND = date(2026, 1, 2)


class Kept(World):
    """A world with its keeper; an attempt that waits moves the clock."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.registry = CollectorRegistry()
        self.waits: list[float] = []
        self.keeper = Keeper(self.midnights, DailyMetrics(self.registry), sleep=self.wait)

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now_ms += round(1000 * seconds)

    def count(self, outcome: str) -> float | None:
        return self.registry.get_sample_value("uic_daily_checkpoints_total", {"outcome": outcome})

    def value(self, name: str) -> float | None:
        return self.registry.get_sample_value(f"uic_daily_{name}")


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def test_nothing_is_due_before_the_lead_time_one_savepoint_within_it_and_no_second_one(kept: Kept) -> None:
    kept.now_ms = 799
    assert kept.keeper.tend() == []
    assert kept.job.taken == 0
    kept.now_ms = 800
    assert kept.keeper.due_day() == SECOND
    assert kept.keeper.tend() == []
    kept.now_ms = 999
    assert kept.keeper.tend() == []
    assert kept.job.taken == 1
    kept.now_ms = 1050
    assert kept.keeper.tend() == []
    assert (kept.count("taken"), kept.count("sealed"), kept.count("failed"), kept.value("missing_days")) == (1, 1, 0, 0)


def test_one_taken_by_hand_earlier_does_not_stand_in_for_the_night_s(kept: Kept) -> None:
    kept.now_ms = 300
    by_hand = kept.midnights.take()
    kept.now_ms = 900
    kept.keeper.tend()
    assert kept.job.taken == 2
    kept.now_ms = 1100
    kept.keeper.tend()
    assert [entry.taken_ms for entry in kept.midnights.catalogue.entries()] == [900]
    assert by_hand.day == SECOND


@pytest.mark.parametrize("error", [JobError("no savepoint"), OSError(errno.ENOSPC, "no space left")], ids=["job", "disk"])
def test_a_failed_attempt_is_made_again_and_counted(tmp_path: Path, error: Exception) -> None:
    kept = Kept(tmp_path, day_ms=1_000_000)
    kept.job.fails, kept.job.error = 2, error
    kept.now_ms = 800_000
    assert kept.keeper.tend() == []
    assert (kept.count("failed"), kept.count("taken")) == (2, 1)
    assert kept.waits == [2.0, 4.0]
    assert kept.said[0].startswith(f"attempt 1 failed, again in 2 s: {error}")


def test_attempts_go_on_beyond_midnight_since_offsets_decide_and_end_a_lead_time_after_it(tmp_path: Path) -> None:
    kept = Kept(tmp_path, day_ms=1_000_000)
    kept.job.fails = 1000
    kept.now_ms = 800_000
    assert len(kept.keeper.tend()) == 1
    assert 1_100_000 < kept.now_ms < 1_200_000


def test_a_midnight_that_fails_altogether_is_a_problem_and_costs_no_earlier_one(kept: Kept) -> None:
    kept.now_ms = 900
    kept.keeper.tend()
    kept.now_ms = 1900
    kept.keeper.tend()
    kept.job.fails = 1000
    kept.now_ms = 2900
    (problem,) = kept.keeper.tend()
    assert problem == "no daily checkpoint for 2026-01-04: made no savepoint"
    kept.now_ms = 3060
    # Said on the day itself, and left to the metric later.
    assert kept.keeper.tend() == ["2026-01-04: no daily checkpoint of its own"]
    assert kept.value("missing_days") == 1
    kept.job.fails = 0
    kept.now_ms = 3900
    kept.keeper.tend()
    kept.now_ms = 4060
    assert kept.keeper.tend() == []
    assert kept.value("missing_days") == 1
    assert [entry.day.day for entry in kept.midnights.catalogue.entries()] == [5, 3]


def test_events_that_the_broker_has_removed_are_noticed_with_every_pass(kept: Kept) -> None:
    kept.now_ms = 900
    kept.keeper.tend()
    kept.log.times_ms[0] += [910, 920]
    kept.log.removed[0] = 2
    (problem,) = kept.keeper.tend()
    assert "the broker has removed 2 events of partition 0" in problem
    assert kept.value("lost") == 1


def test_a_pinned_one_beyond_the_days_kept_needs_no_log(kept: Kept) -> None:
    kept.now_ms = 900
    kept.keeper.tend()
    kept.midnights.catalogue.pin(kept.midnights.catalogue.entries()[0], "me")
    for day in range(2, 7):
        kept.now_ms = 1000 * day - 100
        kept.event(0)
        kept.read_all()
        kept.keeper.tend()
    kept.log.removed[0] = 2
    kept.now_ms = 6050
    assert kept.keeper.tend() == []
    assert [entry.day.day for entry in kept.midnights.catalogue.entries()] == [7, 6, 5, 2]


@given(st.sampled_from(["UTC", "Africa/Cairo", "America/Sao_Paulo"]), st.integers(0, 2_000_000_000_000), st.integers(-9, 9))
def test_the_trigger_fires_once_around_each_day_s_first_instant(zone: str, now_ms: int, offset_min: int) -> None:
    days, offset_ms = Days(zone), offset_min * 60_000
    trigger = AroundMidnights(days, offset_ms)
    now = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=now_ms)
    fired = [trigger.get_next_fire_time(None, now)]
    for _ in range(3):
        fired.append(trigger.get_next_fire_time(fired[-1], fired[-1]))
    begins = [round(each.timestamp() * 1000) - offset_ms for each in fired]
    assert fired[0] >= now
    assert [days.begins_ms(days.day_of(each)) for each in begins] == begins
    assert begins[1:] == [days.bounds_ms(each)[1] for each in begins[:-1]]
    # None was passed over between now and the first.
    assert days.bounds_ms(now_ms - 1 - offset_ms)[1] == begins[0]


def test_the_service_tends_at_once_serves_its_metrics_and_ends_at_a_signal(kept: Kept) -> None:
    kept.now_ms = 900
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        wait, is_ending, sleep = until_signal()
        metrics = DailyMetrics()
        url = f"http://127.0.0.1:{metrics.serve('127.0.0.1', 0)}/metrics"
        tended = threading.Event()

        class Tending(Keeper):
            def tend(self) -> list[str]:
                problems = super().tend()
                tended.set()
                return problems

        def end() -> None:
            assert tended.wait(20)
            os.kill(os.getpid(), signal.SIGTERM)
            wait()

        keeper = Tending(kept.midnights, metrics, sleep=sleep, is_ending=is_ending)
        serve(keeper, "UTC", lead_ms=200, margin_ms=50, wait=end)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    said = requests.get(url, timeout=10).text
    assert 'uic_daily_checkpoints_total{outcome="taken"} 1.0' in said
    assert "uic_daily_entries 1.0" in said
    assert is_ending()
    assert kept.midnights.catalogue.entries()[0].day == SECOND
