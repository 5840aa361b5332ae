"""What a job leaves out after a rollback: events of a click farm, of a broken source, of bad hours.

The rules hold for events that the log took in at the cut or later; what came before it is part of the memories that everybody
agreed to go back to. An event that is left out is a dead letter with the rule as its reason, so it can still be replayed.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from uic.errors import BadInput, InvalidEvent
from uic.event import BehaviourEvent

_KEYS = {"from_ms", "users", "items", "sources", "between_ms"}


@dataclass(frozen=True, kw_only=True)
class Quarantine:
    """`from_ms`: the cut, in log time. `between_ms`: spans [start, end) of log time of which nothing is taken.

    `before`: the rules of earlier rollbacks to earlier cuts, which go on holding.
    """

    from_ms: int
    users: frozenset[str] = frozenset()
    items: frozenset[int] = frozenset()
    sources: frozenset[str] = frozenset()
    between_ms: tuple[tuple[int, int], ...] = ()
    before: "Quarantine | None" = None

    def check(self, event: BehaviourEvent, log_time_ms: int) -> None:
        """Raise InvalidEvent, with the rule as its reason, where the event is to be left out."""
        if self.before is not None:
            self.before.check(event, log_time_ms)
        if log_time_ms < self.from_ms:
            return
        if event.user_id in self.users:
            raise InvalidEvent("quarantined_user", f"user {event.user_id!r} is in quarantine since a rollback")
        if event.item_id in self.items:
            raise InvalidEvent("quarantined_item", f"item {event.item_id} is in quarantine since a rollback")
        if event.source is not None and event.source in self.sources:
            raise InvalidEvent("quarantined_source", f"source {event.source!r} is in quarantine since a rollback")
        if any(start <= log_time_ms < end for start, end in self.between_ms):
            raise InvalidEvent("quarantined_time", f"log time {log_time_ms} lies in a span that is left out since a rollback")

    @property
    def is_empty(self) -> bool:
        is_empty = not (self.users or self.items or self.sources or self.between_ms)
        return is_empty and (self.before is None or self.before.is_empty)

    def after(self, earlier: "Quarantine | None") -> "Quarantine":
        """With the rules that hold already: whoever goes back to a cut goes back behind the rules of that cut or later ones."""
        while earlier is not None and earlier.from_ms >= self.from_ms:
            earlier = earlier.before
        return replace(self, before=earlier)

    def to_json(self) -> str:
        return json.dumps(self._content()) + "\n"

    def _content(self) -> dict[str, Any]:
        return {
            "from_ms": self.from_ms,
            "users": sorted(self.users),
            "items": sorted(self.items),
            "sources": sorted(self.sources),
            "between_ms": [list(span) for span in self.between_ms],
            **({} if self.before is None else {"before": self.before._content()}),
        }

    @classmethod
    def read(cls, path: Path) -> "Quarantine":
        """What `to_json` wrote; raises BadInput where a file is anything else."""
        try:
            return cls._from(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise BadInput(f"{path}: the quarantine cannot be read: {error}") from error

    @classmethod
    def _from(cls, content: dict[str, Any]) -> "Quarantine":
        if set(content) - {"before"} != _KEYS:
            raise ValueError(f"expected the keys {', '.join(sorted(_KEYS))}, got {', '.join(sorted(content))}")
        return cls(
            from_ms=int(content["from_ms"]),
            users=frozenset(map(str, content["users"])),
            items=frozenset(map(int, content["items"])),
            sources=frozenset(map(str, content["sources"])),
            between_ms=tuple((int(start), int(end)) for start, end in content["between_ms"]),
            before=cls._from(content["before"]) if "before" in content else None,
        )
