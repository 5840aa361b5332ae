"""The behaviour event on the wire (uic/event.py): what is read back, and the reason of everything that is refused."""

import json
from typing import Any

import pytest
from drawn import event, events
from hypothesis import given, settings
from hypothesis import strategies as st

import uic.event
from uic.errors import InvalidEvent
from uic.event import MAX_EVENT_BYTES, BehaviourEvent, parse_event, to_json

NOW_MS = 1_700_000_000_000
GOOD: dict[str, Any] = {"user_id": "u1", "item_id": 42, "category_id": 7, "behaviour": "click", "time_ms": 1_500_000_000_000}
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)


def wire(**changes: Any) -> bytes:
    """A good event with fields changed; a field given as `...` is left out."""
    return json.dumps({name: value for name, value in {**GOOD, **changes}.items() if value is not ...}).encode()


def refusal(payload: bytes, **how: Any) -> InvalidEvent:
    with pytest.raises(InvalidEvent) as raised:
        parse_event(payload, **{"now_ms": NOW_MS, **how})
    return raised.value


@given(events)
def test_what_goes_over_the_wire_is_read_back_unchanged(event: BehaviourEvent) -> None:
    assert parse_event(to_json(event), now_ms=event.time_ms) == event


@given(events)
def test_an_event_is_one_line(event: BehaviourEvent) -> None:
    assert b"\n" not in to_json(event)
    assert b"\r" not in to_json(event)


def test_an_event_on_the_wire_is_these_very_bytes() -> None:
    assert to_json(event(event_id="e", user_id="ü\n")) == (
        '{"user_id":"ü\\n","item_id":10,"category_id":7,"behaviour":"click","time_ms":1000,"event_id":"e"}'.encode()
    )


def test_field_order_and_unknown_fields_make_no_difference() -> None:
    backwards = json.dumps({**dict(reversed(GOOD.items())), "page": {"deep": [1]}}).encode()
    assert parse_event(backwards, now_ms=NOW_MS) == parse_event(wire(), now_ms=NOW_MS)


@given(st.integers(-(2**70), 2**70))
def test_a_whole_number_as_user_id_is_kept_as_its_text(number: int) -> None:
    assert parse_event(wire(user_id=number), now_ms=NOW_MS).user_id == str(number)


def test_optional_fields_that_are_null_are_absent() -> None:
    read = parse_event(wire(event_id=None, source=None), now_ms=NOW_MS)
    assert (read.event_id, read.source) == (None, None)


REFUSED = [
    (b"", "bad_json", "expected a JSON object"),
    (b"{", "bad_json", "expected a JSON object, got {"),
    (b"[1]", "bad_json", r"expected a JSON object, got \[1\]"),
    (b'"text"', "bad_json", "expected a JSON object"),
    (b"null", "bad_json", "expected a JSON object, got null"),
    (wire() + wire(), "bad_json", "Extra data"),
    (wire(item_id=float("nan")), "bad_json", "NaN is not JSON"),
    (wire(time_ms=float("inf")), "bad_json", "Infinity is not JSON"),
    (wire(page=float("-inf")), "bad_json", "-Infinity is not JSON"),
    (b'{"time_ms":' + b"9" * 5000 + b"}", "bad_json", "5012 characters"),
    (b"[" * 100_000, "bad_json", "nested too deeply"),
    (b'{"user_id":' * 90_000, "bad_json", "nested too deeply"),
    (b"\xef\xbb\xbf" + wire(), "bad_json", "Expecting value: line 1 column 1"),
    (b'{"user_id": "\xff"}', "bad_encoding", "expected UTF-8, got byte 0xff at 13"),
    (wire().decode().encode("utf-16"), "bad_encoding", "got byte 0xff at 0"),
    (wire(user_id="\ud800"), "bad_encoding", r"user_id: expected text that UTF-8 can write, got '\\ud800'"),
    (wire(source="a\udfff"), "bad_encoding", "source: "),
    (b" " * (MAX_EVENT_BYTES + 1), "too_large", f"at most {MAX_EVENT_BYTES} bytes, got {MAX_EVENT_BYTES + 1}"),
    (b"{}", "missing_field", "user_id: missing; the event has no fields"),
    (wire(user_id=""), "bad_length", "user_id: expected 1 to 128 UTF-8 bytes, got 0"),
    (wire(user_id="x" * 129), "bad_length", "expected 1 to 128 UTF-8 bytes, got 129"),
    (wire(user_id="é" * 64 + "x"), "bad_length", "got 129"),
    (wire(user_id="𝄞" * 33), "bad_length", "got 132"),
    (wire(user_id=10**128), "bad_length", "got 129"),
    (wire(behaviour=""), "bad_length", "behaviour: "),
    (wire(event_id=""), "bad_length", "event_id: "),
    (wire(source="x" * 129), "bad_length", "source: "),
    (wire(item_id=2**63), "out_of_range", f"item_id: expected a 64-bit integer, got {2**63}"),
    (wire(category_id=-(2**63) - 1), "out_of_range", "category_id: "),
    (wire(time_ms=2**63), "out_of_range", "time_ms: "),
    (wire(time_ms=-1), "negative_time", "expected milliseconds since 1970, got -1"),
    (wire(time_ms=NOW_MS + 86_400_001), "time_in_future", "86400 s ahead of the clock, allowed are 86400 s"),
]


