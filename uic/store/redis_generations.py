"""The frame of a store in Redis: what kind of store it is, and its generations, which stand in every bucket.

Of two lineages the longer one counts, where it goes on from the other. So a generation that was begun in some buckets only (its
process died, or a master of the cluster lost its last writes) is carried on by whoever writes and knows more.
"""

import logging
import time
from collections.abc import Callable

from uic.errors import StoreError, StoreUnavailable
from uic.store.lineage import Lineage
from uic.store.redis_keys import IDENTITY, LOST, Frame, Keys
from uic.store.redis_link import Call, Link

log = logging.getLogger("uic.store")


class RedisGenerations:
    """The lineage that this process goes by, against the one that each bucket has. `writes`: it may be put right there."""

    def __init__(self, link: Link, frame: Frame, *, writes: bool) -> None:
        self._link = link
        self._frame = frame
        self._keys = Keys(link.url.name, frame.buckets)
        self._writes = writes
        # With the same as it stands in Redis; replaced together, since threads read it.
        self.goes_by = Lineage(), Lineage().to_json().encode()

    @property
    def known(self) -> Lineage:
        return self.goes_by[0]

    def ask(self) -> Lineage:
        """The generations as they are now; the first bucket is the last in which one is begun."""
        there = self._link.ask("GET", self._keys.lineage(0))
        if there is None or not self.meet(there):
            self.heed(0, there)
        return self.known

    def open(self, has_memories: Callable[[], bool]) -> None:
        """Make or complete the frame of a store to be written."""
        there = self._link.ask("GET", self._keys.lineage(0))
        if there is not None:
            self.meet(there)
        is_new = not self._link.ask("HEXISTS", self._keys.store, IDENTITY)
        had = self._restore()
        # It says that all of the frame is there, so it comes last.
        self._link.ask("HSETNX", self._keys.store, IDENTITY, self._frame.to_json())
        if had < self._frame.buckets if not is_new else had > 0 and has_memories():
            self._note_loss()

    def write(self, lineage: Lineage) -> None:
        """Begin a generation, or say again that it has begun: on one server everywhere at once."""
        before, after = self.goes_by[1], lineage.to_json().encode()
        buckets = [*range(1, self._frame.buckets), 0]
        calls: list[Call] = [([self._keys.lineage(bucket)], [b"swap", before, after]) for bucket in buckets]
        replies = self._link.call_many(calls, at_once=True)
        self.goes_by = lineage, after
        writes, self._writes = self._writes, True
        try:
            for bucket, (done, *there) in zip(buckets, replies, strict=True):
                if done != b"made":
                    self.heed(bucket, there[0] if there else None)
        finally:
            self._writes = writes

    def meet(self, text: bytes) -> bool:
        """Go by this lineage if it is no shorter than ours; False where it is. StoreError if neither goes on from the other."""
        if text == self.goes_by[1]:
            return True
        met, ours = Lineage.from_json(text, self._link.url), self.known
        if met.cuts[: len(ours.cuts)] == ours.cuts:
            self.goes_by = met, text
            return True
        if ours.cuts[: len(met.cuts)] != met.cuts:
            raise StoreError(
                f"{self._link.url}: expected the generations {list(map(tuple, ours.cuts))} or later ones, found "
                f"{list(map(tuple, met.cuts))}: two rollbacks do not know of each other, and which memories count is not known"
            )
        return False

    def heed(self, bucket: int, there: bytes | None) -> bool:
        """A bucket has this lineage, or none; afterwards we go by the longer one, and where we write, the bucket does too.

        False where Redis had lost it, and has the frame again.
        """
        if there is None:
            if not self._writes:
                raise StoreUnavailable(
                    f"{self._link.url}: bucket {bucket} is gone: Redis has lost memories; `uic store repair` brings them back"
                )
            self._restore()
            self._link.ask("HSETNX", self._keys.store, IDENTITY, self._frame.to_json())
            self._note_loss()
            return False
        if not self.meet(there) and self._writes:
            done, *now = self._link.call([self._keys.lineage(bucket)], [b"swap", there, self.goes_by[1]])
            if done != b"made" and now and now[0] is not None:
                self.meet(now[0])
        return True

    def _restore(self) -> int:
        """Put our lineage where there is none; how many buckets had one."""
        buckets = range(self._frame.buckets)
        calls: list[Call] = [([self._keys.lineage(bucket)], [b"swap", b"", self.goes_by[1]]) for bucket in buckets]
        there = {bucket: reply[1] for bucket, reply in enumerate(self._link.call_many(calls)) if reply[0] != b"made"}
        for bucket, text in there.items():
            self.heed(bucket, text)
        return len(there)

    def _note_loss(self) -> None:
        log.warning("%s: Redis has lost memories; `uic store repair` brings them back while all goes on", self._link.url)
        self._link.ask("HSETNX", self._keys.store, LOST, str(time.time_ns() // 1_000_000))
