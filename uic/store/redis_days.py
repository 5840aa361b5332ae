"""The midnights that a store in Redis can be read as of: one key, which any writer may move on."""

import json
from collections.abc import Iterable

from uic.codec import NO_TIME
from uic.store.redis_keys import Keys
from uic.store.redis_link import Link
from uic.store.writing import Retention, Span, Version


class RedisDays:
    """The span as this process knows it; days only ever go on, so what is known may be old but is never wrong."""

    def __init__(self, link: Link, keys: Keys, retention: Retention) -> None:
        self._link = link
        self._keys = keys
        self._retention = retention
        self.span: Span | None = None

    def read(self) -> Span | None:
        """The span as it is now."""
        raw = self._link.ask("GET", self._keys.days)
        self.span = None if raw is None else Span(**json.loads(raw))
        return self.span

    def advance(self, span: Span | None) -> None:
        """Note that later days have begun. Before their first memory is written: a read as of them is right already."""
        while span is not None and span != self.span:
            before = self._link.ask("GET", self._keys.days)
            if before is not None:
                there = Span(**json.loads(before))
                span = Span(max(there.first_ms, span.first_ms), max(there.last_ms, span.last_ms))
            text = json.dumps(span._asdict()).encode()
            if text == before or self._link.call([self._keys.days], [b"swap", before or b"", text])[0] == b"made":
                self.span = span

    def advance_to(self, log_time_ms: int) -> None:
        """The same for the day of a memory."""
        if log_time_ms != NO_TIME and log_time_ms >= self._ends_ms():
            self.advance(self._retention.advanced(self.span, log_time_ms))

    def see(self, versions: Iterable[Version | None]) -> None:
        """Know of a day that another writer has begun, before anything is decided on what it wrote."""
        ends_ms = self._ends_ms()
        if any(version is not None and version[2] >= ends_ms and version[2] != NO_TIME for version in versions):
            self.read()

    def restore(self) -> None:
        """Note them again where Redis lost them."""
        span, self.span = self.span, None
        self.advance(span)

    def _ends_ms(self) -> int:
        return NO_TIME if self.span is None else self._retention.days.bounds_ms(self.span.last_ms)[1]
