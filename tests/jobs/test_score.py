"""`uic score` and `uic user show`: what is remembered of one user, for people."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import small
from command import Ended, Uic

from serving.scorer import Scorer
from uic.store.contract import InMemoryStore, StoreIdentity
from uic.store.rocksdb import RocksStore

USER = "u3"
UNKNOWN_ITEM = 987654321


@pytest.fixture
def store(world: small.World, tmp_path: Path) -> Path:
    return world.store(tmp_path / "store")


def score(uic: Uic, world: small.World, store: Path, user: str, items: str) -> Ended:
    return uic("score", "--user", user, "--items", items, "--bundle", world.bundle.path, "--store", store)


def show(uic: Uic, world: small.World, store: Path, user: str, *options: object) -> Ended:
    return uic("user", "show", user, "--bundle", world.bundle.path, "--store", store, *options)


def rows(printed: str) -> list[list[str]]:
    """The cells of a printed table, without its frame."""
    lines = [line for line in printed.splitlines() if "│" in line]
    return [[cell.strip() for cell in line.strip("│ ").split("│")] for line in lines]


def test_a_known_user_is_scored_from_the_stored_memory(uic: Uic, world: small.World, store: Path) -> None:
    ended = score(uic, world, store, USER, "101:2, 105:1")
    memory = world.codec.decode(world.memories[USER])
    expected = Scorer(world.bundle, InMemoryStore()).score_memory(memory, np.array([101, 105]), np.array([2, 1]))
    assert ended.code == 0
    assert f"user '{USER}': memory after {memory.sequence} events" in ended.out
    assert [row[:3] for row in rows(ended.out)[-2:]] == [
        ["101", "2", f"{expected[0]:.4f}"], ["105", "1", f"{expected[1]:.4f}"],
    ]  # fmt: skip


def test_an_unknown_user_is_scored_from_the_initial_memory_and_told_so(uic: Uic, world: small.World, store: Path) -> None:
    ended = score(uic, world, store, "stranger", "101:2")
    initial = Scorer(world.bundle, InMemoryStore()).score_memory(world.bundle.initial, np.array([101]), np.array([2]))
    assert ended.code == 0
    assert "user 'stranger' is not in the store: scored from the initial memory" in ended.out
    assert rows(ended.out)[-1][2] == f"{initial[0]:.4f}"


def test_an_item_that_training_did_not_know_is_marked_and_a_known_one_is_not(uic: Uic, world: small.World, store: Path) -> None:
    known = int(world.bundle.items.ids[0])
    ended = score(uic, world, store, USER, f"{UNKNOWN_ITEM},{known}")
    marks = {row[0]: "unknown" in " ".join(row[3:]) for row in rows(ended.out)}
    assert marks == {str(UNKNOWN_ITEM): True, str(known): False}


def test_a_category_not_given_is_unknown_and_counts(uic: Uic, world: small.World, store: Path) -> None:
    without, given = (score(uic, world, store, USER, items) for items in ("101", "101:2"))
    assert rows(without.out)[-1][:2] == ["101", "-1"]
    assert rows(without.out)[-1][2] != rows(given.out)[-1][2]


@pytest.mark.parametrize("items", ["", "abc", "1,", "1:x", "1:2:3", "1.5", str(1 << 63), f"1:{1 << 63}", "1_000", "٣", "nan"])
def test_ids_that_are_none_are_refused(uic: Uic, world: small.World, store: Path, items: str) -> None:
    ended = score(uic, world, store, USER, items)
    assert ended.code == 2
    assert ended.err.startswith("BadInput: --items: expected 64-bit item ids")


@pytest.mark.parametrize("user", ["", "x" * 129, "\udcff"])
def test_a_user_that_cannot_be_one_is_refused(uic: Uic, world: small.World, store: Path, user: str) -> None:
    for ended in (score(uic, world, store, user, "101"), show(uic, world, store, user)):
        assert ended.code == 2
        assert ended.err.startswith("BadInput: user: expected 1 to 128 bytes of UTF-8")


@pytest.mark.parametrize("command", ["score", "show"])
@pytest.mark.parametrize(
    ("identity", "named"), [({"layout": "0" * 16}, "memories of layout 0000"), ({"lineage": "another"}, "lineage another")]
)
def test_a_store_of_other_memories_is_refused(
    uic: Uic, world: small.World, tmp_path: Path, command: str, identity: dict[str, str], named: str
) -> None:
    foreign = tmp_path / "foreign"
    RocksStore.create_or_open(foreign, StoreIdentity(**{**world.bundle.identity._asdict(), **identity})).close()
    ended = score(uic, world, foreign, USER, "101") if command == "score" else show(uic, world, foreign, USER)
    assert ended.code == 2
    assert ended.err.startswith("StoreMismatch: ")
    assert named in ended.err


@pytest.mark.parametrize("command", [score, show])
def test_a_corrupt_memory_is_never_used(uic: Uic, world: small.World, tmp_path: Path, command: object) -> None:
    blob = bytearray(world.memories[USER])
    blob[-30] ^= 4
    store = world.store(tmp_path / "corrupt", {USER: bytes(blob)})
    ended = score(uic, world, store, USER, "101") if command is score else show(uic, world, store, USER)
    assert ended.code == 2
    assert ended.err.startswith("ChecksumMismatch: ")
    assert ended.out == ""


def test_a_user_is_shown_with_events_time_shares_and_named_categories(uic: Uic, world: small.World, store: Path) -> None:
    ended = show(uic, world, store, USER, "--nearest", 2)
    memory = world.codec.decode(world.memories[USER])
    last = np.datetime64(memory.last_time_ms, "ms").astype("datetime64[s]")
    assert ended.code == 0
    assert f"user '{USER}': {memory.sequence} events applied, {world.codec.size} bytes" in ended.out
    assert re.search(rf"last event +{str(last).replace('T', ' ')}", ended.out)
    slots = rows(ended.out)
    assert [row[0] for row in slots] == [str(slot) for slot in range(small.VARIANT.slots)]
    shares = [float(re.match(r"([0-9.]+)%", row[1]).group(1)) for row in slots]  # type: ignore[union-attr]  # else it fails
    assert sum(shares) == pytest.approx(100, abs=0.3)
    for row in slots:
        assert len(re.findall(r"genre [1-5] \([+-][0-9.]+\)", row[3])) == 2


def test_the_nearest_category_is_the_one_whose_embedding_a_slot_holds(uic: Uic, world: small.World, tmp_path: Path) -> None:
    memory = world.codec.decode(world.memories[USER])
    tensors = {name: values.copy() for name, values in world.bundle.layout.split(memory.state_F).items()}
    table = world.bundle.embeddings()[1]
    for slot, category in enumerate((4, 2, 5, 1)):
        tensors["slots"][slot, 4:] = table[world.bundle.categories.row(category)]
    blob = world.codec.encode(dataclasses.replace(memory, state_F=world.bundle.layout.pack(tensors)))
    ended = show(uic, world, world.store(tmp_path / "drawn", {USER: blob}), USER, "--nearest", 1)
    assert [row[3] for row in rows(ended.out)] == [f"genre {category} (+1.00)" for category in (4, 2, 5, 1)]


def test_a_user_whom_the_store_never_saw_is_told_so(uic: Uic, world: small.World, store: Path) -> None:
    ended = show(uic, world, store, "[/stranger]")
    assert ended.code == 2
    assert ended.err.startswith("BadInput: user '[/stranger]' is not in the store")


@pytest.fixture
def store_of_three_days(world: small.World, tmp_path: Path) -> Path:
    """One user with 2 events on 2026-11-20 and 3 more on the 22nd, Shanghai time; midnight there is 16:00 UTC."""
    path = tmp_path / "days"
    store = RocksStore.create_or_open(path, world.bundle.identity, zone="Asia/Shanghai", kept=3)
    for sequence, time in ((2, "2026-11-20T15:59:59.999"), (5, "2026-11-21T16:00")):
        memory = world.codec.decode(world.memories[USER])
        log_time_ms = int(np.datetime64(time, "ms").astype(int))
        state_F = memory.state_F * np.float32(sequence)
        memory = dataclasses.replace(memory, state_F=state_F, sequence=sequence, log_time_ms=log_time_ms)
        assert store.write(USER, world.codec.encode(memory))
    store.close()
    return path


def test_a_user_is_shown_and_scored_as_of_a_day(uic: Uic, world: small.World, store_of_three_days: Path) -> None:
    at = ("--as-of", "2026-11-22")
    assert "2 events applied" in show(uic, world, store_of_three_days, USER, *at).out
    assert "as of the beginning of 2026-11-22 (Asia/Shanghai)" in show(uic, world, store_of_three_days, USER, *at).out
    assert "5 events applied" in show(uic, world, store_of_three_days, USER).out
    words = ("--user", USER, "--items", "101:2", "--bundle", world.bundle.path, "--store", store_of_three_days)
    now, then, before = (uic("score", *words, *day) for day in ((), at, ("--as-of", "2026-11-20")))
    assert "memory after 5 events\n" in now.out
    assert "memory after 2 events, as of the beginning of 2026-11-22 (Asia/Shanghai)" in then.out
    assert (
        "was not in the store, as of the beginning of 2026-11-20 (Asia/Shanghai): scored from the initial memory" in before.out
    )
    assert len({rows(each.out)[-1][2] for each in (now, then, before)}) == 3


@pytest.mark.parametrize(
    ("day", "says"),
    [
        ("2026-11-19", "kept are 2026-11-20 to 2026-11-22 (Asia/Shanghai)"),
        ("2026-11-23", "nothing in the store was taken in on that day or later; its newest day is 2026-11-22"),
        ("yesterday", "--as-of: expected a day such as 2026-11-20, got 'yesterday'"),
        ("20261120", "--as-of: expected a day such as 2026-11-20, got '20261120'"),
        ("2026-02-30", "--as-of: expected a day such as 2026-11-20, got '2026-02-30'"),
    ],
)
def test_a_day_that_cannot_be_read_is_refused_with_those_that_can(
    uic: Uic, world: small.World, store_of_three_days: Path, day: str, says: str
) -> None:
    for command in (("user", "show", USER), ("score", "--user", USER, "--items", "101")):
        ended = uic(*command, "--bundle", world.bundle.path, "--store", store_of_three_days, "--as-of", day)
        assert ended.code == 2
        assert ended.err.startswith("BadInput: ")
        assert says in ended.err


def test_a_user_with_brackets_in_the_name_is_printed_as_it_is(uic: Uic, world: small.World, tmp_path: Path) -> None:
    store = world.store(tmp_path / "brackets", {"[/red]": world.memories[USER]})
    assert "user '[/red]': memory after" in score(uic, world, store, "[/red]", "101").out
    assert "user '[/red]': " in show(uic, world, store, "[/red]").out
