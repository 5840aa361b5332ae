"""One run of the job under watch: from its submission to the savepoint at its end, or to the reason of its death."""

import errno
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from jobs.console import Display
from jobs.folder import JobFolder, JobRecord
from jobs.gateway import Jvm
from jobs.job_settings import JobSettings
from jobs.plan import Choice
from operators import failure, progress
from uic.bundle import Bundle
from uic.errors import EnvironmentProblem, JobError, UicError
from uic.letters import LetterBox
from uic.update import Rules

_POLL_S = 0.3
_PAUSE_S = 20
_FULL_BYTES = 4 << 20
_FULL_DISK = (os.strerror(errno.ENOSPC), "disk is full", "disk full")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run did. Counts of lines and letters are over the life of the job folder, `done` and `seconds` over this run."""

    is_complete: bool
    lines: int
    applied: int
    letters: dict[tuple[str, str], int]
    done: int
    seconds: float
    total_seconds: float

    def text(self) -> str:
        dead = {reason: count for (kind, reason), count in self.letters.items() if kind == "dead"}
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(dead.items()))
        rows = [
            ("lines read", f"{self.lines:,}"),
            ("applied", f"{self.applied:,}"),
            ("duplicates", f"{self.letters.get(('duplicate', 'duplicate'), 0):,}"),
            ("late", f"{self.letters.get(('late', 'late'), 0):,}"),
            ("dead letters", f"{sum(dead.values()):,}" + (f" ({reasons})" if reasons else "")),
            ("this run", f"{self.done:,} events in {self.seconds:.1f} s, {self.done / max(self.seconds, 1e-9):,.0f} events/s"),
            ("with start and stop", f"{self.total_seconds:.1f} s"),
        ]
        end = "" if self.is_complete else "\nstopped before the end of the input; run again to go on"
        return "\n".join(f"{name:<20} {value}" for name, value in rows) + end


def rules(lateness_s: int, idle_after_s: int | None, *, accept_late: bool) -> Rules:
    """The stream's rules from settings in seconds."""
    return Rules(
        lateness_ms=1000 * lateness_s,
        accept_late=accept_late,
        idle_after_ms=None if idle_after_s is None else 1000 * idle_after_s,
    )


