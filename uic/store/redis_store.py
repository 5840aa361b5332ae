"""The online store in Redis and what speaks its protocol: any number of writing and reading processes, alone or in a cluster.

uic/store/redis_keys.py has the keys. A write is one call of our script, atomic for its user. Within a day the script decides by
itself; where more is to be thought of (the first memory of a later day, a late one, a deletion), uic/store/writing.py decides
here, as for every other store, on what the script has shown, and the script makes the changes if that is still what is there.
If not, somebody else wrote this user in between, and it is decided again.

The generations are in every bucket, and the script compares them, in the same atomic operation, with what the caller goes by:
a write of an older generation is refused however late it comes. On one server a generation begins in all buckets at once. In a
cluster it begins bucket by bucket, within a few ms, the first bucket last; whoever writes and meets a shorter lineage than it
knows carries its own on. So one that was begun half-way gets begun everywhere, and a bucket that lost it gets it again.

A Redis that lost what it had gets its frame back from the first writer that finds it so, with the generations that this writer
knows. The writer goes on, and notes that memories are missing until `uic store repair`.
"""

import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import date
from itertools import islice
from typing import NamedTuple

from uic.clock import Days
from uic.codec import NO_TIME, read_header
from uic.errors import BadInput, StoreError, StoreUnavailable
from uic.store.contract import Position, Shard, Source, StoreIdentity
from uic.store.lineage import FOREVER_MS, Cell, Lineage
from uic.store.opening import check_identity, check_zone
from uic.store.place import RedisUrl
from uic.store.redis_generations import RedisGenerations
from uic.store.redis_keys import BUCKETS, IDENTITY, LOST, POSITION, SOURCE, Frame, Keys, cell_of, field_of, kept_field, kept_in
from uic.store.redis_link import Call, Link, Reply
from uic.store.versioned import VersionedStore, begun, midnight_ms, shown
from uic.store.writing import LEFT, Outcome, Retention, Span, Whole, Writing, usable_version, version_of

_DAY = struct.Struct("<qq")
_HEADER = 56
_PAGE = 256
# How often others may change a user between a look and its commit, each time again.
_TRIES = 100
_QUICK = {b"taken": Outcome.TAKEN, b"stale": Outcome.STALE}


class _Leave(NamedTuple):
    """The user leaves, as the job of this generation says (None: whoever)."""

    generation: int | None


class _Forget(NamedTuple):
    """Nothing may stay of the user."""


# What is to become of a user: a memory comes, or one of these.
Step = bytes | _Leave | _Forget


class _Seen(NamedTuple):
    """What is stored of a user, of memories the header alone, and a token of exactly that."""

    token: bytes
    latest: bytes | None
    copies: dict[Cell, bytes]


