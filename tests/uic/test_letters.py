"""Events that were not applied (uic/letters.py): nothing twice, nothing lost, readable while the job writes."""

from pathlib import Path

import pytest
from child import child
from hypothesis import given
from hypothesis import strategies as st

from uic.errors import BadInput
from uic.letters import KINDS, Letter, LetterBox

PLACES = st.tuples(st.sampled_from(["a.jsonl", "b.jsonl"]), st.integers(0, 5))
ENTRIES = st.tuples(
    PLACES, st.sampled_from(KINDS), st.sampled_from(["bad_json", "late", "same event_id"]), st.binary(max_size=4)
)
WRITER = """
import sys
from pathlib import Path
from uic.letters import LetterBox
box = LetterBox(Path(sys.argv[1]))
for number in range(10**9):
    box.put("dead", reason="bad_json", detail="d", source="a.jsonl", offset=number, payload=b"%d" % number)
    print(number, flush=True)
"""


def put(
    box: LetterBox,
    source: str = "a.jsonl",
    offset: int = 0,
    kind: str = "dead",
    reason: str = "bad_json",
    payload: bytes = b"{",
) -> None:
    box.put(kind, reason=reason, detail="why", source=source, offset=offset, payload=payload)


@given(st.lists(ENTRIES, max_size=30))
def test_a_place_in_the_input_has_one_letter_the_last_one_and_counts_once(
    entries: list[tuple[tuple[str, int], str, str, bytes]],
) -> None:
    box = LetterBox(Path(":memory:"))
    expected: dict[tuple[str, int], tuple[str, str, bytes]] = {}
    for (source, offset), kind, reason, payload in entries:
        put(box, source, offset, kind, reason, payload)
        expected[source, offset] = (kind, reason, payload)
    assert [((each.source, each.offset), (each.kind, each.reason, each.payload)) for each in box.letters()] == sorted(
        expected.items()
    )
    kinds = [(kind, reason) for kind, reason, _ in expected.values()]
    assert box.counts() == {each: kinds.count(each) for each in sorted(set(kinds))}


def test_replaying_the_same_input_writes_the_same_letters_again_and_changes_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        box = LetterBox(tmp_path / "letters.sqlite")
        for offset in range(5):
            put(box, offset=offset)
        box.close()
    assert LetterBox(tmp_path / "letters.sqlite", writable=False).counts() == {("dead", "bad_json"): 5}


def test_a_letter_keeps_everything_also_bytes_that_are_no_text() -> None:
    box = LetterBox(Path(":memory:"))
    box.put("late", reason="late", detail="ü\0", source="ö.jsonl", offset=2**62, payload=b"\xff\x00\n", user_id="u\0")
    assert list(box.letters()) == [Letter("ö.jsonl", 2**62, "late", "late", "ü\0", "u\0", b"\xff\x00\n")]


def test_letters_are_chosen_by_kind_reason_and_number_in_input_order() -> None:
    box = LetterBox(Path(":memory:"))
    for offset, (kind, reason) in enumerate(
        [("late", "late"), ("dead", "bad_json"), ("dead", "too_large"), ("dead", "bad_json")]
    ):
        put(box, offset=offset, kind=kind, reason=reason)
    put(box, "0.jsonl", offset=9)
    assert [(each.source, each.offset) for each in box.letters("dead", "bad_json")] == [
        ("0.jsonl", 9),
        ("a.jsonl", 1),
        ("a.jsonl", 3),
    ]
    assert [each.offset for each in box.letters(reason="too_large")] == [2]
    assert [each.offset for each in box.letters(limit=2)] == [9, 0]
    assert list(box.letters(limit=0)) == []


@pytest.mark.parametrize("name", ["letters.sqlite", "a b#c?mode=rwc%20ü.sqlite"])
def test_another_process_reads_what_the_job_is_writing(tmp_path: Path, name: str) -> None:
    with child(WRITER, tmp_path / name) as writer:
        for _ in range(20):
            seen = int(writer.said())
        reader = LetterBox(tmp_path / name, writable=False)
        assert reader.counts()["dead", "bad_json"] > seen
        before = len(list(reader.letters()))
        for _ in range(500):
            writer.said()
        assert len(list(reader.letters())) > before


def test_kill_9_keeps_every_letter_that_was_put(tmp_path: Path) -> None:
    path = tmp_path / "letters.sqlite"
    with child(WRITER, path) as writer:
        for _ in range(50):
            writer.said()
        writer.kill()
        last = int(([*writer.rest()] or ["49"])[-1])
    letters = list(LetterBox(path, writable=False).letters())
    assert [each.payload for each in letters[: last + 1]] == [b"%d" % number for number in range(last + 1)]
    assert len(letters) <= last + 2  # at most the one whose put had not returned


def test_a_reader_in_the_middle_of_reading_does_not_hold_up_the_job(tmp_path: Path) -> None:
    box = LetterBox(tmp_path / "letters.sqlite")
    for offset in range(1000):
        put(box, offset=offset)
    reading = LetterBox(tmp_path / "letters.sqlite", writable=False).letters()
    assert next(reading).offset == 0
    put(box, offset=1000)
    assert len(list(reading)) == 999


def test_a_reader_never_changes_the_letters(tmp_path: Path) -> None:
    put(LetterBox(tmp_path / "letters.sqlite"))
    reader = LetterBox(tmp_path / "letters.sqlite", writable=False)
    with pytest.raises(Exception, match="readonly"):
        put(reader, offset=1)
    assert reader.counts() == {("dead", "bad_json"): 1}


def test_reading_where_no_job_has_run_is_refused_and_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no such file; has the job run"):
        LetterBox(tmp_path / "letters.sqlite", writable=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "writable"), [(b"not a database" * 99, True), (b"not a database" * 99, False), (b"", False)]
)
def test_a_file_that_holds_no_letters_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes, writable: bool) -> None:
    path = tmp_path / "letters.sqlite"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"letters\.sqlite: expected the letters of a job: "):
        LetterBox(path, writable=writable)
    assert path.read_bytes() == content
