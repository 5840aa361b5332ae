"""Directories that appear whole or not at all (uic/artefact.py), killed at every place."""

import os
from pathlib import Path

import pytest
from child import child

from uic.artefact import MARKER, check_is, check_may_write, kind_of, mark, new_directory, write_atomically
from uic.errors import BadInput, ForeignDirectory

# Kills itself with -9 at the n-th call of the file system that makes, renames or removes, or reports how many there were.
DYING = """
import os, shutil, signal, sys
from pathlib import Path
target, die_at, calls = Path(sys.argv[1]), int(sys.argv[2]), 0
def watched(function):
    def call(*arguments, **keywords):
        global calls
        calls += 1
        if calls == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **keywords)
    return call
for name in ("mkdir", "rename", "replace", "rmdir", "unlink", "fsync"):
    setattr(os, name, watched(getattr(os, name)))
from uic import artefact
with artefact.new_directory(target, "dataset", replace=True) as folder:
    (folder / "a.txt").write_text("new")
    (folder / "deep").mkdir()
    (folder / "deep" / "b.txt").write_text("new")
print(calls, flush=True)
"""


def make(target: Path, text: str, *, kind: str = "dataset", replace: bool = True) -> None:
    with new_directory(target, kind, replace=replace) as folder:
        (folder / "a.txt").write_text(text)
        (folder / "deep").mkdir()
        (folder / "deep" / "b.txt").write_text(text)


def content(target: Path) -> str:
    """What a whole artefact says; fails where it is not whole."""
    texts = {(target / name).read_text() for name in ("a.txt", "deep/b.txt")}
    assert len(texts) == 1
    assert sorted(path.name for path in target.iterdir()) == ["a.txt", MARKER, "deep"]
    check_is(target, "dataset")
    return texts.pop()


def calls_of_a_whole_run(target: Path) -> int:
    with child(DYING, target, 0) as writer:
        return int(writer.said())


@pytest.mark.parametrize("existed", [False, True])
def test_a_kill_at_any_call_leaves_the_old_or_the_new_whole_and_the_next_run_cleans_up(tmp_path: Path, existed: bool) -> None:
    tried = tmp_path / "tried" / "out"
    if existed:
        make(tried, "old")
    count = calls_of_a_whole_run(tried)
    assert content(tried) == "new"
    assert count >= (8 if existed else 6)
    for die_at in range(1, count + 1):
        target = tmp_path / f"{die_at}" / "out"
        if existed:
            make(target, "old")
        with child(DYING, target, die_at) as writer:
            assert writer.process.wait() == -9
        left = {path.name for path in target.parent.iterdir()} if target.parent.exists() else set()
        if target.exists():
            assert content(target) in ("old", "new")
        elif existed:
            # Between the two renames the old one is aside, whole.
            (aside,) = target.parent.glob(".out.old-*")
            assert content(aside) == "old"
        # The next run first brings the old one back, then tidies up.
        with new_directory(tmp_path / f"{die_at}" / "other", "dataset"):
            assert {path.name for path in target.parent.iterdir()} >= left
        if existed:
            with pytest.raises(ForeignDirectory, match="there is a dataset already"):
                make(target, "newer", replace=False)
            assert content(target) in ("old", "new")
        make(target, "newer")
        assert content(target) == "newer"
        assert {path.name for path in target.parent.iterdir()} == {"out", "other"}


def test_an_exception_leaves_the_target_as_it_was_and_nothing_beside_it(tmp_path: Path) -> None:
    make(tmp_path / "out", "old")

    def fail(target: Path) -> None:
        with new_directory(target, "dataset", replace=True) as folder:
            (folder / "a.txt").write_text("half")
            raise KeyboardInterrupt

    for target in (tmp_path / "out", tmp_path / "fresh"):
        with pytest.raises(KeyboardInterrupt):
            fail(target)
    assert content(tmp_path / "out") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_directory_is_not_at_its_name_before_it_is_complete(tmp_path: Path) -> None:
    with new_directory(tmp_path / "deep" / "out", "dataset"):
        assert not (tmp_path / "deep" / "out").exists()
    assert kind_of(tmp_path / "deep" / "out") == "dataset"


