"""Letters sent back: the original bytes under the original key, each once, and after a kill again rather than never."""

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from command import Uic
from confluent_kafka import Producer
from consumed import consumed

from jobs import topics
from jobs.kafka import client_config
from jobs.letter_topics import Kind
from jobs.replay import to_file, to_topic
from jobs.settings import KafkaSettings
from uic.errors import BadInput
from uic.event import MAX_EVENT_BYTES
from uic.letters import LetterBox

Sent = tuple[bytes | None, bytes | None]
POISON: list[Sent] = [(b"u1", b'{"half'), (None, b"\xff\x00\n"), (b"\xff", b""), (b"u2", None)]


@pytest.fixture
def ready(kafka: KafkaSettings) -> KafkaSettings:
    topics.create(kafka)
    return kafka


def put(kafka: KafkaSettings, kind: Kind, letters: list[Sent], reason: str = "bad_json", first: int = 0) -> None:
    """Letters as the job writes them; they are known by offsets from `first` on."""
    producer = Producer({**client_config(kafka), "partitioner": "murmur2_random"})
    for offset, (key, payload) in enumerate(letters, first):
        said = {"reason": reason, "detail": f"not {reason}", "source": "events-0", "offset": str(offset), "log_time_ms": "99"}
        producer.produce(getattr(kafka, kind), payload, key, headers={name: text.encode() for name, text in said.items()})
    assert producer.flush(30) == 0


def events(kafka: KafkaSettings) -> Counter[Sent]:
    return Counter((each.key, each.value) for each in consumed(kafka, kafka.events))


def test_letters_come_back_exactly_and_once(ready: KafkaSettings) -> None:
    put(ready, "dead", POISON)
    assert to_topic(ready, "dead") == {"bad_json": 4}
    assert events(ready) == Counter(POISON)
    assert all(each.headers == [] for each in consumed(ready, ready.events))
    assert to_topic(ready, "dead") == {}
    put(ready, "dead", [(b"u3", b"new")], first=4)
    assert to_topic(ready, "dead") == {"bad_json": 1}
    assert events(ready) == Counter([*POISON, (b"u3", b"new")])


def test_the_order_of_a_users_letters_is_kept(ready: KafkaSettings) -> None:
    put(ready, "dead", [(b"u1", b"%d" % number) for number in range(2500)])
    to_topic(ready, "dead")
    assert [int(each.value or b"-1") for each in consumed(ready, ready.events)] == list(range(2500))


def test_reasons_are_replayed_apart_and_none_is_passed_over(ready: KafkaSettings) -> None:
    put(ready, "dead", [(b"u1", b"a"), (b"u1", b"b")], reason="behaviour_not_accepted")
    put(ready, "dead", [(b"u1", b"c")], reason="bad_json", first=2)
    put(ready, "dead", [(b"u1", b"d")], reason="behaviour_not_accepted", first=3)
    assert to_topic(ready, "dead", reason="behaviour_not_accepted", limit=2) == {"behaviour_not_accepted": 2}
    assert to_topic(ready, "dead", reason="behaviour_not_accepted") == {"behaviour_not_accepted": 1}
    assert to_topic(ready, "dead", reason="behaviour_not_accepted") == {}
    assert to_topic(ready, "dead") == {"bad_json": 1}
    assert to_topic(ready, "dead") == to_topic(ready, "dead", reason="bad_json") == {}
    assert events(ready) == Counter([(b"u1", name) for name in (b"a", b"b", b"c", b"d")])


def test_a_limit_and_a_dry_run_leave_the_rest_for_later(ready: KafkaSettings) -> None:
    put(ready, "dead", POISON)
    assert to_topic(ready, "dead", dry_run=True) == {"bad_json": 4}
    assert [to_topic(ready, "dead", limit=3).total() for _ in range(3)] == [3, 1, 0]
    assert events(ready) == Counter(POISON)


def test_a_letter_that_the_job_wrote_twice_is_one_letter(ready: KafkaSettings) -> None:
    put(ready, "dead", POISON)
    put(ready, "dead", POISON[:2])
    put(ready, "dead", POISON[:2], first=7)
    assert to_topic(ready, "dead") == {"bad_json": 6}


def test_late_events_are_marked_to_be_accepted_or_refused(ready: KafkaSettings) -> None:
    put(ready, "late", [(b"u1", b"{}")], reason="late")
    with pytest.raises(BadInput, match="would be late again; with --accept-late they are applied"):
        to_topic(ready, "late")
    assert to_topic(ready, "late", accept_late=True) == {"late": 1}
    (read,) = consumed(ready, ready.events)
    assert (read.key, read.value, read.headers) == (b"u1", b"{}", [("accept-late", b"1")])


def test_letters_of_a_transaction_are_read_to_their_end(ready: KafkaSettings) -> None:
    producer = Producer({**client_config(ready), "transactional.id": ready.group})
    producer.init_transactions()
    for payload, end in ((b"1", producer.commit_transaction), (b"2", producer.abort_transaction)):
        producer.begin_transaction()
        producer.produce(ready.dead, payload, b"u1", headers={"reason": b"bad_json"})
        producer.flush()
        end()
    assert to_topic(ready, "dead") == {"bad_json": 1}
    assert to_topic(ready, "dead") == {}
    assert events(ready) == Counter([(b"u1", b"1")])


KILLED = """
import os, sys
from jobs.replay import to_topic
from jobs.settings import KafkaSettings
batches = iter(range(2))
def die_at_the_second_batch():
    if next(batches) == 1:
        os.kill(os.getpid(), 9)
to_topic(KafkaSettings.model_validate_json(sys.stdin.read()), "dead", on_batch=die_at_the_second_batch)
"""


