"""Lines that were written alike, read as columns: what comes is what the events are, or nothing."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.warm_up.alike import columns_of
from uic.errors import InvalidEvent
from uic.event import BehaviourEvent, parse_event

FIELDS = ("user_id", "item_id", "category_id", "behaviour", "time_ms", "event_id", "source")
text = st.text(st.characters(exclude_characters='"\\', exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)
numbers = st.integers(0, (1 << 63) - 1)
events = st.fixed_dictionaries(
    {"user_id": text, "item_id": numbers, "category_id": numbers, "behaviour": text, "time_ms": numbers, "event_id": text}
)
separators = st.sampled_from([(",", ":"), (", ", ": "), (",", ": ")])


def columns(lines: list[bytes], end: bytes = b"\n") -> list[dict[str, Any]] | None:
    sizes = np.array([len(line) for line in lines])
    starts_N = np.cumsum(sizes + len(end)) - sizes - len(end)
    found = columns_of(end.join(lines) + end, starts_N, starts_N + sizes)
    if found is None:
        return None
    return [dict(zip(found, row, strict=True)) for row in zip(*(each.to_pylist() for each in found.values()), strict=True)]


def fields_of(event: BehaviourEvent) -> dict[str, Any]:
    return {name: getattr(event, name) for name in FIELDS}


@settings(max_examples=100, deadline=None)
@given(st.lists(events, min_size=1, max_size=6), separators, st.permutations(FIELDS[:6]), st.sampled_from([b"\n", b"\r\n"]))
def test_however_a_program_writes_them_they_are_read(
    rows: list[dict[str, Any]], separators: tuple[str, str], order: list[str], end: bytes
) -> None:
    lines = [
        json.dumps({name: row[name] for name in order}, separators=separators, ensure_ascii=False).encode() for row in rows
    ]
    assert columns(lines, end) == [{name: row[name] for name in order} for row in rows]


@settings(max_examples=400, deadline=None)
@given(
    st.lists(events, min_size=1, max_size=3), st.integers(0, 2), st.integers(0, 400), st.binary(max_size=3), st.integers(0, 3)
)
def test_where_a_byte_is_another_one_nothing_is_read_that_the_lines_do_not_say(
    rows: list[dict[str, Any]], at: int, place: int, put: bytes, instead: int
) -> None:
    lines = [json.dumps(row, separators=(",", ":"), ensure_ascii=False).encode() for row in rows]
    line = lines[at % len(lines)]
    place %= len(line)
    lines[at % len(lines)] = line[:place] + put.replace(b"\n", b"") + line[place + instead :]
    if not all(line.startswith(b"{") and line.endswith(b"}") for line in lines):
        return  # asked before
    found = columns(lines)
    if found is None:
        return
    for line, row in zip(lines, found, strict=True):
        if row["user_id"] and row["behaviour"] and row["event_id"]:
            assert fields_of(parse_event(line, now_ms=1 << 63)) == {"source": None, **row}
        else:  # an empty text is nobody's; the columns are asked for that afterwards
            with pytest.raises(InvalidEvent):
                parse_event(line, now_ms=1 << 63)


@pytest.mark.parametrize(
    "line",
    [
        b'{"user_id":"u","item_id":01,"category_id":2,"behaviour":"pv","time_ms":7}',
        b'{"user_id":"u","item_id":-1,"category_id":2,"behaviour":"pv","time_ms":7}',
        b'{"user_id":"u","item_id":9223372036854775808,"category_id":2,"behaviour":"pv","time_ms":7}',
        b'{"user_id":"u","item_id":1,"item_id":1,"category_id":2,"behaviour":"pv","time_ms":7}',
        b'{"user_id":"u","item_id":1,"category_id":2,"behaviour":"pv","time_ms":7,"more":{}}',
        b'{"user_id":7,"item_id":1,"category_id":2,"behaviour":"pv","time_ms":7}',
        b'{"user_id":"u","item_id":1,"category_id":2,"behaviour":"pv"}',
        b'{"user_id":"u\\u0041","item_id":1,"category_id":2,"behaviour":"pv","time_ms":7}',
        b'{"user_id":"\xff","item_id":1,"category_id":2,"behaviour":"pv","time_ms":7}',
        b'{"user_id":"\t","item_id":1,"category_id":2,"behaviour":"pv","time_ms":7}',
    ],
)
def test_what_only_the_decoder_can_judge_is_left_to_it(line: bytes) -> None:
    plain = b'{"user_id":"u","item_id":1,"category_id":2,"behaviour":"pv","time_ms":7}'
    assert columns([plain]) is not None
    for lines in ([line], [plain, line], [line, plain]):
        assert columns(lines) is None
