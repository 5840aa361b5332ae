"""The online store in Redis and what speaks its protocol: any number of writing and reading processes, alone or in a cluster.

uic/store/redis_keys.py has the keys, uic/store/redis_writes.py says how a user is written: in one atomic operation.

The generations are in every bucket, and the script compares them, in the same atomic operation, with what the caller goes by:
a write of an older generation is refused however late it comes. On one server a generation begins in all buckets at once. In a
cluster it begins bucket by bucket, within a few ms, the first bucket last; whoever writes and meets a shorter lineage than it
knows carries its own on. So one that was begun half-way gets begun everywhere, and a bucket that lost it gets it again.

A Redis that lost what it had gets its frame back from the first writer that finds it so, with the generations that this writer
knows. The writer goes on, and notes that memories are missing until `uic store repair`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import date
from itertools import islice

from uic.clock import Days
from uic.errors import BadInput, StoreError, StoreUnavailable
from uic.small import Shrink
from uic.store.contract import Position, Shard, Source, StoreIdentity
from uic.store.lineage import Cell, Lineage
from uic.store.opening import check_identity, check_numbers, check_zone
from uic.store.place import RedisUrl
from uic.store.redis_days import RedisDays
from uic.store.redis_generations import RedisGenerations
from uic.store.redis_keys import (
    BUCKETS,
    IDENTITY,
    LOST,
    POSITION,
    SOURCE,
    Frame,
    Keys,
    cell_of,
    cells,
    field_of,
    kept_field,
    kept_in,
)
from uic.store.redis_link import Call, Link, Reply
from uic.store.redis_writes import Forget, Leave, RedisWrites, Shelf, Step, steps_of
from uic.store.versioned import VersionedStore, as_kept, begun, midnight_ms, shown
from uic.store.writing import Outcome, Retention, Span, Whole, Writing

_PAGE = 256


class RedisStore(VersionedStore):
    """An `OnlineStore` in Redis. Open it with `create_or_open` to write and with `open_to_read` to read."""

    def __init__(
        self,
        link: Link,
        frame: Frame,
        *,
        kept: int = 7,
        generation: int | None = None,
        shrink: Shrink | None = None,
        shard: Shard | None = None,
        writes: bool,
    ) -> None:
        super().__init__(Retention(Days(frame.zone), kept), generation, shrink or Shrink(frame.numbers))
        self.identity = frame.identity
        self.shard = shard
        self.url = link.url
        self.link = link
        self.keys = Keys(link.url.name, frame.buckets)
        self._generations = RedisGenerations(link, frame, writes=writes)
        self._may_write = writes
        self._days = RedisDays(link, self.keys, self.retention)
        self._writes = RedisWrites(link, self.keys, self._generations, self._days, self.retention)
        self._sweeping: Iterator[bytes] | None = None

    @classmethod
    def create_or_open(
        cls,
        url: RedisUrl,
        identity: StoreIdentity,
        *,
        zone: str | None = None,
        kept: int = 7,
        generation: int | None = None,
        shrink: Shrink | None = None,
        shard: Shard | None = None,
        password: str | None = None,
        buckets: int = BUCKETS,
    ) -> "RedisStore":
        """Open for writing, making the store if there is none; `shard` says which users' snapshots this process applies.

        `kept` days of `zone` (None: the store's own, UTC for a new one) can be read as of. `generation` is stamped on what
        `write` is given; None: it comes stamped. `shrink`: what is kept of memories (None: the store's numbers, float32 for a
        new one). Raises StoreMismatch where the store holds memories of another layout, lineage or zone, or in other numbers.
        """
        link = Link(url, password)
        try:
            frame = _read_frame(link)
            if frame is not None:
                check_identity(frame.identity, identity, url)
                check_zone(frame.zone, zone, url)
                check_numbers(frame.numbers, shrink, url)
            numbers = "float32" if shrink is None else shrink.numbers
            frame = frame or Frame(identity, Days(zone or "UTC").zone, buckets, numbers)
            store = cls(link, frame, kept=kept, generation=generation, shrink=shrink, shard=shard, writes=True)
            store._generations.open(lambda: next(store._scan(b"L"), None) is not None)
            store._days.read()
            if (made := _read_frame(link)) != frame:
                raise StoreError(f"{url}: another process made the store just now, as {made}. Open it again")
        except BaseException:
            link.close()
            raise
        return store

    @classmethod
    def open_to_read(cls, url: RedisUrl, *, kept: int = 7, password: str | None = None) -> "RedisStore":
        """Open for reading, also while others write."""
        link = Link(url, password)
        try:
            frame = _read_frame(link)
            if frame is None:
                raise BadInput(f"{url}: expected an online store, but there is none; `uic store follow` or a job makes it")
            store = cls(link, frame, kept=kept, writes=False)
            store._days.read()
        except BaseException:
            link.close()
            raise
        return store

    @property
    def lineage(self) -> Lineage:
        return self._generations.ask()

    def begin_generation(self, generation: int, cut_ms: int) -> None:
        lineage = begun(self.lineage, generation, cut_ms, self.retention, self._days.read())
        # Also where it was begun before: perhaps not in every bucket.
        self._write_lineage(self._generations.known if lineage is None else lineage)

    def _write_lineage(self, lineage: Lineage) -> None:
        self._generations.write(lineage)

    @property
    def span(self) -> Span | None:
        return self._days.span if self._may_write else self._days.read()

    @property
    def lost_ms(self) -> int | None:
        """When a writer found that Redis had lost memories; None where nothing is known to be missing."""
        found = self.link.ask("HGET", self.keys.store, LOST)
        return None if found is None else int(found)

    def note_repair(self) -> None:
        """Nothing is missing any more."""
        self.link.ask("HDEL", self.keys.store, LOST)

    # Reading

    def read_before(self, user_id: str, midnight_ms: int | None) -> bytes | None:
        return self._read([user_id.encode()], midnight_ms)[0]

    def read_each(self, user_ids: Sequence[str], as_of: date | None = None) -> list[bytes | None]:
        """`read` of several users in one round trip."""
        at_ms = None if as_of is None else midnight_ms(as_of, self.retention, self.span)
        return self._read([user_id.encode() for user_id in user_ids], at_ms)

    def _read(self, users: Sequence[bytes], midnight_ms: int | None) -> list[bytes | None]:
        lineage, text = self._generations.goes_by
        active = b"" if lineage.active is None else str(lineage.active).encode()
        # As of a day all is needed; no lineage is this one.
        arguments = [b"read", text if midnight_ms is None else b"", active]
        keys = [self.keys.of(user) for user in users]
        replies = (
            [self.link.call(keys[0], arguments)]
            if len(keys) == 1
            else self.link.call_many([(each, arguments) for each in keys])
        )
        found: list[bytes | None] = []
        for user, (kind, *content) in zip(users, replies, strict=True):
            if kind == b"read":
                found.append(content[0] or None)
                continue
            there, latest, copies = content
            self._writes.heed(self.keys.bucket(user), there or None)
            found.append(shown(latest or None, lambda: cells(copies), self._generations.known, self.retention, midnight_ms))  # noqa: B023  # called at once
        return found

    def latest(self, user: bytes) -> bytes | None:
        return self._bytes(self.link.ask("GET", self.keys.of(user)[1]))

    def read_many(self, users: Sequence[bytes]) -> list[bytes | None]:
        """The latest memories of several users as stored."""
        replies = self.link.call_many([(self.keys.of(user), [b"read", b"", b""]) for user in users])
        return [latest or None for _, _, latest, _ in replies]

    def copies(self, user: bytes) -> dict[Cell, bytes]:
        found = self.link.ask("HGETALL", self.keys.of(user)[2])
        return {cell_of(field): value for field, value in found.items()}

    def users(self) -> Iterator[str]:
        seen: set[bytes] = set()
        for kind in (b"L", b"D") if self.lineage.cuts else (b"L",):
            every = self._scan(kind)
            while page := list(islice(every, _PAGE)):
                fresh = [user for user in dict.fromkeys(page) if user not in seen]
                seen.update(fresh)
                there = fresh if not self._generations.known.cuts else [user for user in fresh if self._is_there(user.decode())]
                yield from (user.decode() for user in there)

    def _scan(self, kind: bytes) -> Iterator[bytes]:
        """The users with a latest memory or with copies; one may come twice while Redis makes room."""
        for keys in self.link.scan(self.keys.pattern(kind)):
            yield from map(self.keys.user, keys)

    def kept_of(self, user: bytes) -> dict[int, bytes]:
        return kept_in(self.link.ask("HGETALL", self.keys.of(user)[3]))

    def wholes(self) -> Iterator[Whole]:
        for kind in (b"L", b"D"):
            every = self._scan(kind)
            while page := list(islice(every, _PAGE)):
                stored = self.link.call_many([(self.keys.of(user), [b"read", b"", b""]) for user in page])
                kept = self.link.ask_many([("HGETALL", self.keys.of(user)[3]) for user in page])
                for user, (_, _, latest, copies), memories in zip(page, stored, kept, strict=True):
                    if (latest != b"") == (kind == b"L"):
                        yield Whole(user, latest or None, cells(copies), kept_in(memories))

    def put_wholes(self, wholes: Sequence[Whole], span: Span | None) -> None:
        self._days.advance(span)
        text = self._generations.goes_by[1]
        calls: list[Call] = []
        kept = []
        for user, latest, copies, memories in as_kept(wholes, self._shrink):
            put = [part for cell, value in copies.items() for part in (field_of(cell), b"P" + value)]
            calls.append((self.keys.of(user), [b"commit", text, b"", b"" if latest is None else b"P" + latest, b"F", *put]))
            kept += [("HSET", self.keys.of(user)[3], kept_field(sequence), blob) for sequence, blob in memories.items()]
        for (keys, _), reply in zip(calls, self.link.call_many(calls), strict=True):
            if reply[0] != b"made":
                raise StoreUnavailable(f"{self.url}: a generation began while {keys[1]!r} was put; put all of them again")
        self.link.ask_many(kept)

    def _users_with_latest(self) -> Iterator[bytes]:
        return self._scan(b"L")

    def _users_with_copies(self, after: bytes | None = None) -> Iterator[bytes]:
        raise AssertionError("Redis has no order of users; `sweep` goes on where its scan is")

    # Writing

    def write_many(self, memories: Sequence[tuple[str, bytes]]) -> list[bool]:
        """`write` for several, in few round trips; each user's is atomic by itself."""
        steps: dict[bytes, list[Step]] = {}
        kept = self.shrunk([self.stamped(blob) for _, blob in memories])
        for (user_id, _), blob in zip(memories, kept, strict=True):
            if blob is not None:
                steps.setdefault(user_id.encode(), []).append(blob)
        outcomes = {user: iter(each) for user, each in self._writes.make(steps).items()}
        taken = (Outcome.TAKEN, Outcome.COPIED)
        return [
            blob is not None and next(outcomes[user_id.encode()]) in taken
            for (user_id, _), blob in zip(memories, kept, strict=True)
        ]

    def delete(self, user_id: str, *, generation: int | None = None) -> None:
        self._writes.make({user_id.encode(): [Leave(generation)]})

    def forget(self, user_id: str) -> None:
        self._writes.make({user_id.encode(): [Forget()]})

    def writing(self) -> Writing:
        return Writing(Shelf(self._writes, {}), self.lineage, self.retention, self.span)

    def _commit(self, writing: Writing, offsets: Mapping[int, int] | None, *, now_ms: int) -> None:
        """Make writes, each user's atomically, and only then say how far the source is applied.

        What was decided is decided again on what is there when it is made; so an application that was cut off may come again.
        """
        self._days.advance(writing.span)
        self._writes.make({user: steps_of(writing, user) for user in {**writing.latest, **writing.copies}})
        if offsets:
            positions = {POSITION + str(partition).encode(): f"{offset} {now_ms}" for partition, offset in offsets.items()}
            self.link.ask("HSET", self.keys.store, *(part for each in positions.items() for part in each))

    def sweep(self, most: int = 1000) -> bool:
        if self._sweeping is None:
            self._sweeping = self._scan(b"D")
        users = list(islice(self._sweeping, most))
        self._writes.prune(users)
        if len(users) < most:
            self._sweeping = None
        return self._sweeping is None

    def _put_kept(self, user: bytes, sequence: int, blob: bytes) -> None:
        self.link.ask("HSET", self.keys.of(user)[3], kept_field(sequence), blob)

    def read_kept(self, user_id: str, sequence: int) -> bytes | None:
        return self._bytes(self.link.ask("HGET", self.keys.of(user_id.encode())[3], kept_field(sequence)))

    # The topic that is followed

    @property
    def source(self) -> Source | None:
        """The topic that is applied here, None if there has been none."""
        raw = self.link.ask("HGET", self.keys.store, SOURCE)
        return None if raw is None else Source(**json.loads(raw))

    def positions(self) -> dict[int, Position]:
        """How far each partition of the source is applied; one of which nothing is known is not in it."""
        found = self.link.ask("HGETALL", self.keys.store)
        return {int(key[1:]): Position(*map(int, value.split())) for key, value in found.items() if key.startswith(POSITION)}

    def follow(self, source: Source) -> None:
        """From now on this topic is applied, from its beginning: what was known of another one's offsets is forgotten."""
        there = [POSITION + str(partition).encode() for partition in self.positions()]
        if there:
            self.link.ask("HDEL", self.keys.store, *there)
        self.link.ask("HSET", self.keys.store, SOURCE, json.dumps(source._asdict()))

    def refresh(self) -> None:
        """Every read sees what was written before it."""

    def close(self) -> None:
        self.link.close()

    def _bytes(self, value: Reply) -> bytes | None:
        assert value is None or isinstance(value, bytes)
        return value


def exists(url: RedisUrl, password: str | None = None) -> bool:
    """Whether a store of this name has been made there."""
    with closing(Link(url, password)) as link:
        return _read_frame(link) is not None


def _read_frame(link: Link) -> Frame | None:
    raw = link.ask("HGET", link.url.name, IDENTITY)
    return None if raw is None else Frame.from_json(raw, link.url)