class RedisStore(VersionedStore):
    """An `OnlineStore` in Redis. Open it with `create_or_open` to write and with `open_to_read` to read."""

    def __init__(
        self,
        link: Link,
        frame: Frame,
        *,
        kept: int = 7,
        generation: int | None = None,
        shard: Shard | None = None,
        writes: bool,
    ) -> None:
        super().__init__(Retention(Days(frame.zone), kept), generation)
        self.identity = frame.identity
        self.shard = shard
        self.url = link.url
        self.link = link
        self.keys = Keys(link.url.name, frame.buckets)
        self._generations = RedisGenerations(link, frame, writes=writes)
        self._writes = writes
        self._span: Span | None = None
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
        shard: Shard | None = None,
        password: str | None = None,
        buckets: int = BUCKETS,
    ) -> "RedisStore":
        """Open for writing, making the store if there is none; `shard` says which users' snapshots this process applies.

        `kept` days of `zone` (None: the store's own, UTC for a new one) can be read as of. `generation` is stamped on what
        `write` is given; None: it comes stamped. Raises StoreMismatch where the store holds memories of another layout, lineage
        or zone.
        """
        link = Link(url, password)
        try:
            frame = _read_frame(link)
            if frame is not None:
                check_identity(frame.identity, identity, url)
                check_zone(frame.zone, zone, url)
            frame = frame or Frame(identity, Days(zone or "UTC").zone, buckets)
            store = cls(link, frame, kept=kept, generation=generation, shard=shard, writes=True)
            store._generations.open(lambda: next(store._scan(b"L"), None) is not None)
            store._span = store._read_span()
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
            store._span = store._read_span()
        except BaseException:
            link.close()
            raise
        return store

    @property
    def lineage(self) -> Lineage:
        return self._generations.ask()

    def begin_generation(self, generation: int, cut_ms: int) -> None:
        lineage = begun(self.lineage, generation, cut_ms, self.retention, self._read_span())
        # Also where it was begun before: perhaps not in every bucket.
        self._write_lineage(self._generations.known if lineage is None else lineage)

    def _write_lineage(self, lineage: Lineage) -> None:
        self._generations.write(lineage)

    @property
    def lost_ms(self) -> int | None:
        """When a writer found that Redis had lost memories; None where nothing is known to be missing."""
        found = self.link.ask("HGET", self.keys.store, LOST)
        return None if found is None else int(found)

    def note_repair(self) -> None:
        """Nothing is missing any more."""
        self.link.ask("HDEL", self.keys.store, LOST)

    # Days

    @property
    def span(self) -> Span | None:
        if not self._writes:
            self._span = self._read_span()
        return self._span

    def _read_span(self) -> Span | None:
        raw = self.link.ask("GET", self.keys.days)
        return None if raw is None else Span(**json.loads(raw))

    def _advance(self, span: Span | None) -> None:
        """Note that later days have begun. Before their first memory is written: a read as of them is right already."""
        while span is not None and span != self._span:
            before = self.link.ask("GET", self.keys.days)
            if before is not None:
                there = Span(**json.loads(before))
                span = Span(max(there.first_ms, span.first_ms), max(there.last_ms, span.last_ms))
            text = json.dumps(span._asdict()).encode()
            if text == before or self.link.call([self.keys.days], [b"swap", before or b"", text])[0] == b"made":
                self._span = span

    def _see_later_days(self, seen: Iterable[_Seen]) -> None:
        """Know of a day that another writer has begun, before deciding on what it wrote."""
        ends_ms = NO_TIME if self._span is None else self.retention.days.bounds_ms(self._span.last_ms)[1]
        versions = (usable_version(each.latest) for each in seen)
        if any(version is not None and version[2] >= ends_ms and version[2] != NO_TIME for version in versions):
            self._span = self._read_span()

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
            self._generations.heed(self.keys.bucket(user), there or None)
            found.append(shown(latest or None, lambda: _cells(copies), self._generations.known, self.retention, midnight_ms))  # noqa: B023  # called at once
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
                stored = self._call(page, [b"read", b"", b""])
                kept = self.link.ask_many([("HGETALL", self.keys.of(user)[3]) for user in page])
                for user, (_, _, latest, copies), memories in zip(page, stored, kept, strict=True):
                    if (latest != b"") == (kind == b"L"):
                        yield Whole(user, latest or None, _cells(copies), kept_in(memories))

    def put_wholes(self, wholes: Sequence[Whole], span: Span | None) -> None:
        self._advance(span)
        text = self._generations.goes_by[1]
        calls: list[Call] = []
        kept = []
        for user, latest, copies, memories in wholes:
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

    def write(self, user_id: str, blob: bytes) -> bool:
        return self.write_many([(user_id, blob)])[0]

    def write_many(self, memories: Sequence[tuple[str, bytes]]) -> list[bool]:
        """`write` for several, in few round trips; each user's is atomic by itself."""
        steps: dict[bytes, list[Step]] = {}
        for user_id, blob in memories:
            steps.setdefault(user_id.encode(), []).append(self.stamped(blob))
        outcomes = {user: iter(each) for user, each in self._make(steps).items()}
        return [next(outcomes[user_id.encode()]) in (Outcome.TAKEN, Outcome.COPIED) for user_id, _ in memories]

    def delete(self, user_id: str, *, generation: int | None = None) -> None:
        self._make({user_id.encode(): [_Leave(generation)]})

    def forget(self, user_id: str) -> None:
        self._make({user_id.encode(): [_Forget()]})

    def writing(self) -> Writing:
        return Writing(_Shelf(self, {}), self.lineage, self.retention, self.span)

    def commit(self, writing: Writing, offsets: Mapping[int, int] | None = None, *, now_ms: int = 0) -> None:
        """Make writes, each user's atomically, and only then say how far the source is applied.

        What was decided is decided again on what is there when it is made; so an application that was cut off may come again.
        """
        self._advance(writing.span)
        self._make({user: _steps(writing, user) for user in {**writing.latest, **writing.copies}})
        if offsets:
            positions = {POSITION + str(partition).encode(): f"{offset} {now_ms}" for partition, offset in offsets.items()}
            self.link.ask("HSET", self.keys.store, *(part for each in positions.items() for part in each))

    def _make(self, steps: Mapping[bytes, Sequence[Step]]) -> dict[bytes, list[Outcome]]:
        """Take each user through their steps, in one atomic operation a user."""
        outcomes: dict[bytes, list[Outcome]] = {}
        seen = self._write_quickly(steps, outcomes)
        for _ in range(_TRIES):
            left = [user for user in steps if user not in outcomes]
            if not left:
                return outcomes
            text = self._generations.goes_by[1]
            unseen = [user for user in left if user not in seen]
            for user, reply in zip(unseen, self._call(unseen, [b"look", text]), strict=True):
                self._note(user, reply, seen)
            ready = [user for user in left if user in seen]
            self._see_later_days(seen[user] for user in ready)
            writing = Writing(_Shelf(self, seen), self._generations.known, self.retention, self._span)
            decided = {user: [_take(writing, user, step) for step in steps[user]] for user in ready}
            self._advance(writing.span)
            changed = [user for user in ready if user in writing.latest or user in writing.copies]
            calls = [self._commit(writing, user, seen[user], text) for user in changed]
            for user, reply in zip(changed, self.link.call_many(calls), strict=True):
                if reply[0] != b"made":
                    del seen[user], decided[user]
                    self._note(user, reply, seen)
            outcomes |= decided
        raise StoreUnavailable(f"{self.url}: other processes change the same {len(left)} users all the time")

    def _write_quickly(self, steps: Mapping[bytes, Sequence[Step]], outcomes: dict[bytes, list[Outcome]]) -> dict[bytes, _Seen]:
        """Let the script decide where it may; what it has shown of the others."""
        lineage, text = self._generations.goes_by
        newest_ms = NO_TIME
        calls: list[Call] = []
        users = []
        for user, each in steps.items():
            blob = each[0]
            if len(each) != 1 or not isinstance(blob, bytes):
                continue
            generation, _, log_time_ms = version_of(blob)
            if lineage.active is not None and generation != lineage.active:
                continue
            newest_ms = max(newest_ms, log_time_ms)
            users.append(user)
            calls.append((self.keys.of(user), [b"write", text, blob, self._day(log_time_ms)]))
        if newest_ms != NO_TIME and (self._span is None or newest_ms >= self.retention.days.bounds_ms(self._span.last_ms)[1]):
            self._advance(self.retention.advanced(self._span, newest_ms))
        seen: dict[bytes, _Seen] = {}
        for user, reply in zip(users, self.link.call_many(calls), strict=True):
            if (outcome := _QUICK.get(reply[0])) is not None:
                outcomes[user] = [outcome]
            else:
                self._note(user, reply, seen)
        return seen

    def _day(self, log_time_ms: int) -> bytes:
        if log_time_ms == NO_TIME:
            return _DAY.pack(NO_TIME, NO_TIME + 1)
        begins_ms, ends_ms = self.retention.days.bounds_ms(log_time_ms)
        return _DAY.pack(begins_ms, min(ends_ms, FOREVER_MS - 1))

    def _call(self, users: Sequence[bytes], arguments: Sequence[bytes]) -> list[Reply]:
        return self.link.call_many([(self.keys.of(user), arguments) for user in users])

    def _note(self, user: bytes, reply: Reply, seen: dict[bytes, _Seen]) -> None:
        if reply[0] == b"look":
            _, token, latest, copies = reply
            seen[user] = _Seen(token, latest or None, _cells(copies))
        else:
            assert reply[0] == b"lineage"
            self._generations.heed(self.keys.bucket(user), reply[1] if len(reply) > 1 else None)

    def _commit(self, writing: Writing, user: bytes, seen: _Seen, text: bytes) -> Call:
        latest = b""
        if user in writing.latest:
            blob = writing.latest[user]
            latest = b"D" if blob is None else b"P" + blob
        arguments = [b"commit", text, seen.token, latest, b"F" if user in writing.forgotten else b""]
        for cell, value in writing.copies.get(user, {}).items():
            what = b"D" if value is None else b"M" if value is seen.latest else b"P" + value
            arguments += (field_of(cell), what)
        return self.keys.of(user), arguments

    def sweep(self, most: int = 1000) -> bool:
        if self._sweeping is None:
            self._sweeping = self._scan(b"D")
        users = list(islice(self._sweeping, most))
        text = self._generations.goes_by[1]
        seen: dict[bytes, _Seen] = {}
        for user, reply in zip(users, self._call(users, [b"look", text]), strict=True):
            self._note(user, reply, seen)
        writing = Writing(_Shelf(self, seen), self._generations.known, self.retention, self.span)
        for user, there in seen.items():
            version = usable_version(there.latest)
            writing.prune(user, None if version is None else self.retention.cell(version))
        # Whoever was written in between has lost theirs by that.
        self.link.call_many([self._commit(writing, user, seen[user], text) for user in writing.copies])
        if len(users) < most:
            self._sweeping = None
        return self._sweeping is None

    def write_kept(self, user_id: str, blob: bytes) -> None:
        stamped = self.stamped(blob)
        self.link.ask("HSET", self.keys.of(user_id.encode())[3], kept_field(read_header(stamped).sequence), stamped)

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