@pytest.mark.parametrize(
    ("payload", "reason", "message"), REFUSED, ids=[f"{reason}: {message}"[:40] for _, reason, message in REFUSED]
)
def test_each_invalid_event_has_its_reason_and_says_what_came(payload: bytes, reason: str, message: str) -> None:
    error = refusal(payload)
    assert error.reason == reason
    with pytest.raises(InvalidEvent, match=message):
        raise error


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("absent", [..., None])
def test_a_missing_or_null_field_is_named(name: str, absent: object) -> None:
    error = refusal(wire(**{name: absent}))
    assert error.reason == "missing_field"
    assert str(error).startswith(f"{name}: missing; the event has ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("user_id", value) for value in (True, 1.0, 1.5, [], {}, ["u1"])),
        *((name, value) for name in ("item_id", "category_id", "time_ms") for value in (True, False, 1.0, "1", "", [], {})),
        *(("behaviour", value) for value in (1, True, 1.5, [], {})),
        *((name, value) for name in ("event_id", "source") for value in (True, 1.5, [], {})),
        ("time_ms", "2017-11-24 12:00:00"),
    ],
)
def test_a_field_of_a_wrong_type_is_named_with_its_value(name: str, value: object) -> None:
    error = refusal(wire(**{name: value}))
    assert (error.reason, str(error).split(":")[0]) == ("wrong_type", name)
    assert repr(value) in str(error)


@pytest.mark.parametrize("user_id", ["x", "x" * 128, "é" * 64, "𝄞" * 32, " ", "\0", "10", 10**128 - 1])
def test_user_ids_of_1_to_128_utf8_bytes_are_accepted(user_id: str | int) -> None:
    assert parse_event(wire(user_id=user_id), now_ms=NOW_MS).user_id == str(user_id)


@pytest.mark.parametrize("limit", [-(2**63), 2**63 - 1, 0])
def test_ids_reach_over_all_64_bits(limit: int) -> None:
    read = parse_event(wire(item_id=limit, category_id=limit), now_ms=NOW_MS)
    assert (read.item_id, read.category_id) == (limit, limit)


def test_a_time_is_accepted_from_zero_up_to_the_allowed_lead_exactly() -> None:
    assert parse_event(wire(time_ms=0), now_ms=NOW_MS).time_ms == 0
    assert parse_event(wire(time_ms=NOW_MS + 5), now_ms=NOW_MS, max_ahead_ms=5).time_ms == NOW_MS + 5
    assert refusal(wire(time_ms=NOW_MS + 6), max_ahead_ms=5).reason == "time_in_future"


def test_only_the_behaviours_of_the_bundle_are_accepted() -> None:
    error = refusal(wire(behaviour="Click"), accepted=frozenset({"click", "buy"}))
    assert error.reason == "behaviour_not_accepted"
    assert str(error) == "behaviour: the bundle accepts buy, click, got 'Click'"
    assert parse_event(wire(), now_ms=NOW_MS, accepted=frozenset({"click"})).behaviour == "click"


def test_the_largest_event_is_still_read() -> None:
    padding = MAX_EVENT_BYTES - len(wire(page=""))
    assert parse_event(wire(page="x" * padding), now_ms=NOW_MS).item_id == 42


@pytest.mark.parametrize(
    "payload",
    [
        b'{"\\ud800": 1}',
        json.dumps({"k" * 500_000: 1}).encode(),
        wire(user_id="\ud800" * 9999),
        wire(item_id="x" * 500_000),
        b"x" * 500_000,
        wire(behaviour="\x00\x1b[31m\ud800"),
    ],
)
def test_a_refusal_can_be_written_down_and_stays_short_whatever_the_event_held(payload: bytes) -> None:
    message = str(refusal(payload, accepted=frozenset({"click"})))
    assert len(message.encode()) < 1000


@given(st.binary(max_size=200))
def test_any_bytes_either_parse_or_are_an_invalid_event(payload: bytes) -> None:
    _parse_or_refuse(payload)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from([*GOOD, "event_id", "source", "other"]), JSON_VALUES))
def test_any_json_object_either_parses_or_is_an_invalid_event(fields: dict[str, Any]) -> None:
    _parse_or_refuse(json.dumps({**GOOD, **fields}).encode())


@given(st.binary(max_size=3), st.integers(0, 100))
def test_an_event_with_bytes_altered_either_parses_or_is_an_invalid_event(junk: bytes, at: int) -> None:
    _parse_or_refuse(wire()[:at] + junk + wire()[at + len(junk) :])


def _parse_or_refuse(payload: bytes) -> None:
    try:
        read = parse_event(payload, now_ms=NOW_MS)
    except InvalidEvent as error:
        str(error).encode()
        assert error.reason.isidentifier()  # noqa: PT017  # either way is right
    else:
        assert parse_event(to_json(read), now_ms=NOW_MS) == read


@given(st.dictionaries(st.sampled_from(["user_id", "item_id", "behaviour", "time_ms", "event_id", "source", "x"]), JSON_VALUES))
@settings(max_examples=400)
def test_the_short_way_of_reading_gives_what_the_checked_one_gives(changes: dict[str, Any]) -> None:
    payload = json.dumps({**GOOD, **changes}).encode()
    plain = uic.event._plain_event(payload)  # its own answer is not to be seen from outside
    if plain is not None:
        assert plain == uic.event._checked_event(payload)


@given(st.binary(min_size=1, max_size=3), st.integers(0, 200))
@settings(max_examples=400)
def test_the_short_way_reads_no_bytes_that_the_checked_one_refuses(garbage: bytes, at: int) -> None:
    good = wire(event_id="e1", page="x")
    payload = good[:at] + garbage + good[at + len(garbage) :]
    plain = uic.event._plain_event(payload)
    if plain is not None:
        assert plain == uic.event._checked_event(payload)
