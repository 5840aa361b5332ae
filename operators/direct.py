"""Memories into a store in the network right from the batch that made them, besides the snapshots topic.

The topic has all of them, and its follower brings what this leaves out; so the stream waits for no store longer than its URL
allows, and not again for a while after that. In flight is one batch, whose call this is part of.
"""

import logging
import time
from collections.abc import Callable, Sequence

from uic.codec import read_header
from uic.errors import StoreUnavailable
from uic.store.contract import WritableStore

_REST_S = 1.0
log = logging.getLogger("uic.direct")


class DirectStore:
    """Opened by `open_store` when the first memories come. `silent_before_ms` as in operators/settings.py."""

    def __init__(self, open_store: Callable[[], WritableStore], silent_before_ms: int = 0) -> None:
        self._open_store = open_store
        self._silent_before_ms = silent_before_ms
        self._store: WritableStore | None = None
        self._rests_until_s = 0.0
        self.left_out = 0

    def write(self, memories: Sequence[tuple[str, bytes]]) -> None:
        """Write them, or leave them to the topic's follower. A store that holds other memories is an error."""
        now_s = time.monotonic()
        said = [each for each in memories if read_header(each[1]).log_time_ms >= self._silent_before_ms]
        if now_s < self._rests_until_s:
            self.left_out += len(said)
            return
        try:
            if self._store is None:
                self._store = self._open_store()
            self._store.write_many(said)
        except StoreUnavailable as error:
            self.left_out += len(said)
            self._rests_until_s = time.monotonic() + _REST_S
            log.warning("left to the topic's follower: %s", error)
