"""The events of one task as columns: what is plain is taken column by column, whatever is not is asked of `parse_event`.

So a history knows the same events and the same dead letters as the stream, and reads most of them many times faster.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.warm_up.inputs import Task
from uic.errors import BadInput, InvalidEvent
from uic.event import MAX_EVENT_BYTES, MAX_TEXT_BYTES, BehaviourEvent, parse_event
from uic.letters import Letter
from uic.warm.history import Int64

MOST_LETTERS = 10_000
SCHEMA = pa.schema(
    [
        ("user", pa.string()),
        ("time_ms", pa.int64()),
        ("item_id", pa.int64()),
        ("category_id", pa.int64()),
        ("behaviour", pa.string()),
        ("event_id", pa.string()),
        ("place", pa.int64()),  # of the event in its file: the byte of its line, or its row
    ]
)
_NO_CLOCK = 1 << 63  # what lies ahead is not of this history anyway
# pyarrow imports pandas, where it is installed, with the first values that it hands to numpy.
pa.array([0]).to_numpy()
_LINE = msgspec.json.Decoder(BehaviourEvent)
_CHUNK = 128
_ROWS = 1 << 18
_BLOCK_BYTES = 16 << 20


@dataclass
class Left:
    """What a task or a partition did not apply: letters, of each kind at most MOST_LETTERS, and counts, which are complete."""

    counts: Counter[str] = field(default_factory=Counter)
    letters: list[Letter] = field(default_factory=list)

    def leave(self, letter: Letter) -> None:
        name = f"{letter.kind} {letter.reason}" if letter.kind == "dead" else letter.kind
        self.counts[name] += 1
        if self.counts[name] <= MOST_LETTERS:
            self.letters.append(letter)


def read(task: Task, *, accepted: frozenset[str], from_ms: int, until_ms: int, left: Left) -> Iterator[pa.Table]:
    """The events of the task with from_ms <= time_ms < until_ms, some at a time, as SCHEMA says; the others are counted."""
    tables = _rows(task, accepted, left) if task.input.is_parquet else _lines(task, accepted, left)
    for table in tables:
        times = table.column("time_ms")
        early, late = pc.less(times, from_ms), pc.greater_equal(times, until_ms)
        for name, outside in (("before the window", early), ("after the window", late)):
            left.counts[name] += pc.sum(outside).as_py() or 0
        yield table.filter(pc.invert(pc.or_(early, late)))


def _lines(task: Task, accepted: frozenset[str], left: Left) -> Iterator[pa.Table]:
    with Path(task.input.path).open("rb") as file:
        for places, lines in _blocks(file, task.begin, task.end):
            kept, events = _decoded(task, places, lines, left)
            table = pa.table(
                {
                    "user": pa.array([event.user_id for event in events], pa.string()),
                    "time_ms": pa.array([event.time_ms for event in events], pa.int64()),
                    "item_id": pa.array([event.item_id for event in events], pa.int64()),
                    "category_id": pa.array([event.category_id for event in events], pa.int64()),
                    "behaviour": pa.array([event.behaviour for event in events], pa.string()),
                    "event_id": pa.array([event.event_id for event in events], pa.string()),
                    "place": pa.array(places[kept]),
                }
            )
            source = pa.array([event.source for event in events], pa.string())
            is_sound = pc.and_(_is_sound(table, accepted), _is_text(source, or_null=True))
            for at in _indices(pc.invert(is_sound)):
                _refuse(task, int(places[kept[at]]), lines[kept[at]], accepted, left)
            yield table.filter(is_sound)


def _blocks(file: BinaryIO, begin: int, end: int) -> Iterator[tuple[Int64, list[bytes]]]:
    """Lines that begin in [begin, end), without their ends, and their places, some at a time; an empty line is none."""
    # A line that begins before is read by whoever has its beginning.
    file.seek(max(0, begin - 1))
    place = begin if begin == 0 else begin - 1 + len(file.readline())
    rest = b""
    while place < end:
        data = file.read(_BLOCK_BYTES)
        block = rest + data
        # The last line of a file may have no end.
        cut = block.rfind(b"\n") + 1 if data else len(block)
        rest = block[cut:]
        if cut > 0:
            yield _split(block[:cut], place, end)
            place += cut
        elif not data:
            return


def _split(block: bytes, place: int, end: int) -> tuple[Int64, list[bytes]]:
    lines = block.removesuffix(b"\n").split(b"\n")
    sizes = np.fromiter(map(len, lines), dtype=np.int64, count=len(lines))
    places = place + np.cumsum(sizes + 1) - (sizes + 1)
    if b"\r" in block:
        lines = [line.removesuffix(b"\r") for line in lines]
    if places[-1] >= end or not all(lines):
        wanted = [at for at, line in enumerate(lines) if line and places[at] < end]
        places, lines = places[wanted], [lines[at] for at in wanted]
    return places, lines


def _decoded(task: Task, places: Int64, lines: list[bytes], left: Left) -> tuple[list[int], list[BehaviourEvent]]:
    """The events of the lines that are events, and which lines they are; their values are not checked yet."""
    decode = _LINE.decode
    kept: list[int] = []
    events: list[BehaviourEvent] = []
    for start in range(0, len(lines), _CHUNK):
        chunk = lines[start : start + _CHUNK]
        try:
            # From bytes msgspec would pass over wrong UTF-8 in fields that it skips.
            decoded = [decode(line if line.isascii() else line.decode()) for line in chunk]
            if max(map(len, chunk)) <= MAX_EVENT_BYTES:
                events += decoded
                kept += range(start, start + len(chunk))
                continue
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            pass
        for at, line in enumerate(chunk, start):
            try:
                events.append(parse_event(line, now_ms=_NO_CLOCK))
                kept.append(at)
            except InvalidEvent as error:
                left.leave(_letter(task, int(places[at]), line, error))
    return kept, events


def _rows(task: Task, accepted: frozenset[str], left: Left) -> Iterator[pa.Table]:
    with pq.ParquetFile(task.input.path) as file:
        names = _columns(file.schema_arrow, task.input.path)
        place = sum(file.metadata.row_group(group).num_rows for group in range(task.begin))
        for batch in file.iter_batches(_ROWS, row_groups=list(range(task.begin, task.end)), columns=list(names.values())):
            raw = pa.table({name: batch.column(theirs) for name, theirs in names.items()})
            columns = {name: _cast(raw.column(name), name, task.input.path) for name in names}
            columns.setdefault("event_id", pa.nulls(len(raw), pa.string()))
            columns["place"] = pa.array(np.arange(place, place + len(raw)))
            columns["user"] = columns.pop("user_id")
            table = pa.table({name: columns[name] for name in SCHEMA.names})
            is_sound = _is_sound(table, accepted)
            wrong = _indices(pc.invert(is_sound))
            for at, row in zip(wrong, table.take(wrong).to_pylist() if wrong else [], strict=True):
                row["user_id"] = row.pop("user")
                fields = {name: value for name, value in row.items() if value is not None and name != "place"}
                _refuse(task, place + at, json.dumps(fields, ensure_ascii=False).encode(), accepted, left)
            yield table.filter(is_sound) if wrong else table
            place += len(raw)


def _columns(schema: pa.Schema, path: str) -> dict[str, str]:
    """What each field of an event is called in a Parquet file; the dataset's own name for the user is `user`."""
    names = {"user_id": "user_id" if "user_id" in schema.names else "user"}
    names |= {name: name for name in ("item_id", "category_id", "behaviour", "time_ms")}
    missing = sorted(name for name, theirs in names.items() if theirs not in schema.names)
    if missing:
        raise BadInput(f"{path}: expected columns named as an event's fields; {', '.join(missing)} missing in {schema.names}")
    return names | ({"event_id": "event_id"} if "event_id" in schema.names else {})


