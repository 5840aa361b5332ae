"""What is left out after a rollback, and by which rule."""

from dataclasses import replace
from pathlib import Path

import pytest
from drawn import INT64, TIMES, event, events, texts
from hypothesis import given
from hypothesis import strategies as st

from uic.errors import BadInput, InvalidEvent
from uic.event import BehaviourEvent
from uic.quarantine import Quarantine

spans = st.tuples(TIMES, TIMES)
rules = {
    "from_ms": TIMES,
    "users": st.frozensets(texts(), max_size=3),
    "items": st.frozensets(INT64, max_size=3),
    "sources": st.frozensets(texts(), max_size=3),
    "between_ms": st.lists(spans, max_size=3).map(tuple),
}
quarantines = st.recursive(
    st.builds(Quarantine, **rules), lambda before: st.builds(Quarantine, before=before, **rules), max_leaves=3
)


def reason(quarantine: Quarantine, one: BehaviourEvent, log_time_ms: int) -> str | None:
    try:
        quarantine.check(one, log_time_ms)
    except InvalidEvent as error:
        return error.reason
    return None


@given(quarantines)
def test_a_quarantine_written_and_read_is_the_same(tmp_path_factory: pytest.TempPathFactory, quarantine: Quarantine) -> None:
    path = tmp_path_factory.mktemp("quarantine") / "quarantine.json"
    path.write_text(quarantine.to_json())
    assert Quarantine.read(path) == quarantine


@given(quarantines, events, TIMES)
def test_nothing_from_before_the_cut_is_left_out(quarantine: Quarantine, one: BehaviourEvent, log_time_ms: int) -> None:
    if quarantine.before is None and log_time_ms < quarantine.from_ms:
        assert reason(quarantine, one, log_time_ms) is None


@given(quarantines, quarantines, events, TIMES)
def test_rules_of_earlier_cuts_hold_on_and_those_of_the_cut_or_later_are_gone(
    earlier: Quarantine, new: Quarantine, one: BehaviourEvent, log_time_ms: int
) -> None:
    both = new.after(earlier)
    chain = [both]
    while chain[-1].before is not None:
        chain.append(chain[-1].before)
    assert all(each.from_ms < new.from_ms for each in chain[1:2])
    if earlier.from_ms < new.from_ms:
        assert both.before == earlier
        left_out = reason(replace(new, before=None), one, log_time_ms) or reason(earlier, one, log_time_ms)
        assert (reason(both, one, log_time_ms) is None) == (left_out is None)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"users": frozenset({"u1"})}, "quarantined_user"),
        ({"items": frozenset({10})}, "quarantined_item"),
        ({"sources": frozenset({"app"})}, "quarantined_source"),
        ({"between_ms": ((500, 1000), (2000, 2001))}, "quarantined_time"),
    ],
)
def test_each_rule_leaves_out_from_the_cut_on_and_names_itself(rule: dict[str, object], expected: str) -> None:
    quarantine = Quarantine(from_ms=2000, **rule)  # type: ignore[arg-type]  # one of its fields
    one = event(user_id="u1", item_id=10, source="app")
    other = event(user_id="u2", item_id=11, source=None)
    assert reason(quarantine, one, 2000) == expected
    assert reason(quarantine, one, 1999) is None
    assert reason(quarantine, other, 2001) is None
    assert not quarantine.is_empty
    assert Quarantine(from_ms=1).is_empty


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"from_ms": 1}', '{"from_ms":"x","users":[],"items":[],"sources":[],"between_ms":[]}']
)
def test_a_file_that_is_no_quarantine_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "quarantine.json"
    path.write_text(text)
    with pytest.raises(BadInput, match=r"quarantine\.json: the quarantine cannot be read"):
        Quarantine.read(path)
