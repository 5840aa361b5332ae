"""What an online store promises, whichever system keeps it.

A write carries its version inside the blob, (generation, sequence); one atomic operation keeps the larger version, and an
equal one overwrites. So a job that starts again from a checkpoint may publish what it published before, and nothing goes back
in time. Within a generation a smaller sequence with a later log time is a later one too: a user who left and came back.

Every memory can also be read as it was when a day began, for the days that the store keeps. `begin_generation` is the cut of a
rollback: from then on every read, by every process, returns what it would have returned as of the cut, until a memory of the
new generation comes for that user.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import NamedTuple, Protocol

from uic.clock import Days
from uic.memory import Numbers
from uic.small import Shrink
from uic.store.lineage import Cell, Lineage
from uic.store.versioned import VersionedStore
from uic.store.writing import Retention, Span, Whole, Writing


class StoreIdentity(NamedTuple):
    """Whose memories a store holds: a layout, and a lineage of bundles."""

    layout: str
    lineage: str


class Shard(NamedTuple):
    """One of the parts of a store: `number` of `shards` holds the partitions p of its topic with p % shards == number."""

    number: int
    shards: int
    partitions: int

    def holds(self, partition: int) -> bool:
        return partition % self.shards == self.number


class Source(NamedTuple):
    """The topic that a store follows. Its ids tell a topic that was made anew from the one that was read."""

    cluster_id: str
    topic: str
    topic_id: str
    partitions: int


class Position(NamedTuple):
    """The next offset to apply of one partition, and when the store was told so."""

    offset: int
    written_ms: int


class OnlineStore(Protocol):
    """The latest memory of every user, ready to read, and what it was when each of the last days began."""

    def write(self, user_id: str, blob: bytes) -> bool:
        """Publish a memory; False, and nothing changed, where the store holds a larger version or its generation is over.

        A store in small numbers keeps a copy (uic/small.py); False also where there is none, for a value that is not finite.
        """
        ...

    def read(self, user_id: str, as_of: date | None = None) -> bytes | None:
        """The latest memory of a user, or the one there was when a day began; None if there is none.

        Raises BadInput for a day that is not kept.
        """
        ...

    def delete(self, user_id: str, *, generation: int | None = None) -> None:
        """The user left: there is no latest memory any more, and whichever comes next is taken. What was kept stays.

        Nothing happens where `generation`, that of the job which says so, is over.
        """
        ...

    def forget(self, user_id: str) -> None:
        """Nothing stays of the user: no latest memory, none as of a day, none that was kept."""
        ...

    def begin_generation(self, generation: int, cut_ms: int) -> None:
        """What earlier generations took in from the cut on does not count any more, and only this one is written.

        The cut is where a kept day begins (else: BadInput). Nothing is written for a user. Done before: nothing happens.
        """
        ...

    @property
    def lineage(self) -> Lineage:
        """The generations that were begun, and their cuts."""
        ...

    def days_kept(self) -> list[date]:
        """The days that can be read as of, the oldest first."""
        ...

    def users(self) -> Iterator[str]:
        """Every user with a memory, in no promised order."""
        ...

    def write_kept(self, user_id: str, blob: bytes) -> None:
        """Keep this memory as it stands, beside the latest, under (user, its sequence)."""
        ...

    def read_kept(self, user_id: str, sequence: int) -> bytes | None:
        """The memory kept after exactly `sequence` events, None if none was kept."""
        ...

    def close(self) -> None: ...


class ReadableStore(OnlineStore, Protocol):
    """An online store as a reading process opens it."""

    @property
    def identity(self) -> StoreIdentity: ...

    @property
    def zone(self) -> str:
        """The time zone of the store's days."""
        ...

    @property
    def numbers(self) -> Numbers:
        """In which numbers it keeps memories."""
        ...

    @property
    def span(self) -> Span | None:
        """The midnights to read as of; None where no memory with a log time was ever written."""
        ...

    def refresh(self) -> None:
        """Let this process see what the writing ones have written since."""
        ...

    def wholes(self) -> Iterator[Whole]:
        """All that is stored, user by user, those who left among them; one may come twice while others write."""
        ...


class WritableStore(ReadableStore, Protocol):
    """An online store as a writing process opens it."""

    def write_many(self, memories: Sequence[tuple[str, bytes]]) -> list[bool]:
        """`write` for several users, quicker than one after the other."""
        ...

    def put_wholes(self, wholes: Sequence[Whole], span: Span | None) -> None:
        """All that another store had of these users, in the place of what is here, as it stands there."""
        ...

    def adopt(self, lineage: Lineage) -> None:
        """The generations of another store, in one that has begun none of its own."""
        ...


class InMemoryStore(VersionedStore):
    """A store in dictionaries: honest in every promise but that of surviving its process."""

    def __init__(
        self, generation: int | None = None, *, zone: str = "UTC", kept: int = 7, shrink: Shrink = Shrink("float32")
    ) -> None:
        super().__init__(Retention(Days(zone), kept), generation, shrink)
        self.offsets: dict[int, int] = {}
        self._lineage = Lineage()
        self._span: Span | None = None
        self._latest: dict[bytes, bytes] = {}
        self._copies: dict[bytes, dict[Cell, bytes]] = {}
        self._kept: dict[tuple[bytes, int], bytes] = {}

    @property
    def lineage(self) -> Lineage:
        return self._lineage

    @property
    def span(self) -> Span | None:
        return self._span

    def latest(self, user: bytes) -> bytes | None:
        return self._latest.get(user)

    def read_many(self, users: Sequence[bytes]) -> list[bytes | None]:
        return [self._latest.get(user) for user in users]

    def copies(self, user: bytes) -> dict[Cell, bytes]:
        return dict(self._copies.get(user, {}))

    def _commit(self, writing: Writing, offsets: Mapping[int, int] | None, *, now_ms: int) -> None:
        for user in writing.forgotten:
            self._copies.pop(user, None)
            for kept in [each for each in self._kept if each[0] == user]:
                del self._kept[kept]
        for user, blob in writing.latest.items():
            if blob is None:
                self._latest.pop(user, None)
            else:
                self._latest[user] = blob
        for user, changes in writing.copies.items():
            copies = self._copies.get(user, {}) | changes
            self._copies[user] = {cell: value for cell, value in copies.items() if value is not None}
        self._span = writing.span
        if offsets is not None:
            self.offsets |= offsets
            self._versions.clear()

    def _write_lineage(self, lineage: Lineage) -> None:
        self._lineage = lineage

    def _users_with_latest(self) -> Iterator[bytes]:
        yield from self._latest

    def _users_with_copies(self, after: bytes | None = None) -> Iterator[bytes]:
        yield from sorted(user for user, copies in self._copies.items() if copies and (after is None or user > after))

    def kept_of(self, user: bytes) -> dict[int, bytes]:
        return {sequence: blob for (owner, sequence), blob in self._kept.items() if owner == user}

    def _put_kept(self, user: bytes, sequence: int, blob: bytes) -> None:
        self._kept[user, sequence] = blob

    def read_kept(self, user_id: str, sequence: int) -> bytes | None:
        return self._kept.get((user_id.encode(), sequence))

    def close(self) -> None:
        pass
