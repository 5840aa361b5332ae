"""The update operator, per event: load the memory, apply the event, save the memory, publish it. uic/update.py decides."""

import time
from collections.abc import Iterable
from typing import Any

from pyflink.common import Types
from pyflink.datastream import KeyedProcessFunction
from pyflink.datastream.functions import KeyedBroadcastProcessFunction
from pyflink.datastream.state import MapStateDescriptor, ValueStateDescriptor

from operators import contract, control, wire
from operators.metrics import FORGOTTEN
from operators.publish import LoggedLetter
from operators.settings import UpdateSettings
from operators.types import RawBytes
from operators.worker import Worker
from uic.codec import NO_TIME, read_header
from uic.errors import CorruptMemory, InvalidEvent
from uic.event import parse_event
from uic.letters import Letter

_APPLIED = {"applied": 1}
_FORGOTTEN = {FORGOTTEN: 1}


class _Updates:
    """What both functions below do with an event.

    In thread mode PyFlink calls `close` at the end of a drained input only, not at a stop with a savepoint or a failure:
    nothing may depend on it, and every write here survives the end of the process as it is.
    """

    def __init__(self, settings: UpdateSettings) -> None:
        self._settings = settings

    def open(self, runtime_context: Any) -> None:  # a PyFlink context
        self._memory = runtime_context.get_state(ValueStateDescriptor(contract.MEMORY, RawBytes()))
        # PyFlink's own way to a subtask's number fails in thread mode.
        subtask = runtime_context._runtime_context.getTaskInfo().getIndexOfThisSubtask()
        self._worker = Worker(self._settings, subtask=subtask)
        # PyFlink keeps Java's backend to itself, and gives no way to another user's state from a broadcast message.
        self._backend = runtime_context.get_keyed_state_backend()._keyed_state_backend
        self._idle_after_ms = self._settings.rules.idle_after_ms
        self._silent_before_ms = self._settings.silent_before_ms

    def process_element(self, value: bytes, ctx: Any) -> Iterable[bytes]:  # a PyFlink context
        try:
            return self._apply(wire.unpack(value), ctx)
        except CorruptMemory as error:
            explained = self._worker.explain(error)
            self._worker.report(explained)
            raise explained from error
        except Exception as error:
            self._worker.report(error)
            raise

    def _apply(self, arrived: wire.Wire, ctx: Any) -> Iterable[bytes]:  # a PyFlink context
        worker = self._worker
        user_id = ctx.get_current_key()
        log_time_ms = arrived.log_time_ms
        if worker.forgotten.is_gone(user_id, log_time_ms):
            worker.count(_FORGOTTEN, (log_time_ms,), 0.0, 0)
            return []
        try:
            event = parse_event(
                arrived.payload, now_ms=log_time_ms, accepted=worker.accepted, max_ahead_ms=worker.max_ahead_ms, key=user_id
            )
            if worker.quarantine is not None:
                worker.quarantine.check(event, log_time_ms)
        except InvalidEvent as error:
            return self._leave("dead", error.reason, str(error), user_id, arrived)
        blob = self._remembered(user_id)
        started = time.perf_counter()
        update = worker.updater.update(blob, event, log_time_ms=log_time_ms, accepts_late=arrived.accepts_late)
        step_s = time.perf_counter() - started
        if update.blob is None:
            return self._leave(update.outcome.value, update.outcome.value, update.detail, user_id, arrived)
        self._memory.update(update.blob)
        if blob is None and self._idle_after_ms is not None:
            ctx.timer_service().register_event_time_timer(log_time_ms + self._idle_after_ms + 1)
        worker.count(_APPLIED, (log_time_ms,), step_s, len(update.blob) * (1 if blob is None else 2))
        if log_time_ms < self._silent_before_ms:
            ctx.timer_service().register_event_time_timer(self._silent_before_ms - 1)
            return []
        return worker.publisher.memories([(user_id, update.blob)])

    def on_timer(self, timestamp: int, ctx: Any) -> Iterable[bytes]:  # a PyFlink context
        """Either the log has come to where memories are published again, and this one was not; or the user may be idle: one
        timer a user, moved on when it comes."""
        blob = self._remembered(ctx.get_current_key())
        if blob is None:
            return []
        log_time_ms = read_header(blob).log_time_ms
        assert log_time_ms != NO_TIME  # a saved memory has had an event
        if timestamp == self._silent_before_ms - 1 and log_time_ms < self._silent_before_ms:
            return self._worker.publisher.memories([(ctx.get_current_key(), blob)])
        if self._idle_after_ms is None:
            return []
        leaves_at = log_time_ms + self._idle_after_ms + 1
        if leaves_at > timestamp:
            ctx.timer_service().register_event_time_timer(leaves_at)
            return []
        self._memory.clear()
        return self._worker.publisher.departure(ctx.get_current_key())

    def _remembered(self, user_id: str) -> bytes | None:
        """The memory of the current key; what a savepoint brings back of somebody forgotten goes as soon as it is seen."""
        blob: bytes | None = self._memory.value()
        if blob is None or not self._worker.forgotten.is_gone(user_id, read_header(blob).log_time_ms):
            return blob
        self._memory.clear()
        return None

    def _leave(self, kind: str, reason: str, detail: str, user_id: str, arrived: wire.Wire) -> list[bytes]:
        letter = Letter(arrived.source, arrived.offset, kind, reason, detail, user_id, arrived.payload)
        self._worker.count({kind: 1}, (arrived.log_time_ms,), 0.0, 0)
        return self._worker.publisher.letters([LoggedLetter(letter, arrived.log_time_ms)])


