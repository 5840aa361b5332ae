"""The note that sends a store's readers to another store."""

from pathlib import Path

import pytest
import redis_started

from uic.errors import StoreError
from uic.store.moved import FILE, Pair, move, newest, where_to


def pair(root: Path, name: str) -> Pair:
    (root / name).mkdir()
    return Pair(root / name, root / f"{name}-bundle")


@pytest.fixture(params=["folders", "redis", "both"])
def pairs(request: pytest.FixtureRequest, tmp_path: Path) -> list[Pair]:
    """Three stores: folders, in a Redis, or two of them there."""
    folders = [pair(tmp_path, name) for name in ("first", "second", "third")]
    if request.param == "folders":
        return folders
    name = redis_started.name_of(Path(request.node.name))
    stored = [
        Pair(Path(str(redis_started.servers().url(f"{name[-60:]}-{at}"))), each.bundle) for at, each in enumerate(folders)
    ]
    return stored if request.param == "redis" else [stored[0], folders[1], stored[2]]


def test_readers_stay_until_they_are_sent_and_go_to_the_end_of_the_way(pairs: list[Pair]) -> None:
    first, second, third = pairs
    assert where_to(first.store) is None
    assert newest(first.store) is None
    move(first.store, second)
    move(first.store, second)
    assert where_to(first.store) == newest(first.store) == second
    move(second.store, third)
    assert where_to(first.store) == second
    assert newest(first.store) == newest(second.store) == third


def test_a_way_that_cannot_be_gone_is_an_error(pairs: list[Pair]) -> None:
    first, second, third = pairs
    move(first.store, second)
    with pytest.raises(StoreError, match=r"its readers go to .* already; move that one"):
        move(first.store, third)
    move(second.store, first)
    with pytest.raises(StoreError, match="in a circle"):
        newest(first.store)


def test_a_note_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    third = pair(tmp_path, "third")
    (third.store / FILE).write_text("{")
    with pytest.raises(StoreError, match=r"moved\.json.*cannot be read"):
        where_to(third.store)
    (third.store / FILE).write_text('{"format": 2, "store": "/a", "bundle": "/b"}')
    with pytest.raises(StoreError, match="got 2"):
        where_to(third.store)
