"""Event files as one ordered sequence of lines, readable from any position on (operators/lines.py)."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from operators.lines import Chunk, EventFolder, Line, Position, Surprise, surprises
from uic.errors import JobError
from uic.event import MAX_EVENT_BYTES

# Bytes that meet every rule: ends of line of both kinds, bytes that are no UTF-8, null bytes, and lines longer than a block.
FILES = st.lists(
    st.lists(st.sampled_from([b"a", b"bb", b"\n", b"\r\n", b"\r", b"\xff", b"\x00", b"x" * 20]), max_size=30).map(b"".join),
    max_size=4,
)
FRESH_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def write(folder: Path, contents: list[bytes]) -> None:
    for path in folder.iterdir():
        path.unlink()
    for number, content in enumerate(contents):
        (folder / f"{number}.jsonl").write_bytes(content)


def read_all(folder: EventFolder, at: Position = Position(), max_lines: int = 3) -> tuple[list[tuple[str, Line]], Position]:
    lines: list[tuple[str, Line]] = []
    while True:
        chunk = folder.chunk(at, max_lines=max_lines)
        lines += [(at.file, line) for line in chunk.lines]
        at = chunk.position
        if not chunk.has_more:
            return lines, at


def payloads(folder: EventFolder, at: Position = Position()) -> list[bytes]:
    return [line.payload for _, line in read_all(folder, at)[0]]


def by_hand(contents: list[bytes]) -> list[tuple[str, Line]]:
    """The lines as the rules say, found without blocks or positions."""
    lines = []
    for number, content in enumerate(contents):
        offset = 0
        for whole in content.split(b"\n"):
            payload = whole.removesuffix(b"\r")
            if payload:
                lines.append((f"{number}.jsonl", Line(offset, payload, len(payload))))
            offset += len(whole) + 1
    return lines


@FRESH_FOLDER
@given(FILES, st.integers(1, 9), st.integers(1, 5))
def test_all_lines_come_once_and_in_order(tmp_path: Path, contents: list[bytes], block: int, max_lines: int) -> None:
    write(tmp_path, contents)
    lines, position = read_all(EventFolder(tmp_path, block_bytes=block), max_lines=max_lines)
    assert lines == by_hand(contents)
    assert position.lines == len(lines)
    assert position.bytes_read == sum(map(len, contents))


@FRESH_FOLDER
@given(FILES, st.integers(1, 9))
def test_reading_goes_on_from_every_position(tmp_path: Path, contents: list[bytes], block: int) -> None:
    write(tmp_path, contents)
    folder, at, before = EventFolder(tmp_path, block_bytes=block), Position(), list[tuple[str, Line]]()
    while True:
        restored = Position.from_json(at.to_json())
        assert before + read_all(EventFolder(tmp_path, block_bytes=7), restored)[0] == by_hand(contents)
        chunk = folder.chunk(at, max_lines=2)
        before += [(at.file, line) for line in chunk.lines]
        at = chunk.position
        if not chunk.has_more:
            break


@FRESH_FOLDER
@given(FILES, st.data())
def test_a_growing_log_gives_the_lines_of_the_finished_one(tmp_path: Path, contents: list[bytes], data: st.DataObject) -> None:
    contents = [content + b"\n" for content in contents]
    write(tmp_path, [])
    folder, at, lines = EventFolder(tmp_path, waits=True, block_bytes=5), Position(), list[tuple[str, Line]]()
    for number, content in enumerate(contents):
        cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=3)))
        for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True):
            with (tmp_path / f"{number}.jsonl").open("ab") as file:
                file.write(content[start:end])
            more, at = read_all(folder, at)
            lines += more
    assert lines == by_hand(contents)


def test_a_finished_file_is_reported_with_its_size(tmp_path: Path) -> None:
    write(tmp_path, [b"a\nb", b"c\n"])
    folder, at, finished = EventFolder(tmp_path), Position(), []
    while (chunk := folder.chunk(at, max_lines=9)).has_more:
        at = chunk.position
        finished.append(chunk.finished)
    assert [entry for entry in finished if entry is not None] == [("0.jsonl", 3)]


def test_other_files_and_folders_are_not_read(tmp_path: Path) -> None:
    write(tmp_path, [b"a\n"])
    (tmp_path / "notes.txt").write_bytes(b"b\n")
    (tmp_path / "deep.jsonl").mkdir()
    assert payloads(EventFolder(tmp_path)) == [b"a"]


def test_an_empty_folder_has_nothing_yet(tmp_path: Path) -> None:
    assert EventFolder(tmp_path).chunk(Position(), max_lines=9) == Chunk([], Position(), False)


def test_watching_waits_for_the_end_of_the_last_line(tmp_path: Path) -> None:
    write(tmp_path, [b'a\n{"half'])
    folder = EventFolder(tmp_path, waits=True)
    lines, at = read_all(folder)
    assert [line.payload for _, line in lines] == [b"a"]
    with (tmp_path / "0.jsonl").open("ab") as file:
        file.write(b'": 1}\n')
    assert payloads(folder, at) == [b'{"half": 1}']


def test_watching_takes_a_last_line_without_end_once_a_later_file_stands_beside_it_unchanged(tmp_path: Path) -> None:
    write(tmp_path, [b"a", b"b\n"])
    folder = EventFolder(tmp_path, waits=True)
    lines, at = read_all(folder)
    assert lines == []
    assert payloads(folder, at) == [b"a", b"b"]


def test_a_huge_line_is_cut_and_measured_without_being_kept(tmp_path: Path) -> None:
    write(tmp_path, [b"a\n" + b"x" * (3 * MAX_EVENT_BYTES) + b"\r\nb\n"])
    lines, _ = read_all(EventFolder(tmp_path))
    assert [line.size for _, line in lines] == [1, 3 * MAX_EVENT_BYTES, 1]
    assert len(lines[1][1].payload) == MAX_EVENT_BYTES + 1
    assert lines[2][1] == Line(2 + 3 * MAX_EVENT_BYTES + 2, b"b", 1)


def test_a_file_that_shrank_is_refused_with_numbers(tmp_path: Path) -> None:
    write(tmp_path, [b"aaaa\n"])
    _, at = read_all(EventFolder(tmp_path))
    (tmp_path / "0.jsonl").write_bytes(b"a\n")
    with pytest.raises(JobError, match="5 bytes of it were read, now it has 2"):
        EventFolder(tmp_path).chunk(at, max_lines=9)


def test_a_file_that_vanished_is_refused_with_numbers(tmp_path: Path) -> None:
    write(tmp_path, [b"aaaa\n"])
    _, at = read_all(EventFolder(tmp_path))
    (tmp_path / "0.jsonl").unlink()
    with pytest.raises(JobError, match="5 bytes of it were read, now it cannot be opened"):
        EventFolder(tmp_path).chunk(at, max_lines=9)


def test_a_file_that_was_replaced_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [b"aaaa\n"])
    _, at = read_all(EventFolder(tmp_path))
    (tmp_path / "0.jsonl").write_bytes(b"bbbb\ncccc\n")
    with pytest.raises(JobError, match="the 5 bytes before offset 5 are not those that were read"):
        EventFolder(tmp_path).chunk(at, max_lines=9)


def test_what_was_passed_over_is_a_surprise_and_what_was_deleted_is_not() -> None:
    at = Position(file="m.jsonl")
    finished = {"a.jsonl": 5, "b.jsonl": 7, "gone.jsonl": 3}
    sizes = {"a.jsonl": 5, "b.jsonl": 9, "late.jsonl": 4, "m.jsonl": 1, "z.jsonl": 1}
    assert surprises(sizes, finished, at) == [Surprise("b.jsonl", 7, 9), Surprise("late.jsonl", 0, 4)]


def test_a_position_of_another_format_is_refused() -> None:
    saved = replace(Position(), file="a.jsonl").to_json().replace(b'"format": 1', b'"format": 2')
    with pytest.raises(JobError, match="reads format 1"):
        Position.from_json(saved)
