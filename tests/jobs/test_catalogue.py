"""The catalogue of daily checkpoints: whatever is done in whatever order and killed wherever, no half entry and no orphan."""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.daily.catalogue import SAVEPOINT, Catalogue, digests
from jobs.daily.entry import Entry, example
from jobs.daily.keeping import superfluous
from uic.errors import BadInput, JobError

FIRST = date(2026, 11, 1)
# A kill loses nothing that was written, only a power cut does; so this may be done where flushing costs nothing.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
EFFECTS = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.replace", "shutil.rmtree"}
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["take", "take", "take", "seal", "pin", "unpin", "taint", "remove", "prune"]),
        st.integers(0, 9),
        st.none() | st.integers(0, 12),
    ),
    min_size=1,
    max_size=10,
)


def take(catalogue: Catalogue, number: int) -> Entry:
    """What Flink would leave, entered."""
    with catalogue.taking() as folder:
        savepoint = folder / SAVEPOINT
        (savepoint / "shared").mkdir(parents=True)
        (savepoint / "_metadata").write_bytes(b"m" * (number + 1))
        (savepoint / "shared" / "state").write_bytes(b"s" * 100)
        files = digests(savepoint)
        day = FIRST + timedelta(days=number)
        entry = example(id=f"{day}T000000Z", day=day, taken_ms=number, offsets={0: number}, files=files)
        return catalogue.add(folder, entry)


def operate(catalogue: Catalogue, operation: str, number: int) -> None:
    """One operation on the entry that is the number's; what is refused changes nothing."""
    entries = catalogue.entries()
    if operation == "take":
        take(catalogue, number)
    if not entries:
        return
    entry = entries[number % len(entries)]
    try:
        if operation == "seal":
            catalogue.change(entry, lambda now: replace(now, cut={0: number + 5}))
        elif operation == "pin":
            catalogue.pin(entry, "me")
        elif operation == "unpin":
            catalogue.unpin(entry, None)
        elif operation == "taint":
            catalogue.taint_after(FIRST + timedelta(days=number), "rolled back")
        elif operation == "remove":
            catalogue.remove(entry)
        elif operation == "prune":
            for gone in superfluous(entries, [FIRST + timedelta(days=number + each) for each in range(-2, 1)]):
                catalogue.remove(gone)
    except BadInput:
        pass


def killed_after(effects: int, work: Callable[[], None]) -> None:
    """Do the work in a process that ends, as by kill -9, before it changes the disk once more than so often."""
    left = effects

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in EFFECTS or (event == "open" and isinstance(arguments[1], str) and arguments[1][:1] in "wax"):
            left -= 1
            if left < 0:
                os._exit(9)

    child = os.fork()
    if child == 0:
        try:
            sys.addaudithook(count)
            work()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def check(catalogue: Catalogue) -> None:
    """Every entry is whole, and whatever else is there is hidden."""
    entries, unreadable = catalogue.contents()
    assert unreadable == {}
    for entry in entries:
        assert catalogue.wrong_files(entry) == []
    shown = {path.name for path in catalogue.path.iterdir() if path.is_dir() and not path.name.startswith(".")}
    assert shown == {entry.id for entry in entries}


@settings(max_examples=30)
@given(OPERATIONS)
def test_killed_anywhere_it_has_whole_entries_only_keeps_what_is_pinned_and_is_never_emptied(
    operations: list[tuple[str, int, int | None]],
) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as root:
        catalogue = Catalogue(Path(root) / "catalogue")
        for operation, number, effects in operations:
            before = catalogue.entries()
            if effects is None:
                operate(catalogue, operation, number)
            else:
                killed_after(effects, lambda doing=operation, number=number: operate(catalogue, doing, number))
            check(catalogue)
            after = {entry.id: entry for entry in catalogue.entries()}
            assert after or not before
            for entry in before:
                assert entry.id in after or (not entry.pins and operation in ("remove", "prune"))
                if operation not in ("seal", "pin", "unpin", "taint"):
                    assert after.get(entry.id, entry) == entry
        # Whoever changes something next finds nothing left of the dead.
        with catalogue.changing():
            pass
        ids = {entry.id for entry in catalogue.entries()}
        assert {path.name for path in catalogue.path.iterdir()} - ids <= {"artefact.json", "lock"}
        for each in ids:
            assert {path.name for path in (catalogue.path / each).iterdir()} == {"entry.json", SAVEPOINT}


