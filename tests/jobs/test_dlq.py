"""`uic dlq list`: what a job left out, why, and the bytes themselves."""

from pathlib import Path
from typing import Any

import pytest
from command import Uic

from uic.letters import LetterBox


def letter(kind: str, source: str, offset: int, payload: bytes, **known: str) -> dict[str, Any]:
    return {"kind": kind, "source": source, "offset": offset, "payload": payload, "reason": kind, "detail": kind, **known}


LETTERS = [
    letter("dead", "a.jsonl", 0, b'{"half', reason="bad_json", detail="not JSON"),
    letter("dead", "a.jsonl", 9, b"\xff\xfe\x00", reason="bad_encoding", detail="no UTF-8"),
    letter("late", "a.jsonl", 20, b'{"n": 1}', detail="5 s behind", user_id="u1"),
    letter("duplicate", "b.jsonl", 0, b'{"n": 2}\r\n', detail="same event_id", user_id="u2"),
    letter("dead", "b.jsonl", 9, b"[/b] [red]", reason="bad_json", detail="got [/b]"),
]


@pytest.fixture
def job(tmp_path: Path) -> Path:
    (tmp_path / "job").mkdir()
    box = LetterBox(tmp_path / "job" / "letters.sqlite")
    for each in LETTERS:
        box.put(each["kind"], **{name: value for name, value in each.items() if name != "kind"})
    box.close()
    return tmp_path / "job"


def test_every_letter_is_listed_with_place_reason_and_first_bytes(uic: Uic, job: Path) -> None:
    ended = uic("dlq", "list", "--job-dir", job)
    assert ended.code == 0
    for each in LETTERS:
        assert each["detail"] in ended.out
    for shown in ('{"half', "\\xff\\xfe", '{"n": 1}', "u1", "b.jsonl"):
        assert shown in ended.out


def test_what_looks_like_markup_is_shown_as_it_is(uic: Uic, job: Path) -> None:
    assert "[/b] [red]" in uic("dlq", "list", "--job-dir", job, "--kind", "dead").out


def test_letters_are_counted_by_kind_and_reason(uic: Uic, job: Path) -> None:
    counted = [line.replace("│", " ").split() for line in uic("dlq", "list", "--job-dir", job).out.splitlines()]
    assert ["dead", "bad_json", "2"] in counted
    assert ["dead", "bad_encoding", "1"] in counted
    assert ["late", "late", "1"] in counted


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), [0, 1, 2, 3, 4]),
        (("--kind", "dead"), [0, 1, 4]),
        (("--kind", "late"), [2]),
        (("--kind", "duplicate"), [3]),
        (("--reason", "bad_json"), [0, 4]),
        (("--kind", "late", "--reason", "bad_json"), []),
        (("--kind", "dead", "--limit", "2"), [0, 1]),
        (("--limit", "-1"), [0, 1, 2, 3, 4]),
    ],
)
def test_raw_gives_the_original_bytes_of_what_was_asked_for(
    uic: Uic, job: Path, options: tuple[str, ...], expected: list[int]
) -> None:
    ended = uic("dlq", "list", "--job-dir", job, "--raw", *options)
    assert ended.bytes == b"".join(LETTERS[place]["payload"].rstrip(b"\r\n") + b"\n" for place in expected)


def test_raw_gives_all_of_them_unless_a_limit_is_asked_for(uic: Uic, job: Path) -> None:
    box = LetterBox(job / "letters.sqlite")
    for place in range(50):
        box.put("dead", reason="bad_json", detail="", source="c.jsonl", offset=place, payload=b"%d" % place)
    box.close()
    assert uic("dlq", "list", "--job-dir", job, "--raw").bytes.count(b"\n") == 55


def test_the_settings_say_where_the_job_is(uic: Uic, job: Path) -> None:
    assert "not JSON" in uic("dlq", "list").out


def test_nothing_left_out_is_said(uic: Uic, tmp_path: Path) -> None:
    (tmp_path / "clean").mkdir()
    LetterBox(tmp_path / "clean" / "letters.sqlite").close()
    ended = uic("dlq", "list", "--job-dir", tmp_path / "clean")
    assert (ended.code, ended.out) == (0, "no event was left out\n")


def test_an_unknown_kind_is_refused(uic: Uic, job: Path) -> None:
    assert uic("dlq", "list", "--job-dir", job, "--kind", "lost").code == 2
