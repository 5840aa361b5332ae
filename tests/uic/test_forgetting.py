"""The file that says who is to be forgotten: what is noted stays noted, and names nobody."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uic.codec import NO_TIME
from uic.errors import JobError
from uic.forgetting import FILE, FOREVER_MS, Entry, Forgotten, Later, share

# Letters that no number in the file and none of its own words can be mistaken for.
users = st.text(alphabet="ghijkwxyzüß", min_size=6, max_size=20)
times_ms = st.integers(0, 1 << 50)
entries = st.builds(Entry, st.none() | times_ms, cast(st.SearchStrategy[Later], st.sampled_from(["anew", "drop"])), times_ms)
notes = st.lists(users, min_size=1, max_size=3).flatmap(
    lambda few: st.lists(st.tuples(st.sampled_from(few), entries), max_size=6)
)


def summed(said: Iterable[tuple[str, Entry]]) -> dict[str, Entry]:
    """What counts of these notes: the last one of each user, with the latest time that any of theirs has said."""
    found: dict[str, Entry] = {}
    furthest_ms: dict[str, int] = {}
    for user, entry in said:
        if entry.until_ms is not None:
            furthest_ms[user] = max(entry.until_ms, furthest_ms.get(user, 0))
            entry = entry._replace(until_ms=furthest_ms[user])
        found[user] = entry
    return found


def noted(folder: str, said: Iterable[tuple[str, Entry]]) -> Path:
    path = Path(folder) / FILE
    for user, entry in said:
        Forgotten(path).note(user, entry)  # each by a process of its own
    return path


@settings(max_examples=20, deadline=None)  # every note waits for the disk
@given(notes, users)
def test_the_last_note_about_a_user_counts_with_the_latest_time_and_nobody_else_is_touched(
    said: list[tuple[str, Entry]], other: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        forgotten = Forgotten(noted(folder, said))
        last = summed(said)
        assert {user: forgotten.entry(user) for user in last} == last
        assert forgotten.is_empty == (not last)
        if other not in last:
            assert forgotten.until_ms(other) is None
            assert not forgotten.is_gone(other, NO_TIME)
        for user, entry in last.items():
            until_ms = FOREVER_MS if entry.until_ms is None else entry.until_ms
            assert forgotten.is_gone(user, until_ms)
            assert forgotten.is_gone(user, NO_TIME)  # a memory without a log time is older than any
            assert entry.until_ms is None or not forgotten.is_gone(user, until_ms + 1)


@settings(max_examples=20, deadline=None)  # every note waits for the disk
@given(notes)
def test_the_file_names_nobody_and_the_same_user_looks_another_way_in_every_file(said: list[tuple[str, Entry]]) -> None:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        lines = [noted(folder, said).read_text().splitlines() if said else [] for folder in (one, two)]
        assert not any(user in line for user, _ in said for line in lines[0])
        assert not {line[:45] for line in lines[0][1:]} & {line[:45] for line in lines[1][1:]}


@settings(max_examples=20, deadline=None)  # every note waits for the disk
@given(notes.filter(len), st.data())
def test_a_writer_killed_anywhere_leaves_all_earlier_notes_and_the_next_one_is_whole(
    said: list[tuple[str, Entry]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = noted(folder, said)
        whole = path.read_bytes()
        ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
        cut = data.draw(st.integers(ends[0], len(whole)))
        path.write_bytes(whole[:cut])
        left = sum(end <= cut for end in ends) - 1
        before = summed(said[:left])
        assert {user: Forgotten(path).entry(user) for user in before} == before
        Forgotten(path).note("zzzzzz", Entry(5, "anew", 6))
        after = Forgotten(path)
        expected = {**before, "zzzzzz": Entry(5, "anew", 6)}
        assert {user: after.entry(user) for user in expected} == expected


@settings(max_examples=20, deadline=None)  # every note waits for the disk
@given(notes, notes)
def test_who_reads_on_knows_what_who_reads_anew_does(before: list[tuple[str, Entry]], after: list[tuple[str, Entry]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        reader = Forgotten(noted(folder, before))
        asked = [reader.until_ms(user) for user, _ in [*before, *after]]  # and remembers the answers
        assert len(asked) == len(before) + len(after)
        path = noted(folder, after)
        reader.refresh()
        anew = Forgotten(path)
        assert all(reader.until_ms(user) == anew.until_ms(user) for user, _ in [*before, *after])


def test_an_open_note_drops_everything_until_it_is_known_how_far_the_old_life_reached(tmp_path: Path) -> None:
    forgotten = Forgotten(tmp_path / FILE)
    forgotten.heed("u1", 7)  # nobody asked for that
    assert forgotten.until_ms("u1") is None
    forgotten.note("u1", Entry(None, "anew", 1))
    assert forgotten.is_gone("u1", 1 << 60)
    forgotten.heed("u1", 7)
    assert forgotten.is_gone("u1", 7)
    assert not forgotten.is_gone("u1", 8)
    # Who starts anew before it is written down goes the safe way.
    assert Forgotten(tmp_path / FILE).is_gone("u1", 8)
    forgotten.note("u1", Entry(None, "drop", 2))
    forgotten.heed("u1", 9)
    assert forgotten.is_gone("u1", 1 << 60)


def test_many_writers_at_once_lose_no_note(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def note(n: int) -> None:
        Forgotten(tmp_path / FILE).note(f"u{n}", Entry(n, "anew", n))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(note, range(60)))
    forgotten = Forgotten(tmp_path / FILE)
    assert [forgotten.until_ms(f"u{n}") for n in range(60)] == list(range(60))


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b"{}", b'{"user": "zz", "until_ms": 1, "later": "anew", "asked_ms": 1}', b"\xff", b'{"user": "00"}']
)
def test_a_line_that_cannot_be_read_is_an_error_since_nobody_may_be_left_out(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / FILE
    Forgotten(path).note("u1", Entry(1, "anew", 1))
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(JobError, match="a line cannot be read"):
        Forgotten(path)


def test_a_file_of_a_newer_release_or_one_that_went_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / FILE
    forgotten = Forgotten(path)
    forgotten.note("u1", Entry(1, "anew", 1))
    (tmp_path / "newer").write_text('{"format": 2, "salt": "00"}\n')
    with pytest.raises(JobError, match="reads format 1, got 2"):
        Forgotten(tmp_path / "newer")
    path.unlink()
    with pytest.raises(JobError, match="it was there, and is not"):
        forgotten.refresh()


def test_two_jobs_that_share_the_file_forget_together(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    share(first, second)
    share(first, second)
    one, other = Forgotten(first), Forgotten(second)
    one.note("u1", Entry(5, "anew", 1))
    other.note("u2", Entry(None, "drop", 2))
    for each in (one, other):
        each.refresh()
        assert (each.until_ms("u1"), each.until_ms("u2")) == (5, FOREVER_MS)
    Forgotten(third).note("u3", Entry(1, "anew", 1))
    with pytest.raises(JobError, match="expected the same file"):
        share(first, third)
