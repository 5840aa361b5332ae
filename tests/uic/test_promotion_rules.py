"""Which bundle may follow which in a running job (uic/promotion.py): laws first, then the words of a refusal."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uic.promotion import Standing, is_too_far, migration_plan, needs_migration, refusals, skew_h
from uic.vocabulary import Vocabulary

IDS = st.lists(st.integers(1, 50), unique=True, max_size=8)


def vocabulary(ids: list[int]) -> Vocabulary:
    return Vocabulary(np.array(ids, dtype=np.int64))


def standing(**changes: Any) -> Standing:
    fields: dict[str, Any] = {
        "version": 10,
        "layout": "a1",
        "lineage": "one",
        "behaviours": frozenset({"click", "buy"}),
        "items": vocabulary([3, 1]),
        "categories": vocabulary([7]),
    }
    return Standing(**{**fields, **changes})


@st.composite
def standings(draw: st.DrawFn) -> Standing:
    return standing(
        version=draw(st.integers(1, 5)),
        layout=draw(st.sampled_from("ab")),
        lineage=draw(st.sampled_from("xy")),
        behaviours=draw(st.frozensets(st.sampled_from(["click", "buy"]), min_size=1)),
        items=vocabulary(draw(IDS)),
        categories=vocabulary(draw(IDS)),
    )


@given(standings())
def test_every_bundle_may_follow_itself(bundle: Standing) -> None:
    assert refusals(bundle, bundle) == []


@given(standings(), standings(), standings())
def test_what_may_follow_a_follower_may_follow_the_first(first: Standing, second: Standing, third: Standing) -> None:
    if not refusals(first, second) and not refusals(second, third):
        assert refusals(first, third) == []


@given(standings(), IDS, IDS, st.integers(0, 3))
def test_training_on_from_a_bundle_always_makes_a_successor(
    parent: Standing, items: list[int], categories: list[int], later: int
) -> None:
    child = dataclasses.replace(
        parent,
        version=parent.version + later,
        items=parent.items.extended(np.array(items, dtype=np.int64)),
        categories=parent.categories.extended(np.array(categories, dtype=np.int64)),
        behaviours=parent.behaviours | {"cart"},
    )
    assert refusals(parent, child) == []


@given(standings(), standings())
def test_no_row_of_the_active_bundle_means_another_id_in_a_successor(active: Standing, new: Standing) -> None:
    if not refusals(active, new):
        for old, ids in ((active.items, new.items), (active.categories, new.categories)):
            assert ids.rows(old.ids).tolist() == old.rows(old.ids).tolist()


@given(standings(), standings())
def test_another_memory_space_is_always_refused(active: Standing, new: Standing) -> None:
    if needs_migration(active, new):
        assert refusals(active, new) != []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layout": "b2"}, "memories of layout b2, the job's are of layout a1"),
        ({"lineage": "two"}, "it is of lineage two, the job's memories are of one"),
        ({"version": 9}, "version 9 is older than the active 10: to go back, stop the job and resume"),
        ({"items": vocabulary([1, 3])}, "its items do not begin with the 2 of the active bundle"),
        ({"categories": vocabulary([])}, "its categories do not begin with the 1 of the active bundle"),
        ({"behaviours": frozenset({"buy"})}, "does not accept the behaviour click any more"),
    ],
)
def test_a_refusal_says_its_reason_in_a_sentence(changes: dict[str, Any], said: str) -> None:
    (reason,) = refusals(standing(), standing(**changes))
    assert said in reason
    assert reason.endswith(".")


def test_several_reasons_are_all_said() -> None:
    assert len(refusals(standing(), standing(version=1, items=vocabulary([9]), behaviours=frozenset({"buy"})))) == 3


def test_the_plan_between_two_memory_spaces_names_both_bundles_and_ends_with_the_old_one_retired() -> None:
    plan = migration_plan(10, 20)
    assert "20" in plan[0]
    assert "10" in plan[-1]
    assert [line[:2] for line in plan] == ["1.", "2.", "3.", "4.", "5."]


@given(st.integers(-(1 << 41), 1 << 41), st.integers(-(1 << 41), 1 << 41), st.floats(0, 1e6))
def test_skew_has_a_sign_and_its_limit_has_none(writer_ms: int, reader_ms: int, limit_h: float) -> None:
    there, back = skew_h(writer_ms, reader_ms), skew_h(reader_ms, writer_ms)
    assert there == -back
    assert is_too_far(there, limit_h) == is_too_far(back, limit_h)
    assert not is_too_far(skew_h(writer_ms, writer_ms), limit_h)
