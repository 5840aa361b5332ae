"""What both plans open in a worker, and what they do alike: bundle, step, publisher, counts, and naming what went wrong."""

import json
import os
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from operators import condemned, failure, metrics, outgoing, progress
from operators.allocator import keep_freed_memory
from operators.control import Forget
from operators.deployment import Deployment
from operators.direct import DirectStore
from operators.metrics import StreamMetrics
from operators.publish import Direct, Publisher, Records, read_keep_at
from operators.settings import UpdateSettings
from uic.artefact import write_atomically
from uic.bundle import Bundle
from uic.errors import CorruptMemory, EnvironmentProblem
from uic.forgetting import FILE as FORGOTTEN_FILE
from uic.forgetting import Forgotten
from uic.letters import LetterBox
from uic.quarantine import Quarantine
from uic.small import Shrink
from uic.store.contract import WritableStore
from uic.store.sharded import open_to_write
from uic.update import Outcome, Updater

# One file a worker, as Prometheus' file_sd_configs reads them: workers of one machine cannot all have one port.
METRICS_FOLDER = "metrics"
_LONGEST_CHECKPOINT_S = 3600.0


class Worker:
    """An opened update operator, without Flink."""

    def __init__(self, settings: UpdateSettings, *, saved: bytes = b"", subtask: int = 0) -> None:
        """`saved`: what the operator's broadcast state holds of an earlier promotion."""
        keep_freed_memory()
        self._settings = settings
        self._job_dir = Path(settings.job_dir)
        self.checkpoint = restored_checkpoint(settings)
        self.writes_store = settings.store is not None
        self.generation = settings.generation
        self.silent_before_ms = settings.silent_before_ms
        self.zone = settings.zone
        self.quarantine = None if settings.quarantine is None else Quarantine.read(Path(settings.quarantine))
        self.max_ahead_ms = settings.max_ahead_ms
        try:
            self.forgotten = Forgotten(self._job_dir / FORGOTTEN_FILE)
            self._metrics = self._serve_metrics()
            self.deployment = Deployment(settings, saved=saved, subtask=subtask, metrics=self._metrics)
            self.publisher = self._open_publisher(self.deployment.model.bundle)
            self.direct = self._open_direct()
        except Exception as error:
            self.report(error)
            raise
        self._outcomes: Counter[str] = Counter()
        self._pace = progress.Pace()

    @property
    def updater(self) -> Updater:
        return self.deployment.model.updater

    @property
    def accepted(self) -> frozenset[str]:
        return self.deployment.model.accepted

    def _open_publisher(self, bundle: Bundle) -> Publisher:
        settings = self._settings
        if settings.store is None:
            return Records(settings.generation)
        keep_at = {} if settings.keep_at is None else read_keep_at(Path(settings.keep_at))
        box = LetterBox(self._job_dir / "letters.sqlite")
        store = self._open_store(settings.store, bundle)
        return Direct(store, box, keep_at, settings.generation)

    def _open_direct(self) -> DirectStore | None:
        place, bundle = self._settings.direct, self.deployment.model.bundle
        if place is None:
            return None
        return DirectStore(lambda: self._open_store(place, bundle), self._settings.silent_before_ms)

    def _open_store(self, place: str, bundle: Bundle) -> WritableStore:
        settings = self._settings
        shrink = Shrink(settings.numbers, bundle.layout)
        return open_to_write(Path(place), bundle.identity, zone=settings.zone, kept=settings.kept_days, shrink=shrink)

    def _serve_metrics(self) -> StreamMetrics | None:
        settings = self._settings
        if settings.metrics_port is None:
            return None
        try:
            port = metrics.serve(settings.metrics_port, settings.metrics_host)
        except EnvironmentProblem:  # another worker of this machine has it
            port = metrics.serve(0, settings.metrics_host)
        folder = self._job_dir / METRICS_FOLDER
        folder.mkdir(exist_ok=True)
        targets = [{"targets": [f"{settings.metrics_host}:{port}"], "labels": {"component": "worker"}}]
        write_atomically(folder / f"{socket.gethostname()}-{os.getpid()}.json", json.dumps(targets))
        return StreamMetrics()

    def count(self, outcomes: Mapping[str, int], log_times_ms: Sequence[int], step_s: float, state_bytes: int) -> None:
        """Note what became of some events: for Prometheus where it is asked for, for the embedded launcher in a file."""
        if self._metrics is not None:
            now_ms = time.time_ns() // 1_000_000
            # In files log time is the event's own: its age says nothing.
            ages_s = [] if self.writes_store else [(now_ms - each) / 1000 for each in log_times_ms]
            self._metrics.observe_batch(outcomes, len(log_times_ms), step_s, state_bytes, ages_s)
        self._outcomes.update(outcomes)
        if self._settings.store is not None and self._pace.is_due():
            counts = {outcome.value: self._outcomes[outcome.value] for outcome in Outcome}
            progress.write(self._job_dir / progress.UPDATE_FILE, progress.UpdateProgress(run=self._settings.run, **counts))

    def is_addressed(self, to: str) -> bool:
        """Whether a control message to this address is meant for this start of this job."""
        return to == self._settings.address

    def forget(self, asked: Forget, log_time_ms: int) -> bytes:
        """The record to send when the memory of this user is removed; empty: it is of a later life, and stays.

        `log_time_ms` is that of the memory, NO_TIME where there is none. Whatever of the user is still to come from the log up
        to there, or up to where the message says, does not count: `uic user forget` reads in the record how far that is.
        """
        if not self.forgotten.is_gone(asked.user, log_time_ms):
            return b""
        until_ms = max(asked.until_ms, log_time_ms)
        self.forgotten.heed(asked.user, until_ms)
        return outgoing.forgotten(asked.user, asked.token, until_ms)

    def may_hold_forgotten(self) -> bool:
        """Whether what this operator was restored from may be older than the last forgetting.

        A checkpoint may take long from its barrier to its end: what ended within an hour after is taken for older.
        """
        if self.forgotten.is_empty:
            return False
        with suppress(OSError):
            if self.checkpoint is not None:
                restored_s = (Path(self.checkpoint) / "_metadata").stat().st_mtime
                return restored_s < self.forgotten.path.stat().st_mtime + _LONGEST_CHECKPOINT_S
        return True

    def report(self, error: BaseException) -> None:
        """Leave the reason where launcher and `uic job` look; a memory that cannot be used condemns its checkpoint."""
        failure.report(self._job_dir, error)
        if isinstance(error, CorruptMemory) and self.checkpoint is not None:
            with suppress(OSError):
                condemned.condemn(self._job_dir, self.checkpoint, str(error))

    def explain(self, error: CorruptMemory) -> CorruptMemory:
        """The same error, with the checkpoint that the memory came from."""
        origin = "the state of this run" if self.checkpoint is None else f"a state restored from {self.checkpoint}"
        return type(error)(f"{error}; it is in {origin}. `uic job resume` goes on from an older checkpoint")


def restored_checkpoint(settings: UpdateSettings) -> str | None:
    """What an operator that opens now was restored from: this run's newest checkpoint, else what the run went on from.

    While an operator of the job is not open yet, no newer checkpoint can complete.
    """
    if settings.checkpoints is not None:
        done = Path(settings.checkpoints).glob("*/chk-*/_metadata")
        newest = max(done, key=lambda path: int(path.parent.name.removeprefix("chk-")), default=None)
        if newest is not None:
            return str(newest.parent)
    return settings.restored_from
