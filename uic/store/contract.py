"""What an online store promises, whichever system keeps it.

A write carries its version inside the blob, (generation, sequence); one atomic operation keeps the larger version, and an
equal one overwrites. So a job that starts again from a checkpoint may publish what it published before, and nothing goes back
in time.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from uic.codec import read_header, with_generation


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


class OnlineStore(Protocol):
    """The latest memory of every user, ready to read."""

    def write(self, user_id: str, blob: bytes) -> bool:
        """Publish a memory; False, and nothing changed, where the store holds a larger version of it."""
        ...

    def read(self, user_id: str) -> bytes | None:
        """The latest memory of a user, None if the store has never seen them."""
        ...

    def delete(self, user_id: str) -> None:
        """The user left: there is no latest memory any more, and whichever comes next is taken. What was kept stays."""
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
    """An online store on disk, as a reading process opens it."""

    @property
    def identity(self) -> StoreIdentity: ...

    def refresh(self) -> None:
        """Let this process see what the writing ones have written since."""
        ...


def may_replace(old: bytes | None, new: bytes) -> bool:
    """The version rule: the larger (generation, sequence) stays, an equal one overwrites."""
    return old is None or read_header(new).version >= read_header(old).version


class InMemoryStore:
    """A store in a dictionary: honest in every promise but that of surviving its process."""

    def __init__(self, generation: int = 0) -> None:
        self._generation = generation
        self._latest: dict[str, bytes] = {}
        self._kept: dict[tuple[str, int], bytes] = {}

    def write(self, user_id: str, blob: bytes) -> bool:
        stamped = with_generation(blob, self._generation)
        if not may_replace(self._latest.get(user_id), stamped):
            return False
        self._latest[user_id] = stamped
        return True

    def read(self, user_id: str) -> bytes | None:
        return self._latest.get(user_id)

    def delete(self, user_id: str) -> None:
        self._latest.pop(user_id, None)

    def users(self) -> Iterator[str]:
        yield from self._latest

    def write_kept(self, user_id: str, blob: bytes) -> None:
        stamped = with_generation(blob, self._generation)
        self._kept[user_id, read_header(stamped).sequence] = stamped

    def read_kept(self, user_id: str, sequence: int) -> bytes | None:
        return self._kept.get((user_id, sequence))

    def close(self) -> None:
        pass
