"""What an online store holds, counted by reading all of it, and what Redis takes for that."""

from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jobs.store.showing import paged, shown
from uic.codec import read_header
from uic.errors import CorruptMemory
from uic.memory import Numbers
from uic.small import numbers_of
from uic.store.place import redis_url, words
from uic.store.sharded import open_to_read

if TYPE_CHECKING:
    from uic.store.redis_store import RedisStore
    from uic.store.writing import Whole


@dataclass
class Stats:
    """`redis` has bytes that the keys of live users and of copies take in Redis with all that it adds; None for a folder."""

    place: str
    numbers: Numbers = "float32"
    users: int = 0
    bytes: int = 0
    copies: int = 0
    copy_bytes: int = 0
    left: int = 0
    kept: int = 0
    broken: int = 0
    generations: Counter[int] = field(default_factory=Counter)
    bundles: Counter[int] = field(default_factory=Counter)
    kinds: Counter[Numbers] = field(default_factory=Counter)
    newest_ms: int | None = None
    redis: tuple[int, int] | None = None
    servers: list[str] = field(default_factory=list)
    lost_ms: int | None = None

    def lines(self) -> list[str]:
        """As people read it."""
        lines = [f"{self.place}: {self.users:,} users, {_each(self.bytes, self.users)} of memory each, kept in {self.numbers}"]
        lines.append(f"daily copies: {self.copies:,}, {_each(self.copy_bytes, self.copies)} each; {self.kept:,} kept memories")
        if self.redis is not None:
            lines.append(
                f"in Redis: {_each(self.redis[0], self.users)} a live user, {_each(self.redis[1], self.copies)} a daily copy"
            )
        lines += self.servers
        lines += [f"in {kind}: {count:,} users" for kind, count in self.kinds.items() if kind != self.numbers]
        for name, counts in (("generation", self.generations), ("bundle version", self.bundles)):
            lines += [f"{name} {value}: {count:,} users" for value, count in counts.most_common(5)]
        if self.newest_ms is not None:
            lines.append(f"newest memory taken in {_time(self.newest_ms)}")
        if self.broken:
            lines.append(f"broken: {self.broken:,} memories cannot be read; `uic store repair` removes them and brings others")
        if self.lost_ms is not None:
            lines.append(f"Redis was found to have lost memories at {_time(self.lost_ms)}; `uic store repair` brings them back")
        return lines

    def add(self, whole: "Whole") -> None:
        self.users += whole.latest is not None
        self.bytes += len(whole.latest or b"")
        self.copies += sum(blob != b"" for blob in whole.copies.values())
        self.left += sum(blob == b"" for blob in whole.copies.values())
        self.copy_bytes += sum(map(len, whole.copies.values()))
        self.kept += len(whole.kept)
        if whole.latest is None:
            return
        try:
            header = read_header(whole.latest)
            self.kinds[numbers_of(whole.latest)] += 1
        except CorruptMemory:
            self.broken += 1
            return
        self.generations[header.generation] += 1
        self.bundles[header.bundle_version] += 1
        self.newest_ms = max(self.newest_ms or 0, header.log_time_ms)


def read_stats(place: Path) -> Stats:
    """Read all of a store, also while it is written."""
    stats = Stats(words(place))
    with closing(open_to_read(place)) as store:
        stats.numbers = store.numbers
        for page in paged(shown(store.wholes(), "counted")):
            for whole in page:
                stats.add(whole)
            if redis_url(place) is not None:
                _measure(stats, cast("RedisStore", store), page)
        if redis_url(place) is not None:
            redis = cast("RedisStore", store)
            stats.lost_ms = redis.lost_ms
            stats.servers = [
                f"{name}: {info['used_memory'] / 1e6:,.1f} MB used of "
                f"{'no limit' if not info['maxmemory'] else format(info['maxmemory'] / 1e6, ',.1f') + ' MB'}, "
                f"{_software(info)}, {info['maxmemory_policy']}"
                for name, info in redis.link.servers()
            ]
    return stats


def _measure(stats: Stats, store: "RedisStore", page: "list[Whole]") -> None:
    live, copies = stats.redis or (0, 0)
    live += sum(store.link.sizes([store.keys.of(whole.user)[1] for whole in page if whole.latest is not None]))
    copies += sum(store.link.sizes([store.keys.of(whole.user)[2] for whole in page if whole.copies]))
    stats.redis = live, copies


def _software(info: Mapping[str, Any]) -> str:  # what INFO says, any values
    """Which server it is; Valkey says in `redis_version` which Redis it stands in for.

    >>> _software({"redis_version": "7.0.15"})
    'redis 7.0.15'
    >>> _software({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "8.0.1"})
    'valkey 8.0.1'
    """
    name = info.get("server_name", "redis")
    return f"{name} {info.get(f'{name}_version', info['redis_version'])}"


def _each(size: int, count: int) -> str:
    return "0 bytes" if count == 0 else f"{size / count:,.0f} bytes"


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, tz=UTC).isoformat(sep=" ", timespec="seconds")
