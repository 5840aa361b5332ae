"""What a warm-up reads (jobs/warm_up/read.py): of any file the events, and the dead letters, that `parse_event` sees in it."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.warm_up import inputs
from jobs.warm_up import read as module
from jobs.warm_up.inputs import Task
from jobs.warm_up.read import Left, read
from uic.errors import BadInput, InvalidEvent
from uic.event import BehaviourEvent, parse_event

ACCEPTED = frozenset({"click", "buy"})
FROM_MS, UNTIL_MS = 1000, 2000
GOOD: dict[str, Any] = {"user_id": "u1", "item_id": 7, "category_id": 3, "behaviour": "click", "time_ms": 1500}
TEXTS = st.sampled_from(["u1", "ü", "", "x" * 128, "x" * 129, "日" * 43])


@st.composite
def fields(draw: st.DrawFn) -> dict[str, Any]:
    """An event's fields, with now and then something wrong in one."""
    event = {**GOOD, "time_ms": draw(st.sampled_from([-1, 0, 999, 1000, 1500, 1999, 2000, 2**62]))}
    if draw(st.booleans()):
        event["event_id"] = draw(st.none() | TEXTS)
    if not draw(st.integers(0, 2)):
        event[draw(st.sampled_from(["user_id", "behaviour"]))] = draw(TEXTS | st.just("buy"))
    if not draw(st.integers(0, 4)):
        event[draw(st.sampled_from(sorted(GOOD)))] = None
    return event


def odd(event: dict[str, Any], kind: int) -> bytes:
    """The event as a line that is not plain, or none at all."""
    return [
        json.dumps({**event, "user_id": 5}).encode(),
        json.dumps({**event, "source": ""}).encode(),
        json.dumps({**event, "extra": {"deep": [1.5, None, "ü"]}}, ensure_ascii=False).encode(),
        json.dumps({**event, "item_id": 7.0}).encode(),
        json.dumps({**event, "item_id": 2**63}).encode(),
        b'{"note": "\xff", ' + json.dumps(event).encode()[1:],
        b" " + json.dumps(event).encode() + b"\r",
        b"{",
        b"\r",
        b"",
        b"  ",
    ][kind]


lines = st.lists(
    st.builds(odd, fields(), st.integers(0, 10)) | fields().map(lambda event: json.dumps(event).encode()), max_size=30
)


def tasks_of(path: Path, *, bytes_each: int) -> list[Task]:
    (source,) = inputs.find(str(path))
    starts = range(0, source.size, bytes_each)
    return [Task(number=0, input=source, begin=at, end=min(at + bytes_each, source.size), events=0) for at in starts]


def read_all(tasks: list[Task]) -> tuple[list[tuple[BehaviourEvent, int]], Left]:
    left = Left()
    events = []
    for task in tasks:
        for table in read(task, accepted=ACCEPTED, from_ms=FROM_MS, until_ms=UNTIL_MS, left=left):
            for row in table.to_pylist():
                place = row.pop("place")
                events.append((BehaviourEvent(user_id=row.pop("user"), **row), place))
    return events, left


def parsed(payloads: list[tuple[int, bytes]]) -> tuple[list[tuple[BehaviourEvent, int]], Counter[str], list[tuple[int, bytes]]]:
    """Event by event: those in the window with their places, the counts, and the dead ones' places and bytes."""
    events, dead = [], []
    counts: Counter[str] = Counter()
    for place, payload in payloads:
        try:
            event = parse_event(payload, now_ms=1 << 63, accepted=ACCEPTED)
        except InvalidEvent as error:
            counts[f"dead {error.reason}"] += 1
            dead.append((place, payload))
            continue
        if FROM_MS <= event.time_ms < UNTIL_MS:
            events.append((without_source(event), place))
        else:
            counts["before the window" if event.time_ms < FROM_MS else "after the window"] += 1
    return events, counts, dead


