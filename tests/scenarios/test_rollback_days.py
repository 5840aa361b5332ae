"""Rollbacks to kept days while events flow: the latest first, each behind the one before, and at last to a later one again.

Each is held against the offline fold: at its fence what is read is that of the day's begin, and when it has caught up that of
every event that was not dropped, also as of each midnight that the catch-up has passed. By default some days; with
UIC_TEST_ALL_DAYS=1 every kept one, with both plans; --log-cli-level=INFO shows what each took.
"""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pytest
from rolled import World, contents, folded, now_ms, opened_world, visit

from jobs.dev.stack import DevStack
from jobs.rollback.journal import Folder
from jobs.rollback.plan import Asked
from jobs.rollback.run import Run
from jobs.rollback.steps import Waiting
from jobs.wheel import find_wheel
from uic.bundle import Bundle
from uic.event import BehaviourEvent

log = logging.getLogger(__name__)
KEPT = 7
USERS = [f"u{number}" for number in range(24)]
HOUR_MS = 3_600_000
ALL = "UIC_TEST_ALL_DAYS" in os.environ
# Days before today, in the order in which they are gone back to; the last is later than the one before it.
WAYS = {
    "batched": [*range(KEPT), 2] if ALL else [4, 2],
    "per-event": [*range(KEPT), 2] if ALL else [3],
}


@dataclass
class Truth:
    """What was sent, in the order of the log, and what rollbacks have left out: users, from a cut on."""

    bundle: Bundle
    sent: list[BehaviourEvent] = field(default_factory=list)
    dropped: list[tuple[int, str]] = field(default_factory=list)

    def rolled_back(self, cut_ms: int, user: str) -> None:
        """One to a cut goes behind the rules of that cut and of later ones."""
        self.dropped = [*((begin, each) for begin, each in self.dropped if begin < cut_ms), (cut_ms, user)]

    def at(self, time_ms: int | None = None) -> dict[str, tuple[object, ...]]:
        """Every user's memory before this time; by default now."""
        events = [event for event in self.sent if time_ms is None or event.time_ms < time_ms]
        left = [each for each in events if not any(each.time_ms >= cut and each.user_id == user for cut, user in self.dropped)]
        return folded(self.bundle, left)


@pytest.fixture
def world(stack: DevStack, toy_bundle: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    plan = request.param
    with opened_world(stack, toy_bundle, tmp_path, name=f"days-{plan}", users=USERS, plan=plan) as made:
        yield made


@pytest.mark.timeout(7200 if ALL else 600)
@pytest.mark.parametrize("world", list(WAYS), indirect=True)
def test_days_are_gone_back_to_while_events_flow_and_the_fold_says_the_same(world: World) -> None:
    truth = Truth(Bundle.open(world.bundle))
    days = [world.days.before(world.today, count) for count in range(KEPT)]
    lay_days(world, truth, [days[count] for count in sorted(set(WAYS[world.plan]), reverse=True)])
    wheel = find_wheel(None, world.root / "wheel")
    for number, ago in enumerate(WAYS[world.plan]):
        day, user = days[ago], USERS[number]
        cut_ms = world.days.begins_ms(day)
        expected = truth.at(cut_ms)
        truth.rolled_back(cut_ms, user)
        started = time.monotonic()
        with flowing(world, truth):
            report = roll_back(world, truth, wheel, day, user, expected)
        world.settle()
        codec = truth.bundle.codec
        assert contents(codec, world.read()) == truth.at()
        assert report["differing"] == {}
        for midnight in days[: ago + 1]:
            # Those after the day were made anew, as the catch-up passed them.
            assert contents(codec, world.read(midnight)) == truth.at(world.days.begins_ms(midnight)), midnight
        log.info("%s: %d midnights ago: %.1f s, %s", world.plan, ago, time.monotonic() - started, report)
    assert [journal.is_over for journal in Folder(world.root / "job").journals()] == [True] * len(WAYS[world.plan])


def lay_days(world: World, truth: Truth, days: list[date]) -> None:
    """Events on every day of the log, and a daily checkpoint for each of these, a while before its midnight."""
    world.start()
    world.take_times_from("CreateTime")
    first = world.days.before(world.today, KEPT)
    number = 0
    for count in range(KEPT, -1, -1):
        day = world.days.before(world.today, count)
        begins_ms = world.days.begins_ms(day)
        if day in days and day != first:
            world.midnights(begins_ms - 60_000).take()
            # The checkpoint of the day has not seen these, and they are before its cut.
            send(
                world, truth, [visit(user, begins_ms - 30_000 + place, number + place) for place, user in enumerate(USERS[:9])]
            )
        # One right on the cut, and not everybody every day.
        visits = [
            visit(user, begins_ms + place * HOUR_MS // 4, number + place)
            for place, user in enumerate(USERS)
            if (place + count) % 3
        ]
        send(world, truth, visits[:-1] if count else visits[:9])
        world.settle()
        number += 100
    assert world.midnights().seal().waiting == []
    world.take_times_from("LogAppendTime")


def send(world: World, truth: Truth, events: list[BehaviourEvent]) -> None:
    truth.sent += events
    world.send(events)


@contextmanager
def flowing(world: World, truth: Truth) -> Iterator[None]:
    """Events that come while it lasts."""
    is_over = threading.Event()

    def flow() -> None:
        number = 0
        while not is_over.wait(0.2):
            send(world, truth, [visit(USERS[(number + place) % len(USERS)], now_ms(), number + place) for place in range(3)])
            number += 3

    thread = threading.Thread(target=flow)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def roll_back(
    world: World, truth: Truth, wheel: Path, day: date, user: str, expected: dict[str, tuple[object, ...]]
) -> dict[str, object]:
    seen: list[dict[str, tuple[object, ...]]] = []

    def say(text: str) -> None:
        if "every read is as of" in text:
            seen.append(contents(truth.bundle.codec, world.read()))

    run = Run(
        world.settings,
        Asked(words=("--to", str(day)), day=day, users=frozenset({user})),
        job_dir=world.root / "job",
        stores=[world.settings.store.path],
        wheel=wheel,
        waiting=Waiting(patience_s=120, say=say),
    )
    with run.folder.locked():
        report = run.roll_back(len(USERS))
    assert seen == [expected]
    assert report.verified >= 9  # those who are to be settled, at least
    return {
        "differing": report.differing, "undecided": report.undecided, "silent": report.silent, "replayed": report.replayed,
        "verified": report.verified,
    }  # fmt: skip