class _Shelf:
    """What is stored of users as it was seen, and looked up where it was not."""

    def __init__(self, store: RedisStore, seen: dict[bytes, _Seen]) -> None:
        self._store = store
        self._seen = seen

    def latest(self, user: bytes) -> bytes | None:
        return self._of(user).latest

    def copies(self, user: bytes) -> dict[Cell, bytes]:
        return dict(self._of(user).copies)

    def _of(self, user: bytes) -> _Seen:
        while user not in self._seen:
            store = self._store
            store._note(user, store._call([user], [b"look", store._generations.goes_by[1]])[0], self._seen)
        return self._seen[user]


def _take(writing: Writing, user: bytes, step: Step) -> Outcome:
    if isinstance(step, _Forget):
        writing.forget(user)
        return Outcome.TAKEN
    if isinstance(step, _Leave):
        return writing.leave(user, generation=step.generation)
    return writing.place(user, usable_version(writing.latest_of(user)), version_of(step), step)


def _steps(writing: Writing, user: bytes) -> list[Step]:
    """What was decided on a user, as what came: to be decided anew. Of what was there, `writing` has headers alone."""
    steps: list[Step] = [_Forget()] if user in writing.forgotten else []
    copies = writing.copies.get(user, {})
    steps += [value for _, value in sorted(copies.items()) if value is not None and len(value) > _HEADER]
    latest = writing.latest.get(user, LEFT)
    if (latest is None and user not in writing.forgotten) or LEFT in copies.values():
        steps.append(_Leave(writing.lineage.active))
    if latest:
        steps.append(latest)
    return steps


def _cells(flat: Sequence[bytes]) -> dict[Cell, bytes]:
    return {cell_of(field): value for field, value in zip(flat[::2], flat[1::2], strict=True)}


def exists(url: RedisUrl, password: str | None = None) -> bool:
    """Whether a store of this name has been made there."""
    with closing(Link(url, password)) as link:
        return _read_frame(link) is not None


def _read_frame(link: Link) -> Frame | None:
    raw = link.ask("HGET", link.url.name, IDENTITY)
    return None if raw is None else Frame.from_json(raw, link.url)
