"""The events of one task as columns: what is plain is taken column by column, whatever is not is asked of `parse_event`.

So a history knows the same events and the same dead letters as the stream, and reads most of them many times faster.
"""

import copy
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.warm_up.alike import columns_of
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
_PIECE = 1 << 15
_CHUNK = 512
_NEWLINE, _RETURN, _OPENS, _CLOSES = b"\n\r{}"
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
        outside = 0
        for name, is_outside in (("before the window", early), ("after the window", late)):
            count = pc.sum(is_outside).as_py() or 0
            left.counts[name] += count
            outside += count
        yield table.filter(pc.invert(pc.or_(early, late))) if outside else table


def _lines(task: Task, accepted: frozenset[str], left: Left) -> Iterator[pa.Table]:
    with Path(task.input.path).open("rb") as file:
        for block in _blocks(file, task.begin, task.end):
            for start in range(0, len(block), _PIECE):
                lines = block.part(start, start + _PIECE)
                columns, places_N = lines.columns() or _decoded(task, lines, left)
                table = pa.table({**{name: columns[name] for name in SCHEMA.names[:-1]}, "place": pa.array(places_N)})
                is_sound = pc.and_(_is_sound(table, accepted), _is_text(columns["source"], or_null=True))
                wrong = _indices(pc.invert(is_sound))
                for at in wrong:
                    place = int(places_N[at])
                    _refuse(task, place, lines.at(place), accepted, left)
                yield table.filter(is_sound) if wrong else table


class Lines:
    """Some lines of a file. Line n is `block[starts_N[n]:ends_N[n]]`, without its end; the block begins at byte `begin`."""

    def __init__(self, block: bytes, begin: int, end: int) -> None:
        """Those of a block of whole lines that begin before byte `end` of the file; an empty line is none."""
        bytes_N = np.frombuffer(block, dtype=np.uint8)
        ends_N = np.flatnonzero(bytes_N == _NEWLINE)
        if not block.endswith(b"\n"):  # the last line of a file may have no end
            ends_N = np.append(ends_N, len(block))
        starts_N = np.concatenate([[0], ends_N[:-1] + 1])
        ends_N = ends_N - (bytes_N[ends_N - 1] == _RETURN)
        is_line_N = (ends_N > starts_N) & (begin + starts_N < end)
        if not is_line_N.all():
            starts_N, ends_N = starts_N[is_line_N], ends_N[is_line_N]
        self.block, self.begin, self.starts_N, self.ends_N = block, begin, starts_N, ends_N
        is_object_N = (bytes_N[starts_N] == _OPENS) & (bytes_N[ends_N - 1] == _CLOSES)
        self.is_plain_N = is_object_N & (ends_N - starts_N <= MAX_EVENT_BYTES)

    def part(self, start: int, end: int) -> "Lines":
        some = copy.copy(self)
        for name in ("starts_N", "ends_N", "is_plain_N"):
            setattr(some, name, getattr(self, name)[start:end])
        return some

    def __len__(self) -> int:
        return len(self.starts_N)

    def __getitem__(self, at: int) -> bytes:
        return self.block[self.starts_N[at] : self.ends_N[at]]

    def at(self, place: int) -> bytes:
        """The line that begins at this byte of the file."""
        return self[int(np.searchsorted(self.starts_N, place - self.begin))]

    @property
    def places_N(self) -> Int64:
        return self.begin + self.starts_N

    def columns(self) -> tuple[dict[str, pa.Array], Int64] | None:
        """The fields of lines that were all written alike, and where each is; None where they were not."""
        if not self.is_plain_N.all():
            return None
        found = columns_of(self.block, self.starts_N, self.ends_N)
        if found is None:
            return None
        found["user"] = found.pop("user_id")
        return {name: pa.nulls(len(self), pa.string()) for name in ("event_id", "source")} | found, self.places_N


def _blocks(file: BinaryIO, begin: int, end: int) -> Iterator[Lines]:
    """Lines that begin in [begin, end), some at a time."""
    # A line that begins before is read by whoever has its beginning.
    file.seek(max(0, begin - 1))
    place = begin if begin == 0 else begin - 1 + len(file.readline())
    rest = b""
    while place < end:
        data = file.read(_BLOCK_BYTES)
        block = rest + data
        cut = block.rfind(b"\n") + 1 if data else len(block)
        rest = block[cut:]
        if cut > 0:
            yield Lines(block[:cut], place, end)
            place += cut
        elif not data:
            return


def _decoded(task: Task, lines: Lines, left: Left) -> tuple[dict[str, pa.Array], Int64]:
    """The fields of the lines that are events, and where those are; their values are not checked yet."""
    kept: list[int] = []
    events: list[BehaviourEvent] = []
    for start in range(0, len(lines), _CHUNK):
        end = min(start + _CHUNK, len(lines))
        found = _decoded_together(lines, start, end)
        if found is not None:
            events += found
            kept += range(start, end)
            continue
        for at in range(start, end):
            try:
                events.append(parse_event(lines[at], now_ms=_NO_CLOCK))
                kept.append(at)
            except InvalidEvent as error:
                left.leave(_letter(task, int(lines.places_N[at]), lines[at], error))
    columns = {
        theirs: pa.array(list(map(attrgetter(ours), events)), kind)
        for theirs, ours, kind in (
            ("user", "user_id", pa.string()), ("behaviour", "behaviour", pa.string()), ("time_ms", "time_ms", pa.int64()),
            ("item_id", "item_id", pa.int64()), ("category_id", "category_id", pa.int64()),
            ("event_id", "event_id", pa.string()), ("source", "source", pa.string()),
        )
    }  # fmt: skip
    return columns, lines.places_N[np.array(kept, dtype=np.int64)]


def _decoded_together(lines: Lines, start: int, end: int) -> list[BehaviourEvent] | None:
    """The events of some lines in one call; None where not every one of them is an event.

    The decoder asks for values with blanks between them, not for one a line. But no object can go on with a line that begins
    with { after one that ended with }, so none of these reaches over two lines; and as many as there are lines are one a line.
    """
    if not lines.is_plain_N[start:end].all():
        return None
    piece = lines.block[lines.starts_N[start] : lines.ends_N[end - 1]]
    try:
        # From bytes msgspec would pass over wrong UTF-8 in fields that it skips.
        found = _LINE.decode_lines(piece if piece.isascii() else piece.decode())
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return found if len(found) == end - start else None


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
