"""The update operator, per event: load the memory, apply the event, save the memory, publish it. uic/update.py decides.

The online store is written before the element is done, so a completed checkpoint never knows more than the store.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyflink.datastream import KeyedProcessFunction
from pyflink.datastream.state import ValueStateDescriptor

from operators import contract, failure, progress, wire
from operators.types import RawBytes
from uic.bundle import Bundle
from uic.codec import read_header
from uic.errors import BadInput
from uic.event import parse_event
from uic.letters import LetterBox
from uic.runtime import OnnxStep
from uic.store.rocksdb import RocksStore
from uic.update import Outcome, Rules

_FOREVER_MS = 1 << 62


@dataclass(frozen=True, kw_only=True)
class UpdateSettings:
    """What the update operator needs to know; travels inside the job graph."""

    bundle: str
    store: str
    job_dir: str
    run: int
    rules: Rules
    keep_at: str | None


class UpdateMemory(KeyedProcessFunction):  # type: ignore[misc]  # pyflink ships no types
    """Applies each event of a user to the memory in keyed state and publishes the result. Emits nothing.

    In thread mode PyFlink calls `close` at the end of a drained input only, not at a stop with a savepoint or a failure:
    nothing may depend on it, and every write here survives the end of the process as it is.
    """

    def __init__(self, settings: UpdateSettings) -> None:
        self._settings = settings

    def open(self, runtime_context: Any) -> None:  # a PyFlink context
        settings = self._settings
        self._job_dir = Path(settings.job_dir)
        self._memory = runtime_context.get_state(ValueStateDescriptor(contract.MEMORY, RawBytes()))
        try:
            bundle = Bundle.open(Path(settings.bundle))
            self._updater = bundle.updater(OnnxStep(bundle), settings.rules)
            self._keep_at = {} if settings.keep_at is None else read_keep_at(Path(settings.keep_at))
            self._letters = LetterBox(self._job_dir / "letters.sqlite")
            self._store = RocksStore.create_or_open(Path(settings.store), bundle.identity)
        except Exception as error:
            failure.report(self._job_dir, error)
            raise
        self._outcomes: Counter[Outcome] = Counter()
        self._pace = progress.Pace()

    def process_element(self, value: bytes, ctx: Any) -> Iterable[None]:  # a PyFlink context
        try:
            self._apply(wire.unpack(value))
        except Exception as error:
            failure.report(self._job_dir, error)
            raise
        return ()

    def _apply(self, arrived: wire.Wire) -> None:
        # The reader has refused what is not acceptable; here the clock no longer matters.
        event = parse_event(arrived.payload, now_ms=_FOREVER_MS)
        update = self._updater.update(self._memory.value(), event, log_time_ms=arrived.log_time_ms)
        self._outcomes[update.outcome] += 1
        if update.blob is None:
            self._letters.put(
                update.outcome.value,
                reason=update.outcome.value,
                detail=update.detail,
                source=arrived.source,
                offset=arrived.offset,
                payload=arrived.payload,
                user_id=event.user_id,
            )
        else:
            self._memory.update(update.blob)
            self._store.write(event.user_id, update.blob)
            sequences = self._keep_at.get(event.user_id)
            if sequences is not None and read_header(update.blob).sequence in sequences:
                self._store.write_kept(event.user_id, update.blob)
        if self._pace.is_due():
            self._write_progress()

    def _write_progress(self) -> None:
        counts = {outcome.value: self._outcomes[outcome] for outcome in Outcome}
        progress.write(self._job_dir / progress.UPDATE_FILE, progress.UpdateProgress(run=self._settings.run, **counts))


def read_keep_at(path: Path) -> dict[str, frozenset[int]]:
    """The sequences at which each user's memory is kept as it stands: JSON lines {"user_id": "u1", "sequence": 12}."""
    wanted: dict[str, set[int]] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                try:
                    entry = json.loads(text)
                    wanted.setdefault(str(entry["user_id"]), set()).add(int(entry["sequence"]))
                except (ValueError, TypeError, KeyError) as error:
                    expected = '{"user_id": "u1", "sequence": 12}'
                    raise BadInput(f"{path}:{number}: expected {expected}, got {text[:80].rstrip()}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: the positions to keep cannot be read: {error}") from error
    return {user: frozenset(sequences) for user, sequences in wanted.items()}