class Run:
    """One run of the job, from its start to its savepoint."""

    def __init__(
        self, settings: JobSettings, choice: Choice, folder: JobFolder, record: JobRecord, jvm: Jvm, display: Display
    ) -> None:
        self._settings = settings
        self._choice = choice
        self._folder = folder
        self._record = record
        self._jvm = jvm
        self._display = display
        self._checkpoints = folder.checkpoints_of(record.run)
        self._is_stopping = False
        self._job: Any = None  # an environment.RunningJob, whose module imports PyFlink

    def start(self, bundle: Bundle, restore_from: Path | None) -> None:
        """Submit the job to the cluster inside the JVM."""
        from jobs import environment
        from jobs.graph import Plan, files_graph
        from operators.publish import read_keep_at
        from operators.read import ReadSettings
        from operators.settings import UpdateSettings

        settings, job_dir, run = self._settings, str(self._folder.path), self._record.run
        if settings.keep_at is not None:
            read_keep_at(settings.keep_at)
        flink = environment.embedded_configuration(
            checkpoints=self._checkpoints,
            temporary=self._folder.temporary,
            backend=settings.backend,
            interval_s=settings.checkpoint_interval_s,
            restore_from=restore_from,
            extra=settings.flink,
        )
        read = ReadSettings(
            events=self._record.events,
            job_dir=job_dir,
            run=run,
            waits=settings.watch,
            accepted=bundle.accepted,
            max_ahead_ms=settings.max_ahead_s * 1000,
        )
        update = UpdateSettings(
            bundle=self._record.bundle,
            store=self._record.store,
            job_dir=job_dir,
            run=run,
            rules=rules(settings.lateness_s, settings.idle_after_s, accept_late=settings.accept_late),
            max_ahead_ms=settings.max_ahead_s * 1000,
            keep_at=None if settings.keep_at is None else str(settings.keep_at.absolute()),
            metrics_port=settings.metrics_port,
            metrics_host=settings.metrics_host,
            checkpoints=str(self._checkpoints),
            restored_from=None if restore_from is None else str(restore_from),
            zone=settings.zone,
            kept_days=settings.kept_days,
            numbers=settings.numbers,
        )
        plan = Plan(
            is_batched=self._choice.is_batched, python=sys.executable, batch=settings.batch, wait_ms=settings.batch_wait_ms
        )
        try:
            self._job = environment.start(flink, lambda flow: files_graph(flow, read, update, plan))
        except Exception as error:
            raise self._why(environment.innermost(str(error))) from error

    def watch(self, started: float) -> Summary:
        """Wait for the end of the input, a signal or a failure; stop with a savepoint and sum up."""
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        first_done: float | None = None
        try:
            while True:
                read = self._read_progress()
                update = self._update_progress()
                self._display.show(read, update, self._last_checkpoint())
                if read is not None:
                    first_done = time.monotonic() if first_done is None else first_done
                    for text in read.notices:
                        self._display.notice(text)
                is_complete = read is not None and read.is_at_end
                if self._is_stopping or (is_complete and not self._settings.watch):
                    self._check_alive()
                    self._stop()
                    break
                self._check_alive()
                time.sleep(_POLL_S)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        ended = time.monotonic()
        return self._sum_up(is_complete, ended - (first_done or ended), ended - started)

    def _stop(self) -> None:
        from jobs import environment

        (self._folder.path / progress.STOP_FILE).touch()
        give_up_at = time.monotonic() + _PAUSE_S
        while time.monotonic() < give_up_at and not ((read := self._read_progress()) is not None and read.is_paused):
            self._check_alive()
            time.sleep(0.05)
        try:
            self._job.stop_with_savepoint(self._checkpoints)
        except Exception as error:
            raise self._why(environment.innermost(str(error))) from error

    def _sum_up(self, is_complete: bool, seconds: float, total_seconds: float) -> Summary:
        read = self._read_progress()
        box = LetterBox(self._folder.path / "letters.sqlite", writable=False)
        letters = box.counts()
        box.close()
        kept_back = sum(count for (kind, _), count in letters.items() if kind != "dead")
        return Summary(
            is_complete=is_complete,
            lines=0 if read is None else read.lines,
            applied=0 if read is None else read.events - kept_back,
            letters=letters,
            done=0 if read is None else read.events - read.events_before,
            seconds=seconds,
            total_seconds=total_seconds,
        )

    def _read_progress(self) -> progress.ReadProgress | None:
        return progress.read(self._folder.path / progress.READ_FILE, progress.ReadProgress, self._record.run)

    def _update_progress(self) -> progress.UpdateProgress | None:
        return progress.read(self._folder.path / progress.UPDATE_FILE, progress.UpdateProgress, self._record.run)

    def _check_alive(self) -> None:
        """Raise what ended the job, if anything has."""
        from jobs import environment

        if (failed := failure.read_report(self._folder.path)) is not None:
            raise self._why(f"{failed.kind}: {failed.message}")
        try:
            is_over = self._job.is_over()
        except Exception as error:
            time.sleep(_POLL_S)  # the JVM's end shows here before its exit code is known
            raise self._why(environment.innermost(str(error))) from error
        if is_over:
            raise self._why(self._job.why_it_failed())

    def _why(self, cause: str) -> UicError:
        """The error to end with, from what is known: an operator's own report first, then the JVM's end, then `cause`."""
        failed = failure.read_report(self._folder.path)
        log = f"; the log is {self._jvm.log}"
        if failed is not None:
            cause = failed.message if failed.is_ours else f"{failed.kind}: {failed.message}"
        elif self._jvm.exit_code() is not None:
            cause = f"the JVM ended with code {self._jvm.exit_code()}; run again to go on"
        is_full = shutil.disk_usage(self._folder.path).free < _FULL_BYTES
        if is_full or any(sign in cause for sign in _FULL_DISK):
            return EnvironmentProblem(f"{self._folder.path} or {self._record.store}: the disk is full: {cause}{log}")
        return JobError(f"the job failed: {cause}{log}")

    def _last_checkpoint(self) -> str:
        numbers = [int(path.parent.name[4:]) for path in self._checkpoints.glob("*/chk-*/_metadata")]
        return str(max(numbers)) if numbers else "none yet"

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._is_stopping:
            self._jvm.kill()
            os._exit(128 + number)
        self._is_stopping = True
        self._display.say("stopping with a savepoint; a second signal ends at once")