class UpdateMemory(_Updates, KeyedProcessFunction):  # type: ignore[misc]  # pyflink ships no types
    """Applies each event of a user to the memory in keyed state and publishes the result; emits outgoing records, if any."""


class ControlledUpdateMemory(_Updates, KeyedBroadcastProcessFunction):  # type: ignore[misc]  # pyflink ships no types
    """The same with a broadcast control stream (operators/control.py), as ControlledUpdate.java has it.

    PyFlink shows broadcast state to elements only: what was promoted before is opened with the first one, whichever it is.
    """

    _is_restored = False

    def process_element(self, value: bytes, ctx: Any) -> Iterable[bytes]:  # a PyFlink context
        self._restore(ctx)
        return super().process_element(value, ctx)

    def process_broadcast_element(self, value: bytes, ctx: Any) -> Iterable[bytes]:  # a PyFlink context
        self._restore(ctx)
        try:
            asked = control.read_forget(value)
            if asked is not None:
                return self._forget(asked)
            kept = self._worker.deployment.take(value)
        except Exception as error:
            self._worker.report(error)
            raise
        if kept:
            ctx.get_broadcast_state(heeded()).put(contract.PROMOTE, kept)
        return []

    def _forget(self, asked: control.Forget) -> list[bytes]:
        """A user's memory goes, where this subtask is the one that has it; what is sent then."""
        if not self._worker.is_addressed(asked.to):
            return []
        self._worker.forgotten.refresh()
        if not self._select(asked.user):
            return []
        blob: bytes | None = self._memory.value()
        record = self._worker.forget(asked, NO_TIME if blob is None else read_header(blob).log_time_ms)
        if record:
            self._memory.clear()
        return [record] if record else []

    def _select(self, user_id: str) -> bool:
        """Make this user the one whose state is looked at until the next event comes; False where another subtask has it."""
        from pemja import findClass

        key = findClass("org.apache.flink.types.Row")(1)
        key.setField(0, user_id)
        try:
            self._backend.setCurrentKey(key)
        except Exception as error:
            if "key group" not in str(error).lower():
                raise
            return False
        return True

    def on_timer(self, timestamp: int, ctx: Any) -> Iterable[bytes]:  # a PyFlink context
        self._restore(ctx)
        return super().on_timer(timestamp, ctx)

    def _restore(self, ctx: Any) -> None:  # a PyFlink context
        if self._is_restored:
            return
        try:
            self._worker.deployment.restore(ctx.get_broadcast_state(heeded()).get(contract.PROMOTE) or b"")
        except Exception as error:
            self._worker.report(error)
            raise
        self._is_restored = True


def heeded() -> MapStateDescriptor:
    """The broadcast state, the same as ControlledUpdate.java's."""
    return MapStateDescriptor(contract.CONTROL, Types.STRING(), RawBytes())
