"""The note that the readers of a store go over to another one: `moved.json` in its folder, one over all shards.

    {"format": 1, "store": "/data/job-17/store", "bundle": "/data/job-17/bundle"}

Of a store in Redis, it is the field "moved" of the store's hash (uic/store/redis_keys.py).

Memories of another layout or lineage cannot lie in the same store. They have a store of their own, and a bundle that reads it:
both go into one file that appears by one rename, so that nobody reads memories of the one with the model of the other. A reader
looks for the note before it opens a store, and now and then while it reads one. What is written to the old store is seen by
nobody any more; nothing in it is touched.
"""

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from uic.artefact import write_atomically
from uic.errors import StoreError
from uic.store.place import RedisUrl, absolute, redis_url, words

if TYPE_CHECKING:
    from uic.store.redis_link import Link

FILE = "moved.json"
FIELD = "moved"
_FORMAT = 1


class Pair(NamedTuple):
    """A store, and a bundle that its memories are read with."""

    store: Path
    bundle: Path


def move(store: Path, to: Pair) -> None:
    """From now on the readers of this store read that pair. Done before: nothing happens; raises StoreError for another."""
    if (found := where_to(store)) is not None and found != to:
        raise StoreError(f"{words(store)}: its readers go to {words(found.store)} already; move that one")
    content = {"format": _FORMAT, "store": str(absolute(to.store)), "bundle": str(to.bundle.absolute())}
    note, url = json.dumps(content) + "\n", redis_url(store)
    if url is None:
        write_atomically(store / FILE, note)
    else:
        _link(url).ask("HSET", url.name, FIELD, note)


def where_to(store: Path) -> Pair | None:
    """Where the readers of this store are to go; None: they stay."""
    place = store / FILE if redis_url(store) is None else f"{words(store)}: {FIELD}"
    try:
        note = _read(store)
        if note is None:
            return None
        content = json.loads(note)
        found, pair = content["format"], Pair(Path(content["store"]), Path(content["bundle"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{place}: where the store's readers are to go cannot be read: {error!r}") from error
    if found != _FORMAT:
        raise StoreError(f"{place}: this release reads format {_FORMAT}, got {found}")
    return pair


def _read(store: Path) -> str | bytes | None:
    if (url := redis_url(store)) is not None:
        note: bytes | None = _link(url).ask("HGET", url.name, FIELD)
        return note
    try:
        return (store / FILE).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None


@cache
def _link(url: RedisUrl) -> "Link":
    """One for as long as the process lives: whoever reads a store looks for the note again and again."""
    from uic.store.redis_link import Link

    return Link(url)


def newest(store: Path) -> Pair | None:
    """The same to the end of the way, where one move came after another."""
    pair, seen = None, {absolute(store)}
    while (further := where_to(store if pair is None else pair.store)) is not None:
        if further.store in seen:
            raise StoreError(f"{words(store)}: its readers are sent around in a circle, from {words(further.store)} back to it")
        seen.add(further.store)
        pair = further
    return pair