def _cast(column: pa.ChunkedArray, name: str, path: str) -> pa.ChunkedArray:
    wanted = pa.int64() if name in ("item_id", "category_id", "time_ms") else pa.string()
    try:
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("ms", column.type.tz), safe=False)
        elif pa.types.is_floating(column.type) or pa.types.is_boolean(column.type):
            raise BadInput(f"{path}: {name}: expected {wanted}, got {column.type}")
        return column.cast(wanted)
    except pa.ArrowException as error:
        raise BadInput(f"{path}: {name}: expected {wanted}, got {column.type}: {error}") from error


def _is_sound(table: pa.Table, accepted: frozenset[str]) -> pa.ChunkedArray:
    """Where `parse_event` would have nothing against the values."""
    checks = [
        _is_text(table.column("user")),
        _is_text(table.column("behaviour")),
        _is_text(table.column("event_id"), or_null=True),
        pc.is_in(table.column("behaviour"), value_set=pa.array(sorted(accepted), pa.string())),
        pc.fill_null(pc.greater_equal(table.column("time_ms"), 0), False),
        pc.is_valid(table.column("item_id")),
        pc.is_valid(table.column("category_id")),
    ]
    sound = checks[0]
    for check in checks[1:]:
        sound = pc.and_(sound, check)
    return sound


def _is_text(column: pa.ChunkedArray, *, or_null: bool = False) -> pa.ChunkedArray:
    size = pc.binary_length(column)
    return pc.fill_null(pc.and_(pc.greater_equal(size, 1), pc.less_equal(size, MAX_TEXT_BYTES)), or_null)


def _indices(mask: pa.ChunkedArray) -> list[int]:
    found: list[int] = np.flatnonzero(mask.to_numpy()).tolist()
    return found


def _refuse(task: Task, place: int, payload: bytes, accepted: frozenset[str], left: Left) -> None:
    try:
        event = parse_event(payload, now_ms=_NO_CLOCK, accepted=accepted)
    except InvalidEvent as error:
        left.leave(_letter(task, place, payload, error))
    else:
        raise AssertionError(f"columns and parse_event do not agree on {event}")


def _letter(task: Task, place: int, payload: bytes, error: InvalidEvent) -> Letter:
    return Letter(task.input.path, place, "dead", error.reason, str(error), None, payload)