def without_source(event: BehaviourEvent) -> BehaviourEvent:
    return BehaviourEvent(**{name: getattr(event, name) for name in event.__struct_fields__ if name != "source"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("read")


@pytest.fixture(scope="module", autouse=True, params=[16 << 20, 100])
def block_bytes(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK_BYTES", request.param)
        yield


@given(lines, st.integers(1, 400), st.booleans())
def test_lines_are_what_parse_event_says_however_a_file_is_cut(
    folder: Path, lines: list[bytes], bytes_each: int, has_end: bool
) -> None:
    path = folder / "events.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n" * has_end)
    payloads, place = [], 0
    for line in lines:
        if payload := line.removesuffix(b"\r"):
            payloads.append((place, payload))
        place += len(line) + 1
    events, counts, dead = parsed(payloads)
    found, left = read_all(tasks_of(path, bytes_each=bytes_each))
    assert found == events
    assert +left.counts == +counts
    assert sorted((letter.offset, letter.payload) for letter in left.letters) == dead


@given(st.lists(fields(), min_size=1, max_size=30), st.sampled_from(["user", "user_id"]), st.integers(1, 7))
def test_a_parquet_file_is_what_its_rows_are_as_events(folder: Path, rows: list[dict[str, Any]], user: str, group: int) -> None:
    path = folder / "events.parquet"
    columns = {name: [row.get(name) for row in rows] for name in (*GOOD, "event_id")}
    columns[user] = columns.pop("user_id")
    types = {name: pa.int64() if name in ("item_id", "category_id", "time_ms") else pa.string() for name in columns}
    pq.write_table(
        pa.table({name: pa.array(values, types[name]) for name, values in columns.items()}), path, row_group_size=group
    )
    events, counts, _ = parsed([(place, json.dumps(row).encode()) for place, row in enumerate(rows)])
    (source,) = inputs.find(str(path))
    groups = -(-len(rows) // group)
    found, left = read_all([Task(number=0, input=source, begin=at, end=at + 1, events=0) for at in range(groups)])
    assert found == events
    assert +left.counts == +counts


def test_columns_of_other_types_are_taken_for_what_they_are(folder: Path) -> None:
    path = folder / "typed.parquet"
    table = pa.table(
        {
            "user_id": pa.array([17, 18], pa.int32()),
            "item_id": pa.array([7, 8], pa.uint32()),
            "category_id": pa.array([3, 3], pa.int8()),
            "behaviour": pa.array(["click", "buy"]).dictionary_encode(),
            "time_ms": pa.array([1_500_000, 1_600_999], pa.timestamp("us", tz="Asia/Shanghai")),
            "more": pa.array([1.5, 2.5]),
        }
    )
    pq.write_table(table, path)
    (task,) = inputs.cut(inputs.find(str(path)))
    events, _ = read_all([task])
    assert [(event.user_id, event.behaviour, event.time_ms) for event, _ in events] == [
        ("17", "click", 1500),
        ("18", "buy", 1600),
    ]


def test_files_that_are_no_history_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nowhere.*found none"):
        inputs.find(str(tmp_path / "nowhere"))
    with pytest.raises(BadInput, match="found none"):
        inputs.find(str(tmp_path))
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(BadInput, match=r"a\.csv.*\.jsonl.*\.csv"):
        inputs.find(str(tmp_path / "*"))
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(BadInput, match=r"bad\.parquet"):
        inputs.cut(inputs.find(str(tmp_path / "*.parquet")))
    pq.write_table(pa.table({"user": ["a"]}), tmp_path / "narrow.parquet")
    (task,) = inputs.cut(inputs.find(str(tmp_path / "narrow.parquet")))
    with pytest.raises(BadInput, match="behaviour, category_id, item_id, time_ms missing"):
        read_all([task])


def test_a_partitioned_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    for name in ("day=2/b.jsonl", "day=1/c.ndjson", "day=1/.hidden.jsonl", "_temporary/a.jsonl", "_SUCCESS", "a.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"{}")
    names = [str(Path(each.path).relative_to(tmp_path)) for each in inputs.find(str(tmp_path))]
    assert names == ["a.parquet", "day=1/c.ndjson", "day=2/b.jsonl"]
