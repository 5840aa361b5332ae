"""Memories that several bundles made in turn are explained wherever they took over; others are not (uic/passage.py)."""

import bisect
import random
from dataclasses import replace

import numpy as np
from drawn import event, updater
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from uic.event import BehaviourEvent
from uic.fold import Logged
from uic.memory import Float32, UserMemory
from uic.passage import Model, find_passage
from uic.small import Published, Shrink
from uic.update import Rules, StepFunction, Updater

KEEPS = {1: 0.5, 2: 0.25, 3: 0.75}
HOUR_MS = 3_600_000
EVENTS = st.lists(
    st.builds(
        event,
        st.integers(0, 30),
        st.integers(8, 14),
        behaviour=st.sampled_from(["click", "click", "buy"]),
        event_id=st.sampled_from([None, None, "e1", "e2"]),
    ),
    min_size=1,
    max_size=12,
)
RULES = st.builds(Rules, lateness_ms=st.integers(0, 30), idle_after_ms=st.sampled_from([None, 2, 6]))


def model(version: int, rules: Rules) -> Model:
    """A bundle that keeps a share of its own of the state and, from the second on, also accepts "buy"."""

    def step(state_BF: Float32, item_rows_B: np.ndarray, category_rows_B: np.ndarray) -> Float32:
        return (state_BF * KEEPS.get(version, 1 / version) + (item_rows_B + category_rows_B / 4)[:, None]).astype(np.float32)

    made: Updater = updater(rules=rules, items=20 + version)
    taken: StepFunction = step
    made.step, made.bundle_version = taken, version
    return Model(made, frozenset({"click", "buy"} if version > 1 else {"click"}))


def logged(events: list[BehaviourEvent]) -> list[Logged]:
    return [Logged(each, 10 * at) for at, each in enumerate(events)]


def applied(models: list[Model], places: list[int], log: list[Logged]) -> list[UserMemory | None]:
    """The memory after each event, applied by the bundle at its place; None before the first one."""
    blob: bytes | None = None
    found: list[UserMemory | None] = [None]
    for place, each in zip(places, log, strict=True):
        updater, accepted = models[place]
        if each.event.behaviour in accepted:
            done = updater.update(blob, each.event, log_time_ms=each.log_time_ms, accepts_late=each.accepts_late)
            blob = done.blob or blob
        found.append(None if blob is None else updater.codec.decode(blob))
    return found


@settings(max_examples=60)
@given(EVENTS, RULES, st.sampled_from([[1], [1, 2], [1, 2, 3], [1, 2, 1]]), st.data())
def test_a_memory_is_explained_wherever_one_bundle_took_over_from_another(
    events: list[BehaviourEvent], rules: Rules, versions: list[int], data: st.DataObject
) -> None:
    models, log = [model(version, rules) for version in versions], logged(events)
    places = sorted(data.draw(st.lists(st.integers(0, len(models) - 1), min_size=len(log), max_size=len(log))))
    memories = applied(models, places, log)
    memory = memories[-1]
    assume(memory is not None)
    assert memory is not None
    found = find_passage(models, log, memory)
    assert found is not None
    assert found.excess == 0

    # Also a copy that was published in small numbers, without its fingerprints.
    codec = models[0].updater.codec
    for numbers in ("float16", "int8"):
        copy = Published(codec).decode(Shrink(numbers, codec.layout)([codec.encode(memory)])[0])
        found = find_passage(models, log, copy)
        assert found is not None
        assert found.explains

    # Also onto what had come of the first events, and as of any time from some event on.
    parting = data.draw(st.integers(0, len(log)))
    later = find_passage(models[places[parting - 1] if parting else 0 :], log[parting:], memory, begin=memories[parting])
    assert later is not None
    assert later.excess == 0
    early = find_passage(models, [*log, Logged(event(99, 9), 200)], memory, least=len(log))
    assert early is not None
    assert early.excess == 0


