"""The note that the readers of a store go over to another one: `moved.json` in its folder, one over all shards.

    {"format": 1, "store": "/data/job-17/store", "bundle": "/data/job-17/bundle"}

Memories of another layout or lineage cannot lie in the same store. They have a store of their own, and a bundle that reads it:
both go into one file that appears by one rename, so that nobody reads memories of the one with the model of the other. A reader
looks for the note before it opens a store, and now and then while it reads one. What is written to the old store is seen by
nobody any more; nothing in it is touched.
"""

import json
from pathlib import Path
from typing import NamedTuple

from uic.artefact import write_atomically
from uic.errors import StoreError

FILE = "moved.json"
_FORMAT = 1


class Pair(NamedTuple):
    """A store, and a bundle that its memories are read with."""

    store: Path
    bundle: Path


def move(store: Path, to: Pair) -> None:
    """From now on the readers of this store read that pair. Done before: nothing happens; raises StoreError for another."""
    if (found := where_to(store)) is not None and found != to:
        raise StoreError(f"{store}: its readers go to {found.store} already; move that one")
    content = {"format": _FORMAT, **{name: str(path.absolute()) for name, path in to._asdict().items()}}
    write_atomically(store / FILE, json.dumps(content) + "\n")


def where_to(store: Path) -> Pair | None:
    """Where the readers of this store are to go; None: they stay."""
    try:
        content = json.loads((store / FILE).read_text(encoding="utf-8"))
        found, pair = content["format"], Pair(Path(content["store"]), Path(content["bundle"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{store / FILE}: where the store's readers are to go cannot be read: {error!r}") from error
    if found != _FORMAT:
        raise StoreError(f"{store / FILE}: this release reads format {_FORMAT}, got {found}")
    return pair


def newest(store: Path) -> Pair | None:
    """The same to the end of the way, where one move came after another."""
    pair, seen = None, {store.absolute()}
    while (further := where_to(store if pair is None else pair.store)) is not None:
        if further.store in seen:
            raise StoreError(f"{store}: its readers are sent around in a circle, from {further.store} back to it")
        seen.add(further.store)
        pair = further
    return pair