def test_what_belongs_to_something_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter1.tex").write_text("mine")
    with pytest.raises(ForeignDirectory, match=r"expected an empty folder or a dataset, found files of something else"):
        make(foreign, "new")
    assert [(path.name, path.read_text()) for path in foreign.iterdir()] == [("chapter1.tex", "mine")]

    make(tmp_path / "bundle", "old", kind="bundle")
    with pytest.raises(ForeignDirectory, match="expected an empty folder or a dataset, found bundle"):
        make(tmp_path / "bundle", "new")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ForeignDirectory, match="but it is a file"):
        make(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"thesis", "bundle", "file"}


def test_a_folder_whose_marker_somebody_is_writing_is_as_an_empty_one(tmp_path: Path) -> None:
    """Of two that began at once in a shared folder, one was told that the folder is something else's."""
    (tmp_path / f".{MARKER}.4711").write_text('{"ki')
    check_may_write(tmp_path, "dataset", replace=False)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ForeignDirectory, match="files of something else"):
        check_may_write(tmp_path, "dataset", replace=True)


def test_one_of_the_same_kind_is_replaced_only_when_asked_and_an_empty_folder_always(tmp_path: Path) -> None:
    make(tmp_path / "out", "old")
    with pytest.raises(ForeignDirectory, match="there is a dataset already; pass --overwrite to replace it"):
        make(tmp_path / "out", "new", replace=False)
    assert content(tmp_path / "out") == "old"
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty", "new", replace=False)
    assert content(tmp_path / "empty") == "new"


@pytest.mark.parametrize(
    "name", [".out.old-notes", ".out.partial-notes", ".out.old-", ".out.old-x.partial-999999999", ".outer.partial-999999999"]
)
def test_folders_beside_the_target_that_are_not_ours_stay(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine").write_text("mine")
    make(tmp_path / "out", "new")
    make(tmp_path / "out", "newer")
    assert content(tmp_path / "out") == "newer"
    assert (tmp_path / name / "mine").read_text() == "mine"


def test_what_a_living_process_is_writing_stays(tmp_path: Path) -> None:
    living = tmp_path / f".out.partial-{os.getppid()}"
    living.mkdir()
    make(tmp_path / "out", "new")
    assert living.is_dir()


def test_leftovers_are_cleaned_also_beside_a_name_with_brackets(tmp_path: Path) -> None:
    (tmp_path / ".run[1].partial-999999999").mkdir()
    make(tmp_path / "run[1]", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["run[1]"]


@pytest.mark.parametrize("marker", [None, "", "{", "[]", '{"kind": 3}', '{"other": "dataset"}', "\xff"])
def test_a_directory_without_a_readable_marker_has_no_kind(tmp_path: Path, marker: str | None) -> None:
    if marker is not None:
        (tmp_path / MARKER).write_bytes(marker.encode("latin-1"))
    assert kind_of(tmp_path) is None
    with pytest.raises(BadInput, match=r"expected a dataset directory, found no artefact\.json in it"):
        check_is(tmp_path, "dataset")


def test_a_wrong_kind_and_a_missing_directory_are_told_apart(tmp_path: Path) -> None:
    mark(tmp_path, "run")
    with pytest.raises(BadInput, match="expected a dataset directory, found run"):
        check_is(tmp_path, "dataset")
    with pytest.raises(BadInput, match="expected a dataset directory, but there is none"):
        check_is(tmp_path / "nowhere", "dataset")


def test_a_file_written_atomically_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    for text in ("one", "zwei\n", ""):
        write_atomically(tmp_path / "state.json", text)
        assert (tmp_path / "state.json").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
