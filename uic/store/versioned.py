"""The laws of an online store (uic/store/contract.py), over any storage that keeps memories and daily copies of users.

Whatever is stored passes `commit` or `write_kept`, and becomes there what the store keeps of it (uic/small.py).
"""

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date

from uic.codec import HEADER, read_header, with_generation
from uic.errors import BadInput, CorruptMemory, NotFinite, StoreMismatch
from uic.memory import Numbers
from uic.small import Shrink
from uic.store.lineage import Cell, Lineage, best
from uic.store.writing import LEFT, Outcome, Retention, Span, Version, Whole, Writing, version_of

_MOST_VERSIONS = 100_000
log = logging.getLogger("uic.store")


class VersionedStore(ABC):
    """A store as a subclass stores it.

    `generation`: what to stamp on memories; None: they come stamped. `shrink`: what is kept of them.
    """

    def __init__(self, retention: Retention, generation: int | None, shrink: Shrink) -> None:
        self.retention = retention
        self._generation = generation
        self._shrink = shrink
        # Reading a version and writing the larger one are one operation; the writing process may have several threads.
        self._turn = threading.RLock()
        self._versions: dict[bytes, Version] = {}
        self._swept: bytes | None = None

    @property
    def zone(self) -> str:
        return self.retention.days.zone

    @property
    @abstractmethod
    def lineage(self) -> Lineage:
        """The generations as they are at this moment, whichever process began the last one."""

    @property
    @abstractmethod
    def span(self) -> Span | None:
        """The midnights to read as of; None where no memory with a log time was ever written."""

    @abstractmethod
    def latest(self, user: bytes) -> bytes | None:
        """The latest memory as stored: in a generation that was cut off, perhaps."""

    @abstractmethod
    def copies(self, user: bytes) -> dict[Cell, bytes]:
        """The daily copies as stored."""

    @abstractmethod
    def _put_kept(self, user: bytes, sequence: int, blob: bytes) -> None: ...

    @abstractmethod
    def kept_of(self, user: bytes) -> dict[int, bytes]:
        """The kept memories by their sequences."""

    def commit(self, writing: Writing, offsets: Mapping[int, int] | None = None, *, now_ms: int = 0) -> None:
        """Make writes, and say how far the source is applied (partition to next offset): atomically."""
        if self.numbers != "float32":
            put = [*writing.latest.values(), *(blob for copies in writing.copies.values() for blob in copies.values())]
            # Of what is there already, a store in the network has shown headers alone.
            blobs = [blob for blob in put if blob and len(blob) > HEADER.size]
            kept: dict[bytes | None, bytes] = dict(zip(blobs, self._shrink(blobs), strict=True))
            writing.latest |= {user: kept[blob] for user, blob in writing.latest.items() if blob in kept}
            for copies in writing.copies.values():
                copies |= {cell: kept[blob] for cell, blob in copies.items() if blob in kept}
        self._commit(writing, offsets, now_ms=now_ms)

    @abstractmethod
    def _commit(self, writing: Writing, offsets: Mapping[int, int] | None, *, now_ms: int) -> None: ...

    @abstractmethod
    def _write_lineage(self, lineage: Lineage) -> None: ...

    @abstractmethod
    def _users_with_latest(self) -> Iterator[bytes]: ...

    @abstractmethod
    def _users_with_copies(self, after: bytes | None = None) -> Iterator[bytes]:
        """In an order that stays the same; the ones that come after that user."""

    def writing(self) -> Writing:
        """Writes to decide on, in the generations and days as they are now: before each batch the lineage is looked up."""
        return Writing(self, self.lineage, self.retention, self.span)

    def stamped(self, blob: bytes) -> bytes:
        return blob if self._generation is None else with_generation(blob, self._generation)

    @property
    def numbers(self) -> Numbers:
        return self._shrink.numbers

    def shrunk(self, blobs: Sequence[bytes]) -> list[bytes | None]:
        """What the store keeps of memories; None where it cannot keep one."""
        return finite(self._shrink, blobs)

    def write(self, user_id: str, blob: bytes) -> bool:
        return self.write_many([(user_id, blob)])[0]

    def write_many(self, memories: Sequence[tuple[str, bytes]]) -> list[bool]:
        kept = self.shrunk([self.stamped(blob) for _, blob in memories])
        return [
            blob is not None and self._write(user_id.encode(), blob) for (user_id, _), blob in zip(memories, kept, strict=True)
        ]

    def _write(self, user: bytes, stamped: bytes) -> bool:
        version = version_of(stamped)
        with self._turn:
            # Only this process writes, so what it wrote last of a user need not be read again.
            old = self._versions.get(user)
            if old is None and (stored := self.latest(user)) is not None:
                old = version_of(stored)
            writing = self.writing()
            outcome = writing.place(user, old, version, stamped)
            if outcome not in (Outcome.TAKEN, Outcome.COPIED):
                return False
            self.commit(writing)
            if outcome is Outcome.TAKEN:
                if len(self._versions) >= _MOST_VERSIONS:
                    self._versions.clear()
                self._versions[user] = version
        return True

    def write_kept(self, user_id: str, blob: bytes) -> None:
        kept = self.shrunk([self.stamped(blob)])[0]
        if kept is not None:
            self._put_kept(user_id.encode(), read_header(kept).sequence, kept)

    def read(self, user_id: str, as_of: date | None = None) -> bytes | None:
        return self.read_before(user_id, None if as_of is None else midnight_ms(as_of, self.retention, self.span))

    def read_before(self, user_id: str, midnight_ms: int | None) -> bytes | None:
        """The same as of a midnight that is kept."""
        user, lineage = user_id.encode(), self.lineage
        return shown(self.latest(user), lambda: self.copies(user), lineage, self.retention, midnight_ms)

    def delete(self, user_id: str, *, generation: int | None = None) -> None:
        with self._turn:
            writing = self.writing()
            writing.leave(user_id.encode(), generation=generation)
            self.commit(writing)
            self._versions.pop(user_id.encode(), None)

    def forget(self, user_id: str) -> None:
        with self._turn:
            writing = self.writing()
            writing.forget(user_id.encode())
            self.commit(writing)
            self._versions.pop(user_id.encode(), None)

    def users(self) -> Iterator[str]:
        if not self.lineage.cuts:
            yield from (user.decode() for user in self._users_with_latest())
            return
        for user in self._users_with_latest():
            if self._is_there(user.decode()):
                yield user.decode()
        for user in self._users_with_copies():
            if self.latest(user) is None and self._is_there(user.decode()):
                yield user.decode()

    def _is_there(self, user_id: str) -> bool:
        try:
            return self.read(user_id) is not None
        except CorruptMemory:
            return True  # and whoever reads it is told

    def wholes(self) -> Iterator[Whole]:
        for user in self._users_with_latest():
            yield Whole(user, self.latest(user), self.copies(user), self.kept_of(user))
        for user in self._users_with_copies():
            if self.latest(user) is None:
                yield Whole(user, None, self.copies(user), self.kept_of(user))

    def put_wholes(self, wholes: Sequence[Whole], span: Span | None) -> None:
        wholes = as_kept(wholes, self._shrink)
        with self._turn:
            writing = self.writing()
            for whole in wholes:
                writing.forget(whole.user)
                writing.latest[whole.user] = whole.latest
                writing.copies.setdefault(whole.user, {}).update(whole.copies)
            writing.span = span
            self.commit(writing)
            for whole in wholes:
                self._versions.pop(whole.user, None)
                for blob in whole.kept.values():
                    self.write_kept(whole.user.decode(), blob)

    def adopt(self, lineage: Lineage) -> None:
        check_adoption(self.lineage, lineage)
        if lineage != self.lineage:
            self._write_lineage(lineage)

    def begin_generation(self, generation: int, cut_ms: int) -> None:
        lineage = begun(self.lineage, generation, cut_ms, self.retention, self.span)
        if lineage is not None:
            self._write_lineage(lineage)

    def days_kept(self) -> list[date]:
        return days_of(self.span, self.retention)

    def sweep(self, most: int = 1000) -> bool:
        """Remove copies that no read returns any more, of the next so many users; True when all have been looked at.

        Users who come back lose theirs by themselves (`Writing`); this is for those who do not.
        """
        with self._turn:
            writing = self.writing()
            looked_at = 0
            for user in self._users_with_copies(self._swept):
                if looked_at == most:
                    break
                latest = self.latest(user)
                writing.prune(user, None if latest is None else self.retention.cell(version_of(latest)))
                self._swept, looked_at = user, looked_at + 1
            else:
                self._swept = None
            self.commit(writing)
            return self._swept is None


