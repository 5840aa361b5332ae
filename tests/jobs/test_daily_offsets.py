"""Offsets read from a savepoint's files, which the tests write from the format; a real savepoint is in tests/scenarios."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from midnight_world import savepoint_of

from jobs.daily.offsets import COMMITTED, EARLIEST, LATEST, Split, source_offsets, splits
from uic.errors import JobError

SUBTASKS = st.lists(
    st.tuples(
        st.sampled_from(["inline", "file", "beside"]),
        st.lists(st.builds(Split, st.text("abc.-_", min_size=1), st.integers(0, 200), st.integers(-3, 1 << 60)), max_size=5),
    ),
    max_size=4,
)


@given(SUBTASKS)
def test_every_split_of_every_subtask_is_read_wherever_its_bytes_are(subtasks: list[tuple[str, list[Split]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = list(splits(savepoint_of(Path(folder), subtasks)))
    assert found == [split for _, content in subtasks for split in content]


def test_a_partition_that_was_never_read_begins_at_the_first_offset_there_was(tmp_path: Path) -> None:
    savepoint_of(tmp_path, [("inline", [Split("e", 1, EARLIEST), Split("other", 0, 9)]), ("beside", [Split("e", 0, 17)])])
    assert source_offsets(tmp_path, "e", {0: 3, 1: 5}) == {0: 17, 1: 5}


@pytest.mark.parametrize(("offset", "words"), [(LATEST, "latest"), (COMMITTED, "the group has committed")])
def test_a_place_that_is_not_fixed_is_refused(tmp_path: Path, offset: int, words: str) -> None:
    savepoint_of(tmp_path, [("inline", [Split("e", 0, offset)])])
    with pytest.raises(JobError, match=words):
        source_offsets(tmp_path, "e", {0: 0})


def test_a_partition_without_an_offset_is_named(tmp_path: Path) -> None:
    savepoint_of(tmp_path, [("inline", [Split("e", 0, 4)])])
    with pytest.raises(JobError, match="nothing of partition 1, 2 of e"):
        source_offsets(tmp_path, "e", {0: 0, 1: 0, 2: 0})


def test_another_version_of_the_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="version 1"):
        list(splits(savepoint_of(tmp_path, [("inline", [Split("e", 0, 4)])], version=1)))
