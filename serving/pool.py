"""Threads that score while the event loop goes on, with a bound on what may wait for them.

ONNX Runtime and RocksDB let other threads run while they work. Requests beyond the bound are turned away at once: work that
will be late for its caller helps nobody, and a long queue makes everyone late.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from serving.wire import Refused

Result = TypeVar("Result")


class Pool:
    """`threads` requests are worked on and `waiting` more wait; `inside` says how many there are now."""

    def __init__(self, *, threads: int, waiting: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="score")
        self._room = threads + waiting
        self._turn = threading.Lock()
        self.inside = 0

    async def run(self, work: Callable[[], Result], *, until: float, time_s: float) -> Result:
        """What `work` returns, done in one of the threads.

        `until` (of the loop's clock) is when nobody waits any more: what has not begun by then never does. Raises Refused 503
        where there is no room, 504 where it took too long; `time_s` is what the caller is told was allowed.
        """
        with self._turn:
            self.check_room()
            self.inside += 1
        try:
            future = self._executor.submit(work)
        except BaseException:
            self._left()
            raise
        future.add_done_callback(self._left)
        try:
            async with asyncio.timeout_at(until):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise Refused(504, "too_late", f"no answer within {time_s:g} s; it is not worked on any more") from None

    def check_room(self) -> None:
        """Raise Refused 503 where there is none."""
        if self.inside >= self._room:
            raise Refused(
                503, "overloaded", f"{self.inside} requests are being scored or wait; try again", **{"retry-after": "1"}
            )

    def _left(self, _: Future[Result] | None = None) -> None:
        with self._turn:
            self.inside -= 1

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)