def finite(shrink: Shrink, blobs: Sequence[bytes]) -> list[bytes | None]:
    """What becomes of memories; None where one has a value that is not finite and cannot be kept: that is logged."""
    try:
        return list(shrink(blobs))
    except NotFinite as error:
        if len(blobs) == 1:
            log.warning("not kept: %s", error)
            return [None]
        return [kept for blob in blobs for kept in finite(shrink, [blob])]


def as_kept(wholes: Sequence[Whole], shrink: Shrink | None) -> Sequence[Whole]:
    """The same in other numbers; a memory that cannot be kept in them is not there."""
    if shrink is None:
        return wholes
    blobs = [blob for each in wholes for blob in (each.latest, *each.copies.values(), *each.kept.values()) if blob]
    found = dict(zip(blobs, finite(shrink, blobs), strict=True))
    return [
        Whole(
            each.user,
            found[each.latest] if each.latest else each.latest,
            {cell: kept for cell, blob in each.copies.items() if (kept := found[blob] if blob else LEFT) is not None},
            {sequence: kept for sequence, blob in each.kept.items() if (kept := found[blob]) is not None},
        )
        for each in wholes
    ]


def shown(
    latest: bytes | None,
    copies_of: Callable[[], Mapping[Cell, bytes]],
    lineage: Lineage,
    retention: Retention,
    midnight_ms: int | None,
) -> bytes | None:
    """The memory that a read returns of those stored of a user, the latest or as of a midnight; copies are read if need be."""
    if midnight_ms is None and not lineage.cuts:
        return latest
    cells = []
    if latest is not None:
        version = version_of(latest)
        if midnight_ms is None and lineage.shows(version[0], version[2]):
            return latest
        cells.append(retention.cell(version))
    copies = copies_of()
    found = best([*cells, *copies], lineage, midnight_ms)
    if found is None:
        return None
    return latest if found in cells else copies[found] or None


