"""Around midnight: what stands for a day has read nothing of it, however events, readings, savepoints and clocks are mixed."""

import tempfile
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from midnight_world import DAY_MS, FIRST, FakeJob, World

from jobs.daily.cut import LogInMemory, Reach, find_cut
from jobs.daily.entry import example
from jobs.daily.keeping import usable
from jobs.daily.midnights import TooLate
from jobs.daily.offsets import EARLIEST
from jobs.daily.retention import check_retention
from uic.errors import BadInput, JobError

ACTIONS = st.lists(
    st.tuples(st.sampled_from(["event", "event", "read", "take", "seal", "wait", "midnight"]), st.integers(0, 600)), max_size=60
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def true_cut(world: World, day: date) -> dict[int, int]:
    """By what the log has become, long after."""
    begins_ms = (day - FIRST).days * DAY_MS
    return {each: sum(time < begins_ms for time in times) for each, times in world.log.times_ms.items()}


@settings(max_examples=150)
@given(ACTIONS, st.integers(-50, 49))
def test_a_sealed_checkpoint_has_the_true_cut_and_nothing_of_its_day(actions: list[tuple[str, int]], skew_ms: int) -> None:
    with tempfile.TemporaryDirectory() as root:
        world = World(Path(root))
        midnights = world.midnights
        for action, number in actions:
            if action == "event":
                world.event(number % 2, skew_ms=skew_ms)
            elif action == "read":
                there = len(world.log.times_ms[number % 2])
                world.job.read[number % 2] = min(there, world.job.read[number % 2] + number % 4)
            elif action == "wait":
                world.now_ms += number
            elif action == "midnight":
                world.now_ms = midnights.days.bounds_ms(world.now_ms)[1] - 60 + number % 120
            elif action == "seal":
                midnights.seal()
            else:
                try:
                    midnights.take(midnights.next_day() - timedelta(days=number % 3))
                except TooLate:
                    assert not midnights.catalogue.path.joinpath(".taking").exists()
        midnights.seal()
        for entry in midnights.catalogue.entries():
            if entry.is_sealed:
                assert entry.cut == true_cut(world, entry.day)
                assert entry.fits(true_cut(world, entry.day))
            else:
                assert entry.begins_ms + world.margin_ms > world.now_ms
            # No other day before could have been its own: it was filed no later than it had to be.
            assert entry.day <= midnights.next_day()


def test_taken_before_midnight_and_sealed_after_it(world: World) -> None:
    world.event(0)
    world.now_ms = 900
    world.read_all()
    entry = world.midnights.take()
    assert (entry.day, entry.offsets, entry.state) == (date(2026, 1, 2), {0: 1, 1: 0}, "taken")
    world.event(1)
    assert world.midnights.seal().waiting == []
    world.now_ms = 1010
    world.event(0)
    # Partition 1 has no event of the day yet, and the clocks may be apart.
    assert [each.id for each in world.midnights.seal().waiting] == [entry.id]
    world.now_ms = 1050
    (sealed,) = world.midnights.seal().sealed
    assert (sealed.cut, sealed.cut_by_clock) == ({0: 1, 1: 1}, (1,))
    assert world.midnights.seal().sealed == []
    assert usable(world.midnights.catalogue.entries(), true_cut(world, entry.day)) == sealed


def test_an_event_that_a_slow_broker_still_stamps_as_of_the_day_before_is_awaited(world: World) -> None:
    world.now_ms = 900
    world.midnights.take()
    world.now_ms = 1020
    assert world.midnights.seal().sealed == []
    world.event(0, skew_ms=-40)
    world.now_ms = 1050
    assert world.midnights.seal().sealed[0].cut == {0: 1, 1: 0}


def test_one_taken_too_late_is_refused_and_leaves_nothing(world: World) -> None:
    world.now_ms = 1100
    world.event(0)
    world.read_all()
    with pytest.raises(TooLate, match="has read 1 events past the begin of this day"):
        world.midnights.take(date(2026, 1, 2))
    assert [path.name for path in world.midnights.catalogue.path.iterdir() if path.is_dir()] == []
    assert world.midnights.take().day == date(2026, 1, 3)


def test_a_job_that_is_behind_can_still_stand_for_a_day_that_has_begun(world: World) -> None:
    world.event(0)
    world.now_ms = 1100
    world.event(0)
    world.event(1)
    world.job.read = {0: 1, 1: 0}
    assert world.midnights.take(date(2026, 1, 2)).cut == {0: 1, 1: 0}


def test_one_that_proves_too_late_is_filed_under_the_next_day_and_the_good_one_stays(world: World) -> None:
    world.now_ms = 850
    good = world.midnights.take()
    # The broker's clock is ahead: to it, midnight has passed.
    world.now_ms = 980
    world.event(0, skew_ms=40)
    world.event(1, skew_ms=40)
    world.read_all()
    late = world.midnights.take()
    assert late.day == good.day
    world.now_ms = 1100
    done = world.midnights.seal()
    assert [entry.id for entry in done.sealed] == [good.id]
    assert [(day, entry.day) for day, entry in done.late] == [(date(2026, 1, 2), date(2026, 1, 3))]
    assert world.midnights.prune() == []
    assert world.midnights.missing() == []


def test_a_pin_set_meanwhile_survives_the_sealing(world: World) -> None:
    world.now_ms = 900
    entry = world.midnights.take()
    world.midnights.catalogue.pin(entry, "me")
    world.now_ms = 1100
    assert world.midnights.seal().sealed[0].pins == ("me",)


def test_days_beyond_the_next_and_another_count_of_partitions_are_refused(world: World) -> None:
    with pytest.raises(BadInput, match="expected 2026-01-02, the next day to begin"):
        world.midnights.take(date(2026, 1, 3))
    world.log.times_ms[2] = []
    world.log.removed[2] = 0
    with pytest.raises(JobError, match="it had 2 partitions when the job was submitted, now it has 3"):
        world.midnights.take()


def test_a_failed_savepoint_leaves_nothing(world: World) -> None:
    world.job.fails = 1
    with pytest.raises(JobError, match="made no savepoint"):
        world.midnights.take()
    assert [path for path in world.midnights.catalogue.path.iterdir() if path.is_dir()] == []


def test_where_the_log_is_cut_off_only_a_clock_tells_and_a_doubtful_one_does_not_stand(world: World) -> None:
    world.event(0)
    world.event(1)
    world.now_ms = 1000
    world.event(0)
    world.read_all()
    world.log.removed[0] = 2
    # What is left of partition 0 begins with its end: whether offset 1 was of the day, nobody can say any more.
    world.now_ms = 1100
    with pytest.raises(TooLate, match="may have read events past"):
        world.midnights.take(date(2026, 1, 2))


def test_an_event_between_the_two_questions_is_seen_by_the_second() -> None:
    class Racing(LogInMemory):
        def first_at(self, time_ms: int) -> dict[int, int | None]:
            self.times_ms[0].append(1000)
            return dict(super().first_at(time_ms))

    found = find_cut(Racing({0: [10, 20]}), 1000, now_ms=2000, margin_ms=10)
    assert found is not None
    assert (found.offsets, found.by_clock) == ({0: 2}, ())


def test_seven_midnights_are_kept_and_an_eighth_lets_the_first_go(world: World) -> None:
    midnights = replace(world.midnights, kept=7)
    for number in range(1, 10):
        world.now_ms = number * DAY_MS - 100
        midnights.take()
        world.now_ms = number * DAY_MS + 60
        midnights.seal()
        midnights.prune()
    assert [entry.day.day for entry in midnights.catalogue.entries()] == [10, 9, 8, 7, 6, 5, 4]


def test_retention_is_a_problem_before_and_when_a_kept_day_is_lost() -> None:
    entry = example()
    reach = {0: Reach(0, 9), 1: Reach(7, 9)}
    week = 7 * 86_400_000
    assert check_retention([entry], reach, None, kept_days=7, lead_ms=0) == ([], [])
    (soon,) = check_retention([entry], reach, week, kept_days=7, lead_ms=600_000).problems
    assert soon.startswith("the topic keeps events for 7.0 days, going back 7 days needs 8.0")
    assert f"retention.ms={week + 86_400_000 + 600_000}" in soon
    lost = check_retention([entry], {0: Reach(6, 9), 1: Reach(0, 9)}, None, kept_days=7, lead_ms=0)
    assert lost.lost == [entry]
    assert "has removed 1 events of partition 0 that came after it" in lost.problems[0]
    anew = check_retention([entry], {0: Reach(0, 9), 1: Reach(0, 3)}, None, kept_days=7, lead_ms=0)
    assert "the topic was made anew" in anew.problems[0]
    assert check_retention([replace(entry, tainted="x")], {}, None, kept_days=7, lead_ms=0).problems == []


def test_a_partition_never_read_is_kept_as_the_first_offset_there_was(world: World) -> None:
    assert isinstance(world.job, FakeJob)
    world.log.times_ms = {0: [1, 2, 3], 1: [1]}
    world.log.removed = {0: 2, 1: 0}
    world.job.read = {0: EARLIEST, 1: 1}
    assert world.midnights.take().offsets == {0: 2, 1: 1}
