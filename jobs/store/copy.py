"""A whole store into another one, or into a file and back: latest memories, daily copies, generations, and what it follows.

On the way memories may become small (uic/small.py); a memory that is small is not made large again.
"""

import os
from collections.abc import Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from jobs.settings import DaysSettings
from jobs.store.showing import paged, shown
from uic.errors import BadInput, StoreMismatch
from uic.small import Shrink
from uic.store import dump
from uic.store.contract import ReadableStore, WritableStore
from uic.store.dump import Head
from uic.store.place import words
from uic.store.sharded import open_to_read, open_to_write, parts_of
from uic.store.versioned import as_kept
from uic.store.writing import Span, Whole


@dataclass
class Copied:
    """What went from one to the other."""

    users: int = 0
    copies: int = 0
    bytes: int = 0

    def add(self, whole: Whole) -> None:
        blobs = [*whole.copies.values(), *whole.kept.values(), *([] if whole.latest is None else [whole.latest])]
        self.users += whole.latest is not None
        self.copies += len(whole.copies)
        self.bytes += sum(map(len, blobs))

    def words(self) -> str:
        return f"{self.users:,} users, {self.copies:,} daily copies, {self.bytes / 1e6:,.1f} MB of memories"


def copy(source: Path, target: Path, days: DaysSettings, shrink: Shrink | None = None) -> Copied:
    """All of a store into one that nobody writes yet; stopped half-way, run again. `shrink`: None keeps the numbers.

    The source may be written meanwhile: the target is told how far the source was before, so that whoever follows the topic
    into it goes on there.
    """
    with ExitStack() as stack:
        old = stack.enter_context(closing(open_to_read(source)))
        topic = parts_of(old)[0].source
        positions = {partition: at for part in parts_of(old) for partition, at in part.positions().items()}
        new = stack.enter_context(closing(_target(target, head_of(old), days, shrink)))
        done = _put(new, shown(old.wholes(), "copied"), old.span)
        for part in parts_of(new):
            if topic is None:
                break
            mine = {each: at for each, at in positions.items() if part.shard is None or part.shard.holds(each)}
            part.follow(topic)
            now_ms = min((at.written_ms for at in mine.values()), default=0)
            part.commit(part.writing(), {each: at.offset for each, at in mine.items()}, now_ms=now_ms)
    return done


def export(source: Path, file: Path, shrink: Shrink | None = None) -> Copied:
    """All of a store into a file, which appears when it is complete."""
    if file.exists():
        raise BadInput(f"{file}: expected no file there, it is left as it is; name another one")
    done = Copied()

    def counted(pages: Iterable[list[Whole]]) -> Iterable[Whole]:
        for page in pages:
            for whole in as_kept(page, shrink):
                done.add(whole)
                yield whole

    part = file.with_name(f"{file.name}.part")
    with closing(open_to_read(source)) as store, part.open("wb") as out:
        head = head_of(store)
        shrink = _checked(head, shrink, source)
        dump.write(out, head._replace(numbers=shrink.numbers), counted(paged(shown(store.wholes(), "exported"))))
        out.flush()
        os.fsync(out.fileno())
    part.rename(file)
    return done


def import_(file: Path, target: Path, days: DaysSettings, shrink: Shrink | None = None) -> Copied:
    """A file into a store that nobody writes yet; it follows no topic."""
    try:
        opened = file.open("rb")
    except OSError as error:
        raise BadInput(f"{file}: cannot be read: {error.strerror}") from error
    with opened:
        head = dump.read_head(opened, file)
        with closing(_target(target, head, days, shrink)) as store:
            return _put(store, shown(dump.read(opened, file), "imported"), head.span)


def head_of(store: ReadableStore) -> Head:
    return Head(store.identity, store.zone, store.span, store.lineage, store.numbers)


def _checked(head: Head, shrink: Shrink | None, place: object) -> Shrink:
    """What becomes of memories on the way; raises BadInput where these cannot become so."""
    if shrink is None or shrink.numbers == head.numbers:
        return Shrink(head.numbers)
    if head.numbers != "float32":
        raise BadInput(
            f"{place}: its memories are in {head.numbers}, asked for are copies in {shrink.numbers}: what was rounded away is "
            "not to be had again. Follow the snapshots topic into another store, or repair one from a savepoint"
        )
    return shrink


def _target(place: Path, head: Head, days: DaysSettings, shrink: Shrink | None) -> WritableStore:
    shrink = _checked(head, shrink, words(place))
    store = open_to_write(place, head.identity, zone=head.zone, kept=days.kept, shrink=shrink)
    try:
        if any(part.source is not None for part in parts_of(store)):
            raise StoreMismatch(
                f"{words(place)}: it follows a topic, and what it has may be newer than what comes. Copy into another one"
            )
        store.adopt(head.lineage)
    except BaseException:
        store.close()
        raise
    return store


def _put(store: WritableStore, wholes: Iterable[Whole], span: Span | None) -> Copied:
    done = Copied()
    for page in paged(wholes):
        store.put_wholes(page, span)
        for whole in page:
            done.add(whole)
    return done
