"""What `uic store follow` shows while it runs: one moving line on a terminal, a plain line now and then elsewhere."""

import sys
import time

from rich.console import Console
from rich.live import Live
from rich.text import Text

from jobs.store.follow import Progress

_PLAIN_EVERY_S = 10.0


class Display:
    """Progress and notices, on standard error."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True) if sys.stderr.isatty() else None
        self._started = time.monotonic()
        self._next_plain = self._started + _PLAIN_EVERY_S
        self._last = (self._started, 0)
        self._rate = 0.0

    def __enter__(self) -> "Display":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text)

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        before, count = self._last
        if now - before >= 1:
            self._rate = (progress.applied - count) / (now - before)
            self._last = (now, progress.applied)
        line = f"{now - self._started:4.0f} s  {summary(progress)}  {self._rate:,.0f} snapshots/s"
        if progress.waits_for is not None:
            line += f"  waiting: {progress.waits_for}"
        if self._live is not None:
            self._live.update(Text(line))
        elif now >= self._next_plain:
            self._next_plain = now + _PLAIN_EVERY_S
            self.say(line)


def summary(progress: Progress) -> str:
    """The counts in one line.

    >>> summary(Progress(written=7, stale=2, lag={0: 0, 1: 3}))
    '7 written  2 stale  0 deleted  0 refused  3 to go'
    """
    counts = (
        f"{progress.written:,} written  {progress.stale:,} stale  {progress.deleted:,} deleted  {progress.refused:,} refused"
    )
    if progress.fenced:
        counts += f"  {progress.fenced:,} fenced"
    return f"{counts}  {sum(progress.lag.values()):,} to go"