def midnight_ms(day: date, retention: Retention, span: Span | None) -> int:
    """Where a kept day begins; raises BadInput for any other day, saying which are kept."""
    begins_ms = retention.days.begins_ms(day)
    if span is not None and span.first_ms <= begins_ms <= span.last_ms:
        return begins_ms
    kept = days_of(span, retention)
    if span is not None and begins_ms > span.last_ms:
        newest = retention.days.day_of(span.last_ms)
        raise BadInput(f"as of {day}: nothing in the store was taken in on that day or later; its newest day is {newest}")
    words = f"kept are {kept[0]} to {kept[-1]} ({retention.days.zone})" if kept else "no day is kept yet"
    raise BadInput(f"as of {day}: {words}. Each day that begins is kept from then on, for as long as days.kept says")


def days_of(span: Span | None, retention: Retention) -> list[date]:
    """The days that can be read as of, the oldest first."""
    if span is None or span.first_ms > span.last_ms:
        return []
    days = [retention.days.day_of(span.last_ms)]
    while retention.days.begins_ms(days[0]) > span.first_ms:
        days.insert(0, retention.days.before(days[0]))
    return days


def check_adoption(ours: Lineage, other: Lineage) -> None:
    """Raise StoreMismatch unless these generations go on from ours."""
    if other.cuts[: len(ours.cuts)] != ours.cuts:
        raise StoreMismatch(
            f"the store has begun the generations {list(map(tuple, ours.cuts))}, which those to take over do not go on from: "
            f"{list(map(tuple, other.cuts))}. Use an empty store"
        )


def begun(lineage: Lineage, generation: int, cut_ms: int, retention: Retention, span: Span | None) -> Lineage | None:
    """The lineage with a generation begun, None where it was begun just so before; raises BadInput where it cannot be."""
    if any(cut == (generation, cut_ms) for cut in lineage.cuts):
        return None
    longer = lineage.begin(generation, cut_ms)
    day = retention.days.day_of(cut_ms)
    if retention.days.begins_ms(day) != cut_ms:
        raise BadInput(f"cut: expected where a day begins in {retention.days.zone}, got {cut_ms}, which is within {day}")
    midnight_ms(day, retention, span)
    return longer