@settings(max_examples=60)
@given(EVENTS, RULES, st.lists(st.integers(0, 1), min_size=12, max_size=12), st.sampled_from([0.317, -1.0937, 1e-3]))
def test_a_memory_that_no_turns_explain_is_wrong(
    events: list[BehaviourEvent], rules: Rules, turns: list[int], off: float
) -> None:
    models, log = [model(1, rules), model(2, rules)], logged(events)
    memory = applied(models, sorted(turns[: len(log)]), log)[-1]
    assume(memory is not None)
    assert memory is not None
    # Two ways in which the bundles take turns may end in states as far apart as this by chance, hence the odd numbers.
    state_F = memory.state_F.copy()
    state_F[-1] += off
    for wrong in (
        replace(memory, state_F=state_F),
        replace(memory, sequence=memory.sequence + 1),
        replace(memory, log_time_ms=5),
        replace(memory, fingerprints=bytes(len(memory.fingerprints))),
        replace(memory, bundle_version=7),
    ):
        found = find_passage(models, log, wrong)
        assert found is not None
        assert not found.explains


def test_the_turn_is_told_and_too_many_ways_are_not_tried() -> None:
    models, log = [model(1, Rules()), model(2, Rules())], logged([event(time, 10 + time) for time in range(9)])
    memory = applied(models, [0] * 4 + [1] * 5, log)[-1]
    assert memory is not None
    found = find_passage(models, log, memory)
    assert found is not None
    assert (found.turns, found.sequence, found.explains) == ((4,), 9, True)
    assert find_passage(models, log, memory, most_steps=20) is None
    assert find_passage(models[:1], log, replace(memory, bundle_version=1), most_steps=20) is not None


@settings(max_examples=60)
@given(EVENTS, RULES, st.lists(st.integers(0, 2), min_size=12, max_size=12), st.booleans(), st.data())
def test_whatever_is_known_of_the_times_of_promotions_changes_no_verdict(
    events: list[BehaviourEvent], rules: Rules, turns: list[int], is_right: bool, data: st.DataObject
) -> None:
    models, log = [model(version, rules) for version in (1, 2, 3)], logged(events)
    log = [each._replace(log_time_ms=400 * each.log_time_ms) for each in log]
    memory = applied(models, sorted(turns[: len(log)]), log)[-1]
    assume(memory is not None)
    assert memory is not None
    if not is_right:
        state_F = memory.state_F.copy()
        state_F[-1] += 0.317
        memory = replace(memory, state_F=state_F)
    times = st.none() | st.integers(-5_000, 60_000)
    took_over_ms = data.draw(st.lists(times, min_size=3, max_size=3))
    straight, guided = find_passage(models, log, memory), find_passage(models, log, memory, took_over_ms=took_over_ms)
    assert straight is not None
    assert guided is not None
    assert guided.explains is straight.explains is is_right


def test_bundles_of_every_hour_are_told_by_the_times_at_which_they_were_promoted() -> None:
    bundles, draw = 24, random.Random(4)
    models = [model(1 + number, Rules(lateness_ms=1 << 40)) for number in range(1, 1 + bundles)]
    known_ms = [None, *(number * HOUR_MS for number in range(1, bundles))]
    # Each took over a little after that, as where a job lags.
    true_ms = [number * HOUR_MS + draw.randrange(20_000) for number in range(1, bundles)]
    times_ms = sorted(draw.randrange(bundles * HOUR_MS) for _ in range(4 * bundles))
    log = [Logged(event(at, 10 + at % 5), time_ms) for at, time_ms in enumerate(times_ms)]
    places = [bisect.bisect(true_ms, time_ms) for time_ms in times_ms]
    memory = applied(models, places, log)[-1]
    assert memory is not None
    found = find_passage(models, log, memory, took_over_ms=known_ms, most_steps=20_000)
    assert found is not None
    assert found.excess == 0
    assert find_passage(models, log, memory, most_steps=20_000) is None
