"""What `uic store follow` shows while it runs."""

import time

from jobs.live_line import LiveLine
from jobs.store.follow import Progress


class Display(LiveLine):
    """Progress and notices."""

    def __init__(self) -> None:
        super().__init__()
        self._started = time.monotonic()
        self._last = (self._started, 0)
        self._rate = 0.0

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        before, count = self._last
        if now - before >= 1:
            self._rate = (progress.applied - count) / (now - before)
            self._last = (now, progress.applied)
        line = f"{now - self._started:4.0f} s  {summary(progress)}  {self._rate:,.0f} snapshots/s"
        if progress.waits_for is not None:
            line += f"  waiting: {progress.waits_for}"
        self.move(line)


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
