"""Where scoring is done, with a bound on what may wait for it: in the event loop what is short, in threads what may take long.

Handing work to a thread and back costs as much as half of a usual request. What may take long leaves the loop to others: many
candidates, or a store that a network is in front of. Short works are done one a turn of the loop, in the order they came.
Requests beyond the bound are turned away at once: work that will be late for its caller helps nobody, and a long queue makes
everyone late.
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
        self._short = asyncio.Lock()
        self.inside = 0

    async def run(self, work: Callable[[], Result], *, until: float, time_s: float, is_short: bool = False) -> Result:
        """What `work` returns, done in one of the threads; by the event loop itself where it is short.

        `until` (of the loop's clock) is when nobody waits any more: what has not begun by then never does. Raises Refused 503
        where there is no room, 504 where it took too long; `time_s` is what the caller is told was allowed.
        """
        with self._turn:
            self.check_room()
            self.inside += 1
        if is_short:
            try:
                return await self._here(work, until, time_s)
            finally:
                self._left()
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
            raise _too_late(time_s) from None

    async def _here(self, work: Callable[[], Result], until: float, time_s: float) -> Result:
        # Once around the loop before each work, which the lock makes every other one wait for: whoever has come by then is
        # counted as waiting, or turned away. All works in one turn, and callers would queue unseen in their sockets meanwhile.
        async with self._short:
            await asyncio.sleep(0)
            if asyncio.get_running_loop().time() > until:
                raise _too_late(time_s)
            return work()

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


def _too_late(time_s: float) -> Refused:
    return Refused(504, "too_late", f"no answer within {time_s:g} s; it is not worked on any more")