def test_a_kill_before_it_is_remembered_repeats_a_batch_and_loses_nothing(ready: KafkaSettings) -> None:
    letters: list[Sent] = [(b"u1", b"%d" % number) for number in range(2300)]
    put(ready, "dead", letters)
    assert ready.password is not None
    told = json.dumps({**ready.model_dump(mode="json"), "password": ready.password.get_secret_value()})
    killed = subprocess.run([sys.executable, "-c", KILLED], input=told, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert to_topic(ready, "dead").total() == 1300
    counts = events(ready)
    assert set(counts) == set(letters)
    assert [key for key, count in counts.items() if count == 2] == letters[1000:2000]


def test_the_commands_list_and_replay(uic_kafka: Uic, ready: KafkaSettings) -> None:
    put(ready, "dead", POISON)
    put(ready, "late", [(b"u7", b'{"late": "[/b]"}')], reason="late", first=50)
    listed = uic_kafka("dlq", "list", "--kafka")
    rows = [line.replace("│", " ").split() for line in listed.out.splitlines()]
    assert ["dead", "bad_json", "4"] in rows
    assert ["late", "late", "1"] in rows
    for shown in ('{"half', "\\xff\\x00", "events-0 50", "u7", '{"late": "[/b]"}', "not bad_json"):
        assert shown in listed.out
    assert uic_kafka("dlq", "list", "--kafka", "--kind", "late", "--raw").bytes == b'{"late": "[/b]"}\n'
    assert "--kind duplicate: a job on a cluster" in uic_kafka("dlq", "list", "--kafka", "--kind", "duplicate").err

    dry = uic_kafka("dlq", "replay", "--dry-run")
    assert (dry.code, dry.out) == (0, f"would be sent to {ready.events}: 4 bad_json\n")
    assert uic_kafka("dlq", "replay", "--limit", "3").out == f"sent to {ready.events}: 3 bad_json\n"
    assert uic_kafka("dlq", "replay", "--kind", "late").code == 2
    assert uic_kafka("dlq", "replay", "--kind", "late", "--accept-late").out == f"sent to {ready.events}: 1 late\n"
    assert uic_kafka("dlq", "replay").out == f"sent to {ready.events}: 1 bad_json\n"
    assert uic_kafka("dlq", "replay").out == f"sent to {ready.events}: nothing\n"


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """The folder of a job on this machine, whose events are in the folder `events` beside it."""
    (tmp_path / "job").mkdir()
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "b.jsonl").write_bytes(b"{}\n")
    (tmp_path / "job" / "job.json").write_text(json.dumps({"events": str(tmp_path / "events")}))
    box = LetterBox(tmp_path / "job" / "letters.sqlite")
    for kind, offset, payload in (
        ("dead", 0, b'{"half'),
        ("late", 7, b'{"n": 1}'),
        ("dead", 20, b"\xff\xfe"),
        ("late", 30, b"2"),
    ):
        box.put(kind, reason=kind, detail="", source="b.jsonl", offset=offset, payload=payload)
    box.put("dead", reason="too_large", detail="", source="b.jsonl", offset=40, payload=b"x" * (MAX_EVENT_BYTES + 1))
    box.close()
    return tmp_path / "job"


def test_letters_of_a_job_on_this_machine_become_one_more_event_file(uic: Uic, job: Path) -> None:
    ended = uic("dlq", "replay", "--job-dir", job, "--out", "events/zz-replay.jsonl")
    assert ended.out.splitlines() == [
        "2 letters written: events/zz-replay.jsonl",
        "1 were too large to be kept whole and cannot be replayed",
    ]
    assert Path("events/zz-replay.jsonl").read_bytes() == b'{"half\n\xff\xfe\n'
    assert sorted(path.name for path in Path("events").iterdir()) == ["b.jsonl", "zz-replay.jsonl"]
    late = uic("dlq", "replay", "--job-dir", job, "--kind", "late", "--accept-late", "--limit", 1, "--out", "events/zzz.jsonl")
    assert "now run the job with --accept-late" in late.out
    assert Path("events/zzz.jsonl").read_bytes() == b'{"n": 1}\n'


def test_a_letter_is_written_once(job: Path) -> None:
    events = job.parent / "events"
    assert to_file(job, events / "x.jsonl", kind="dead", limit=1) == (1, 0)
    assert to_file(job, events / "z.jsonl", kind="dead") == (1, 1)
    assert to_file(job, events / "zz.jsonl", kind="late", accept_late=True) == (2, 0)
    assert to_file(job, events / "zzz.jsonl", kind="late", accept_late=True) == (0, 0)
    assert not (events / "zzz.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--out", "events/a.jsonl"), "a.jsonl sorts before b.jsonl, and the job reads files in the order of their names"),
        (("--out", "events/zz.txt"), "expected an event file, NAME.jsonl"),
        (("--out", "events/b.jsonl"), "there is such a file already"),
        (("--out", "job/zz.jsonl"), "the job reads its events from"),
        (("--out", "events/zz.jsonl", "--kind", "late"), "would be late again"),
        (("--out", "events/zz.jsonl", "--dry-run"), "--dry-run: not with --out"),
        ((), "say which to write, --out EVENTS/zz-replay.jsonl"),
    ],
)
def test_a_file_that_the_job_would_not_read_is_refused(uic: Uic, job: Path, words: tuple[str, ...], line: str) -> None:
    ended = uic("dlq", "replay", "--job-dir", job, *words)
    assert ended.code == 2
    assert line in ended.err
    assert ended.err.count("\n") == 1
    assert [path.name for path in Path("events").iterdir()] == ["b.jsonl"]
