"""After a rollback, memories that bundles, forgetting and the log explain are right; any other is said to be wrong."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[1] / "scenarios"))

import small
import toy

from jobs.rollback.judge import Judge, Log
from jobs.verdict import LeftOut
from uic.bundle import Bundle
from uic.event import BehaviourEvent
from uic.fold import Logged
from uic.forgetting import FILE, Entry, Forgotten
from uic.memory import Numbers, UserMemory
from uic.runtime import OnnxStep
from uic.small import Shrink
from uic.update import Rules

USER = "u1"
BEGIN, CUT, GOAL, END = 4, 7, 10, 12  # events applied at the checkpoint, the cut, the goal, and when it is looked at
Turns = Callable[[int], int]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    root = tmp_path_factory.mktemp("bundles")
    first = toy.make_bundle(root / "1", version=1)
    second = toy.make_bundle(root / "2", version=2, parent=1, keeps=0.25, more_items=10)
    third = toy.make_bundle(root / "3", version=3, parent=2, keeps=0.125, more_items=20)
    return [Bundle.open(path) for path in (first, second, third)]


def event(number: int) -> Logged:
    time_ms = toy.START_MS + number
    made = BehaviourEvent(user_id=USER, item_id=1 + number, category_id=1 + number % 10, behaviour="click", time_ms=time_ms)
    return Logged(made, time_ms)


def after(bundles: list[Bundle], events: range, turns: Turns, blob: bytes | None = None) -> bytes | None:
    """The memory after these events, each applied by the bundle at the place that `turns` gives."""
    updaters = [bundle.updater(OnnxStep(bundle), Rules()) for bundle in bundles]
    for number in events:
        each = event(number)
        blob = updaters[turns(number)].update(blob, each.event, log_time_ms=each.log_time_ms).blob
    return blob


def judge(bundles: list[Bundle], *, begin: int = BEGIN, left_out: LeftOut | None = None) -> Judge:
    """Of the bundle that the rollback goes on with, and of those after it. The log has all events from the checkpoint on."""
    counted = [event(number) for number in range(begin, END)]
    if left_out is not None:
        counted = [each for each in counted if left_out.counts_as(each) is None]
    times = [each.log_time_ms - toy.START_MS for each in counted]
    at_cut, at_goal = (sum(time < end for time in times) for end in (CUT, GOAL))
    log = Log(newest_ms=toy.START_MS + END, events={USER: counted}, at_cut={USER: at_cut}, at_goal={USER: at_goal})
    return Judge(bundles, Rules(), log, left_out or LeftOut())


def kinds(judged: Judge, begin: bytes | None, as_of_cut: bytes | None, now: bytes | None) -> tuple[str, str]:
    memory: UserMemory | None = judged.begin(USER, begin)
    return judged.as_of_cut(USER, memory, as_of_cut)[0], judged.now(USER, memory, now)[0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, CUT), st.integers(BEGIN, END), st.integers(GOAL, END))
def test_whatever_was_promoted_before_and_during_the_catch_up_is_right(
    bundles: list[Bundle], switch: int, again: int, end: int
) -> None:
    first, second, third = bundles

    def then(number: int) -> int:
        return 0 if number < switch else 1

    begin = after([first, second], range(BEGIN), then)
    as_of_cut = after([first, second], range(CUT), then)
    # The job goes on with the second, whoever had applied those events before, and the third is promoted while it does.
    now = after([second, third], range(BEGIN, end), lambda number: 0 if number < again else 1, begin)
    assert kinds(judge([second, third]), begin, as_of_cut, now) == ("right", "right")


@given(st.sampled_from([0.5, -0.01, 1e-3]), st.integers(GOAL, END))
@settings(max_examples=20, deadline=None)
def test_a_memory_of_other_events_or_of_another_time_is_wrong(bundles: list[Bundle], off: float, end: int) -> None:
    only = bundles[:1]
    begin, as_of_cut = after(only, range(BEGIN), lambda _: 0), after(only, range(CUT), lambda _: 0)
    now = after(only, range(end), lambda _: 0)
    assert kinds(judge(only), begin, as_of_cut, now) == ("right", "right")
    early = after(only, range(GOAL - 1), lambda _: 0)
    assert kinds(judge(only), begin, begin, early) == ("differing", "differing")
    assert kinds(judge(only), begin, as_of_cut, None)[1] == "differing"
    codec = only[0].codec
    memory = codec.decode(now or b"")
    wrong = codec.encode(replace(memory, fingerprints=bytes(len(memory.fingerprints))))
    assert kinds(judge(only), begin, as_of_cut, wrong)[1] == "differing"
    # Who comes after the checkpoint, and who never came.
    late = after(only, range(BEGIN, end), lambda _: 0)
    assert kinds(judge(only), None, after(only, range(BEGIN, CUT), lambda _: 0), late) == ("right", "right")
    assert kinds(judge(only, begin=END), None, None, None) == ("right", "right")


@pytest.mark.parametrize("numbers", ["float16", "int8"])
def test_a_store_in_small_numbers_is_judged_by_what_they_tell(bundles: list[Bundle], numbers: Numbers) -> None:
    only, codec = bundles[:1], bundles[0].codec

    def copy(blob: bytes | None) -> bytes:
        return Shrink(numbers, codec.layout)([blob or b""])[0]

    begin, as_of_cut = after(only, range(BEGIN), lambda _: 0), after(only, range(CUT), lambda _: 0)
    now = after(only, range(END), lambda _: 0)
    assert kinds(judge(only), begin, copy(as_of_cut), copy(now)) == ("right", "right")
    early = after(only, range(GOAL - 1), lambda _: 0)
    assert kinds(judge(only), begin, copy(begin), copy(early)) == ("differing", "differing")


def test_a_bundle_that_nobody_knows_of_leaves_it_undecided_unless_the_events_are_others(bundles: list[Bundle]) -> None:
    begin = after(bundles, range(BEGIN), lambda _: 0)
    now = after(bundles, range(BEGIN, END), lambda number: 0 if number < CUT else 2, begin)
    assert kinds(judge(bundles[:1]), begin, None, now)[1] == "undecided"
    fewer = after(bundles, range(BEGIN, GOAL - 1), lambda number: 0 if number < CUT else 2, begin)
    assert kinds(judge(bundles[:1]), begin, None, fewer)[1] == "differing"


def test_the_forgotten_begin_anew_after_a_rollback_and_one_who_came_back_is_wrong(
    bundles: list[Bundle], tmp_path: Path
) -> None:
    only = bundles[:1]
    old = after(only, range(BEGIN), lambda _: 0)
    back = after(only, range(END), lambda _: 0)
    for until, now in ((CUT, after(only, range(CUT + 1, END), lambda _: 0)), (END, None)):
        forgotten = Forgotten(tmp_path / str(until) / FILE)
        forgotten.note(USER, Entry(toy.START_MS + until, "anew", 1))
        judged = judge(only, left_out=LeftOut(forgotten=forgotten))
        assert kinds(judged, old, back, now) == ("right", "right")
        assert kinds(judged, old, back, back)[1] == "differing"
    opened = Forgotten(tmp_path / "open" / FILE)
    opened.note(USER, Entry(None, "anew", 1))
    assert kinds(judge(only, left_out=LeftOut(forgotten=opened)), old, back, back)[1] == "undecided"


def test_one_number_off_is_another_state_after_the_same_events(world: small.World) -> None:
    only = [world.bundle]
    begin, now = after(only, range(BEGIN), lambda _: 0), after(only, range(END), lambda _: 0)
    memory = world.codec.decode(now or b"")
    state_F = memory.state_F.copy()
    state_F[-1] += 1e-3 * (1 + abs(state_F[-1]))
    judged = judge(only)
    off = world.codec.encode(replace(memory, state_F=state_F))
    assert kinds(judged, begin, None, now) == ("right", "right")
    assert judged.now(USER, judged.begin(USER, begin), off) == ("differing", "another state after the same events")
