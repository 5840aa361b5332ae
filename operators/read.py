"""The reader: event files to a stream of (user, event), its position in Flink state. What a line is, operators/lines.py says.

FileSource keeps no order among files, so reading is a keyed function of our own. A slow heartbeat from Java starts it; from
then on each processing-time timer reads one chunk and registers the next timer. Between two timers checkpoint barriers get
through, and position and emitted lines belong to the same checkpoint.
"""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyflink.common import Row
from pyflink.datastream import KeyedProcessFunction, ProcessFunction
from pyflink.datastream.state import ValueStateDescriptor

from operators import contract, failure, progress, wire
from operators.lines import EventFolder, Line, Position, Surprise, surprises
from operators.types import RawBytes
from uic.errors import InvalidEvent
from uic.event import MAX_EVENT_BYTES, BehaviourEvent, parse_event
from uic.letters import LetterBox

# A chunk is what one barrier may have to wait for: 200 events are 20 to 30 ms of the update operator.
CHUNK_LINES = 200
IDLE_MS = 300


@dataclass(frozen=True, kw_only=True)
class ReadSettings:
    """What the reader needs to know; travels inside the job graph."""

    events: str
    job_dir: str
    run: int
    waits: bool
    accepted: frozenset[str]
    max_ahead_ms: int


class HeartbeatRows(ProcessFunction):  # type: ignore[misc]  # pyflink ships no types
    """Turns Java's ticks into rows of the reader's one key."""

    def process_element(self, value: int, ctx: Any) -> Iterator[Row]:  # a PyFlink context
        yield Row(contract.READER_KEY, b"")


class ReadEvents(KeyedProcessFunction):  # type: ignore[misc]  # pyflink ships no types
    """Reads the folder of events in order; emits ROW<user id, wire bytes>; keeps bad lines as dead letters."""

    def __init__(self, settings: ReadSettings) -> None:
        self._settings = settings

    def open(self, runtime_context: Any) -> None:  # a PyFlink context
        settings = self._settings
        self._job_dir = Path(settings.job_dir)
        self._position = runtime_context.get_state(ValueStateDescriptor(contract.POSITION, RawBytes()))
        self._finished = runtime_context.get_state(ValueStateDescriptor(contract.FINISHED, RawBytes()))
        self._stop = self._job_dir / progress.STOP_FILE
        self._timer_at: int | None = None
        self._events_before: int | None = None
        self._noticed: set[Surprise] = set()
        try:
            self._folder = EventFolder(Path(settings.events), waits=settings.waits)
            self._letters = LetterBox(self._job_dir / "letters.sqlite")
        except Exception as error:
            failure.report(self._job_dir, error)
            raise
        self._pace = progress.Pace()

    def process_element(self, value: bytes, ctx: Any) -> Iterable[Row]:  # a PyFlink context
        """A heartbeat: the first one in this process starts the chain of timers."""
        if self._timer_at is None:
            self._set_timer(ctx, ctx.timer_service().current_processing_time() + 1)
        return ()

    def on_timer(self, timestamp: int, ctx: Any) -> Iterator[Row]:  # a PyFlink context
        """Read and emit one chunk. A timer that came back with the checkpoint finds no chain in this process: it is ignored."""
        if timestamp != self._timer_at:
            return
        try:
            at = self._read_position()
            if self._events_before is None:
                self._events_before = at.events
            if self._stop.exists():
                self._report(at, is_at_end=False, is_paused=True)
                self._set_timer(ctx, timestamp + IDLE_MS)
                return
            chunk = self._folder.chunk(at, max_lines=CHUNK_LINES)
            events = 0
            now_ms = time.time_ns() // 1_000_000
            for line in chunk.lines:
                event = self._parse(at.file, line, now_ms)
                if event is not None:
                    events += 1
                    yield Row(event.user_id, wire.pack(at.file, line.offset, event.time_ms, line.payload))
            position = replace(chunk.position, events=at.events + events)
            if position != at:
                self._position.update(position.to_json())
            if chunk.finished is not None:
                name, size = chunk.finished
                self._finished.update(json.dumps({**self._read_finished(), name: size}).encode())
            if self._pace.is_due() or not chunk.has_more:
                self._report(position, is_at_end=not chunk.has_more)
        except Exception as error:
            failure.report(self._job_dir, error)
            raise
        # A timer for a time that has come already would fire within this very call, and no barrier could pass.
        now = max(ctx.timer_service().current_processing_time(), timestamp)
        self._set_timer(ctx, now + (1 if chunk.has_more else IDLE_MS))

    def _set_timer(self, ctx: Any, at_ms: int) -> None:  # a PyFlink context
        ctx.timer_service().register_processing_time_timer(at_ms)
        self._timer_at = at_ms

    def _read_position(self) -> Position:
        saved = self._position.value()
        return Position() if saved is None else Position.from_json(saved)

    def _read_finished(self) -> dict[str, int]:
        saved = self._finished.value()
        return {} if saved is None else dict(json.loads(saved))

    def _parse(self, file: str, line: Line, now_ms: int) -> BehaviourEvent | None:
        settings = self._settings
        try:
            if line.size > MAX_EVENT_BYTES:
                message = f"event: expected at most {MAX_EVENT_BYTES} bytes, got {line.size}; the first of them are kept"
                raise InvalidEvent("too_large", message)
            return parse_event(line.payload, now_ms=now_ms, accepted=settings.accepted, max_ahead_ms=settings.max_ahead_ms)
        except InvalidEvent as error:
            self._letters.put(
                "dead",
                reason=error.reason,
                detail=str(error),
                source=wire.printable(file),
                offset=line.offset,
                payload=line.payload,
            )
            return None

    def _report(self, position: Position, *, is_at_end: bool, is_paused: bool = False) -> None:
        """Write progress; where files before the position hold unread bytes, keep a letter that says so."""
        sizes = self._folder.sizes()
        finished = self._read_finished()
        notices = []
        for surprise in surprises(sizes, finished, position):
            name, read, size = surprise
            path = Path(self._settings.events) / name
            notices.append(
                f"{path}: {size} bytes, of which {read} were read; reading has passed it (now in {position.file}). "
                f"To have the rest applied, put it into a file with a name after {max(sizes)}"
            )
            if surprise in self._noticed:
                continue
            self._noticed.add(surprise)
            self._letters.put(
                "dead",
                reason="out_of_order" if read == 0 else "changed_after_reading",
                detail=notices[-1],
                source=wire.printable(name),
                offset=read,
                payload=b"",
            )
        ahead = sum(size for name, size in sizes.items() if name > position.file)
        rest = max(0, sizes.get(position.file, 0) - position.offset)
        progress.write(
            self._job_dir / progress.READ_FILE,
            progress.ReadProgress(
                run=self._settings.run,
                file=wire.printable(position.file),
                offset=position.offset,
                bytes_read=position.bytes_read,
                total_bytes=position.bytes_read + rest + ahead,
                lines=position.lines,
                events=position.events,
                events_before=self._events_before or 0,
                is_at_end=is_at_end,
                is_paused=is_paused,
                notices=[notice.encode("utf-8", "replace").decode() for notice in notices[:20]],
            ),
        )
