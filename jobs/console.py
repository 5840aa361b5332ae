"""What `uic job run` shows while it runs: one moving line on a terminal, a plain line now and then elsewhere."""

import sys
import time

from rich.console import Console
from rich.live import Live
from rich.text import Text

from operators.progress import ReadProgress, UpdateProgress

_PLAIN_EVERY_S = 10.0


class Display:
    """Progress and notices of one run, on standard error, so that the summary stands alone on standard output."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True) if sys.stderr.isatty() else None
        self._started = time.monotonic()
        self._next_plain = self._started + _PLAIN_EVERY_S
        self._last = (self._started, 0)
        self._rate = 0.0
        self._notices: set[str] = set()

    def __enter__(self) -> "Display":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, markup=False)

    def notice(self, text: str) -> None:
        """A warning, once."""
        if text not in self._notices:
            self._notices.add(text)
            self.say(f"warning: {text}")

    def show(self, read: ReadProgress | None, update: UpdateProgress | None, last_checkpoint: str) -> None:
        line = self._line(read, update, last_checkpoint)
        if self._live is not None:
            self._live.update(Text(line))
        elif time.monotonic() >= self._next_plain:
            self._next_plain = time.monotonic() + _PLAIN_EVERY_S
            self.say(line)

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
