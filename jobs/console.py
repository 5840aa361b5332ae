"""What `uic job run` shows while it runs."""

import time

from jobs.live_line import LiveLine
from operators.progress import ReadProgress, UpdateProgress


class Display(LiveLine):
    """Progress and notices of one run."""

    def __init__(self) -> None:
        super().__init__()
        self._started = time.monotonic()
        self._last = (self._started, 0)
        self._rate = 0.0
        self._notices: set[str] = set()

    def notice(self, text: str) -> None:
        """A warning, once."""
        if text not in self._notices:
            self._notices.add(text)
            self.say(f"warning: {text}")

    def show(self, read: ReadProgress | None, update: UpdateProgress | None, last_checkpoint: str) -> None:
        self.move(self._line(read, update, last_checkpoint))

    def _line(self, read: ReadProgress | None, update: UpdateProgress | None, last_checkpoint: str) -> str:
        seconds = time.monotonic() - self._started
        if read is None or update is None:
            return f"{seconds:4.0f} s  starting Flink"
        done = update.applied + update.duplicate + update.late
        before, count = self._last
        if time.monotonic() - before >= 2:
            self._rate = (done - count) / (time.monotonic() - before)
            self._last = (time.monotonic(), done)
        share = 100 * read.bytes_read / read.total_bytes if read.total_bytes else 100.0
        return (
            f"{seconds:4.0f} s  {share:5.1f} % read of {read.total_bytes / 1e6:.1f} MB  {read.file}  "
            f"{update.applied:,} applied  {self._rate:,.0f} events/s  checkpoint {last_checkpoint}"
        )
