"""How users are written in Redis: each is taken through what comes for them in one atomic operation.

Within a day the script (uic/store/redis_script.py) decides by itself. Where more is to be thought of (the first memory of a
later day, a late one, a deletion), uic/store/writing.py decides, as for every other store, on what the script has shown, and
the script makes the changes if that is still what is there. If not, somebody else wrote this user in between, and it is decided
again.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from uic.codec import NO_TIME
from uic.errors import StoreUnavailable
from uic.store.lineage import FOREVER_MS, Cell
from uic.store.redis_days import RedisDays
from uic.store.redis_generations import RedisGenerations
from uic.store.redis_keys import Keys, cells, field_of
from uic.store.redis_link import Call, Link, Reply
from uic.store.writing import LEFT, Outcome, Retention, Writing, usable_version, version_of

_DAY = struct.Struct("<qq")
_HEADER = 56
# How often others may change a user between a look and its commit, each time again.
_TRIES = 100
_QUICK = {b"taken": Outcome.TAKEN, b"stale": Outcome.STALE}


class Leave(NamedTuple):
    """The user leaves, as the job of this generation says (None: whoever)."""

    generation: int | None


class Forget(NamedTuple):
    """Nothing may stay of the user."""


# What is to become of a user: a memory comes, or one of these.
Step = bytes | Leave | Forget


class Seen(NamedTuple):
    """What is stored of a user, of memories the header alone, and a token of exactly that."""

    token: bytes
    latest: bytes | None
    copies: dict[Cell, bytes]


class RedisWrites:
    """Writes users, by the generations and days that this process knows."""

    def __init__(self, link: Link, keys: Keys, generations: RedisGenerations, days: RedisDays, retention: Retention) -> None:
        self._link = link
        self._keys = keys
        self._generations = generations
        self._days = days
        self._retention = retention

    def make(self, steps: Mapping[bytes, Sequence[Step]]) -> dict[bytes, list[Outcome]]:
        """Take each user through their steps, in one atomic operation a user."""
        outcomes: dict[bytes, list[Outcome]] = {}
        seen = self._write_quickly(steps, outcomes)
        for _ in range(_TRIES):
            left = [user for user in steps if user not in outcomes]
            if not left:
                return outcomes
            lineage, text = self._generations.goes_by
            self.look([user for user in left if user not in seen], seen)
            ready = [user for user in left if user in seen]
            self._days.see(usable_version(seen[user].latest) for user in ready)
            writing = Writing(Shelf(self, seen), lineage, self._retention, self._days.span)
            decided = {user: [take(writing, user, step) for step in steps[user]] for user in ready}
            self._days.advance(writing.span)
            changed = [user for user in ready if user in writing.latest or user in writing.copies]
            calls = [self._commit(writing, user, seen[user], text) for user in changed]
            for user, reply in zip(changed, self._link.call_many(calls), strict=True):
                if reply[0] != b"made":
                    del seen[user], decided[user]
                    self._note(user, reply, seen)
            outcomes |= decided
        raise StoreUnavailable(f"{self._link.url}: other processes change the same {len(left)} users all the time")

    def _write_quickly(self, steps: Mapping[bytes, Sequence[Step]], outcomes: dict[bytes, list[Outcome]]) -> dict[bytes, Seen]:
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
            calls.append((self._keys.of(user), [b"write", text, blob, self._day(log_time_ms)]))
        self._days.advance_to(newest_ms)
        seen: dict[bytes, Seen] = {}
        for user, reply in zip(users, self._link.call_many(calls), strict=True):
            if (outcome := _QUICK.get(reply[0])) is not None:
                outcomes[user] = [outcome]
            else:
                self._note(user, reply, seen)
        return seen

    def _day(self, log_time_ms: int) -> bytes:
        if log_time_ms == NO_TIME:
            return _DAY.pack(NO_TIME, NO_TIME + 1)
        begins_ms, ends_ms = self._retention.days.bounds_ms(log_time_ms)
        return _DAY.pack(begins_ms, min(ends_ms, FOREVER_MS - 1))

    def look(self, users: Sequence[bytes], seen: dict[bytes, Seen]) -> None:
        """See what is stored of users; of some not, where the generations were other ones: look again."""
        arguments = [b"look", self._generations.goes_by[1]]
        replies = self._link.call_many([(self._keys.of(user), arguments) for user in users])
        for user, reply in zip(users, replies, strict=True):
            self._note(user, reply, seen)

    def prune(self, users: Sequence[bytes]) -> None:
        """Remove the copies of users that no read returns."""
        lineage, text = self._generations.goes_by
        seen: dict[bytes, Seen] = {}
        self.look(users, seen)
        writing = Writing(Shelf(self, seen), lineage, self._retention, self._days.span)
        for user, there in seen.items():
            version = usable_version(there.latest)
            writing.prune(user, None if version is None else self._retention.cell(version))
        # Whoever was written in between has lost theirs by that.
        self._link.call_many([self._commit(writing, user, seen[user], text) for user in writing.copies])

    def heed(self, bucket: int, there: bytes | None) -> None:
        """A bucket has another lineage than the one we go by, or has been lost: then the days go with the frame."""
        if not self._generations.heed(bucket, there):
            self._days.restore()

    def _note(self, user: bytes, reply: Reply, seen: dict[bytes, Seen]) -> None:
        if reply[0] == b"look":
            _, token, latest, copies = reply
            seen[user] = Seen(token, latest or None, cells(copies))
        else:
            assert reply[0] == b"lineage"
            self.heed(self._keys.bucket(user), reply[1] if len(reply) > 1 else None)

    def _commit(self, writing: Writing, user: bytes, seen: Seen, text: bytes) -> Call:
        latest = b""
        if user in writing.latest:
            blob = writing.latest[user]
            latest = b"D" if blob is None else b"P" + blob
        arguments = [b"commit", text, seen.token, latest, b"F" if user in writing.forgotten else b""]
        for cell, value in writing.copies.get(user, {}).items():
            what = b"D" if value is None else b"M" if value is seen.latest else b"P" + value
            arguments += (field_of(cell), what)
        return self._keys.of(user), arguments


class Shelf:
    """What is stored of users as it was seen, and looked up where it was not."""

    def __init__(self, writes: "RedisWrites", seen: dict[bytes, Seen]) -> None:
        self._writes = writes
        self._seen = seen

    def latest(self, user: bytes) -> bytes | None:
        return self._of(user).latest

    def copies(self, user: bytes) -> dict[Cell, bytes]:
        return dict(self._of(user).copies)

    def _of(self, user: bytes) -> Seen:
        while user not in self._seen:
            self._writes.look([user], self._seen)
        return self._seen[user]


def take(writing: Writing, user: bytes, step: Step) -> Outcome:
    if isinstance(step, Forget):
        writing.forget(user)
        return Outcome.TAKEN
    if isinstance(step, Leave):
        return writing.leave(user, generation=step.generation)
    return writing.place(user, usable_version(writing.latest_of(user)), version_of(step), step)


def steps_of(writing: Writing, user: bytes) -> list[Step]:
    """What was decided on a user, as what came: to be decided anew. Of what was there, `writing` has headers alone."""
    steps: list[Step] = [Forget()] if user in writing.forgotten else []
    copies = writing.copies.get(user, {})
    steps += [value for _, value in sorted(copies.items()) if value is not None and len(value) > _HEADER]
    latest = writing.latest.get(user, LEFT)
    if (latest is None and user not in writing.forgotten) or LEFT in copies.values():
        steps.append(Leave(writing.lineage.active))
    if latest:
        steps.append(latest)
    return steps