def test_one_in_the_making_is_left_alone_by_others_and_goes_with_a_failure(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "c")

    def fail() -> None:
        with catalogue.taking() as folder:
            (folder / "half").write_bytes(b"")
            other = Catalogue(tmp_path / "c")
            take(other, 1)
            with other.changing():
                assert (folder / "half").exists()
            raise JobError("no savepoint")

    with pytest.raises(JobError, match="no savepoint"):
        fail()
    assert [path.name for path in catalogue.path.iterdir() if path.name.startswith(".")] == []
    assert [entry.day for entry in catalogue.entries()] == [FIRST + timedelta(days=1)]


def test_two_taken_within_a_second_are_two_entries(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path)
    assert [take(catalogue, 1).id for _ in range(3)] == [f"2026-11-02T000000Z{suffix}" for suffix in ("", ".2", ".3")]
    assert len(catalogue.entries()) == 3


def test_an_entry_is_found_by_its_id_or_by_its_day_which_means_the_best_of_it(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path)
    first, second, third = (take(catalogue, 1) for _ in range(3))
    assert catalogue.find("2026-11-02") in (first, second, third)
    sealed = catalogue.change(second, lambda now: replace(now, cut={0: 9}))
    assert catalogue.find("2026-11-02") == sealed
    assert catalogue.find(third.id) == third
    with pytest.raises(BadInput, match="no daily checkpoint 2026-12-01; there are 2026-11-02"):
        catalogue.find("2026-12-01")


def test_pins_are_counted_by_who_wants_them(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path)
    entry = take(catalogue, 1)
    take(catalogue, 2)
    catalogue.pin(entry, "rollback 7")
    catalogue.pin(entry, "me")
    catalogue.unpin(entry, "rollback 7")
    with pytest.raises(BadInput, match=r"pinned \(me\)"):
        catalogue.remove(entry)
    catalogue.unpin(entry, None)
    catalogue.remove(entry)
    with pytest.raises(BadInput, match="the last daily checkpoint"):
        catalogue.remove(catalogue.entries()[0])


def test_any_change_of_a_file_is_named(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path)
    entry = take(catalogue, 4)
    savepoint = catalogue.savepoint(entry)
    (savepoint / "_metadata").write_bytes(b"mmmxm")
    (savepoint / "more").write_bytes(b"")
    (savepoint / "shared" / "state").unlink()
    changed, more, missing = catalogue.wrong_files(entry)
    assert changed.startswith(f"{savepoint}/_metadata: its SHA-256 is ")
    assert more == f"{savepoint}/more: not there when the savepoint was taken"
    assert missing == f"{savepoint}/shared/state: missing"


def test_an_entry_that_cannot_be_read_is_told_and_hides_no_other(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path)
    good, newer, torn = take(catalogue, 1), take(catalogue, 2), take(catalogue, 3)
    path = catalogue.path / newer.id / "entry.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    (catalogue.path / torn.id / "entry.json").write_text("{")
    entries, unreadable = catalogue.contents()
    assert entries == [good]
    assert "this release reads format 1, got 2" in unreadable[catalogue.path / newer.id]
    assert "not an entry of this release" in unreadable[catalogue.path / torn.id]


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="files of something else"):
        Catalogue(tmp_path)
    with pytest.raises(BadInput, match="there is none"):
        Catalogue(tmp_path / "nowhere", make=False)


def test_an_entry_is_read_as_it_was_written() -> None:
    entry = example(cut={0: 5, 1: 9}, cut_by_clock=(1,), pins=("a", "b"), tainted="why", generation=3)
    assert Entry.from_json(json.dumps(entry.to_json()), "x") == entry
