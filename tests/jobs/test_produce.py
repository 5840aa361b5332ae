"""Events into a real broker: all of them, in order, each user where Java's clients would put him."""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import Uic
from consumed import consumed

from jobs import topics
from jobs.produce import Produced, produce
from jobs.send import keyed
from jobs.settings import KafkaSettings
from jobs.verify import payloads
from uic.errors import EnvironmentProblem
from uic.event import MAX_EVENT_BYTES
from uic.partition import partition_of
from uic.synthetic.generate import generate
from uic.synthetic.spec import SyntheticSpec
from uic.synthetic.tally import Tally

SPEC = SyntheticSpec(events=6000, users=50, poison=0.1, duplicates=0.1, disorder=0.1, too_late=0.05, zipf=1.1)
Records = list[tuple[bytes | None, bytes]]


@pytest.fixture
def ready(kafka: KafkaSettings) -> KafkaSettings:
    topics.create(kafka)
    return kafka


def load(spec: SyntheticSpec = SPEC) -> Records:
    return [pair for block in generate(spec) for pair in zip(block.keys, block.payloads, strict=True)]


def by_key(records: Records) -> dict[bytes | None, list[bytes]]:
    found = defaultdict(list)
    for key, payload in records:
        found[key].append(payload)
    return found


def test_every_event_arrives_in_order_and_each_key_where_java_would_put_it(ready: KafkaSettings) -> None:
    records = load()
    told: list[Produced] = []
    done = produce(ready, records, on_progress=told.append)
    read = consumed(ready, ready.events)
    assert done.sent == done.delivered == len(records) == len(read)
    assert done.per_partition == Counter(each.partition for each in read)
    for each in read:
        if each.key is not None:
            assert each.partition == partition_of(each.key, ready.partitions)
    sent, arrived = by_key(records), by_key([(each.key, each.value) for each in read])
    assert len(sent.pop(None)) == len(arrived.pop(None)) > 10
    assert arrived == sent


def test_the_rate_is_kept_and_falling_behind_is_known(ready: KafkaSettings) -> None:
    done = produce(ready, load()[:100], rate=500)
    assert done.seconds > 0.19

    def slow() -> Iterator[tuple[bytes | None, bytes]]:
        for record in load()[:3]:
            time.sleep(0.02)  # the events are what is slow
            yield record

    assert produce(ready, slow(), rate=1000).behind_s > 0.03


def test_waiting_for_the_next_event_of_a_rate_takes_no_core(ready: KafkaSettings) -> None:
    wall, cpu = time.monotonic(), time.thread_time()
    produce(ready, load()[:500], rate=1000)
    # Less than a millisecond is waited between two of them.
    assert time.thread_time() - cpu < 0.5 * (time.monotonic() - wall)


def test_an_event_that_is_too_large_fails_the_whole_and_not_the_others(ready: KafkaSettings) -> None:
    largest = b"x" * (MAX_EVENT_BYTES + 1)
    assert produce(ready, [(None, largest)]).delivered == 1
    with pytest.raises(EnvironmentProblem, match=r"1 events were not delivered, 2 were; the first failure: MSG_SIZE_TOO_LARGE"):
        produce(ready, [(b"u1", b"{}"), (b"u1", 3 * largest), (b"u1", b"{}")])
    assert len(consumed(ready, ready.events)) == 3


def test_what_was_handed_over_before_ctrl_c_is_acknowledged(ready: KafkaSettings) -> None:
    def interrupted() -> Iterator[tuple[bytes | None, bytes]]:
        yield from load()[:500]
        raise KeyboardInterrupt

    done = produce(ready, interrupted())
    assert (done.is_interrupted, done.sent, done.delivered) == (True, 500, 500)


def test_the_key_is_the_user_of_the_event_where_one_can_be_read() -> None:
    lines = {
        b'{"user_id": "u1"}': b"u1",
        b'{"item_id": 3, "user_id": 12345678901}': b"12345678901",
        '{"user_id": "ü\\n"}'.encode(): "ü\n".encode(),
        b'{"user_id": ""}': None,
        b'{"user_id": true}': None,
        b'{"user_id": null}': None,
        b'{"item_id": 1}': None,
        b'["user_id", "u1"]': None,
        b'{"user_id": "u1"': None,
        b'{"user_id": "\\ud800"}': None,
        b'{"user_id": "\xff"}': None,
        b"": None,
        b"[" * 100_000: None,
    }
    assert list(keyed(lines)) == [(key, line) for line, key in lines.items()]


def test_the_command_sends_event_files(uic_kafka: Uic, ready: KafkaSettings, tmp_path: Path) -> None:
    assert uic_kafka("events", "generate", "events=250", "poison=0.2", "--out", "load", "--per-file", "100").code == 0
    ended = uic_kafka("events", "produce", "--events", "load", "--limit", "240")
    assert ended.code == 0
    assert ended.out.startswith("240 events sent, 240 acknowledged in ")
    lines = list(payloads(tmp_path / "load"))[:240]
    assert Counter((each.key, each.value) for each in consumed(ready, ready.events)) == Counter(keyed(lines))


def test_the_command_sends_a_load_and_says_what_must_become_of_it(uic_kafka: Uic, ready: KafkaSettings) -> None:
    words = ("--generate", "users=9 poison=0.3", "--generate", "seed=4", "--limit", "700", "--expected", "expected.json")
    assert uic_kafka("events", "produce", *words, "--rate", "5000").code == 0
    spec = SyntheticSpec(users=9, poison=0.3, seed=4, events=700)
    tally = Tally()
    for block in generate(spec):
        tally.add(block)
    assert Path("expected.json").read_text() == tally.as_json()
    read = consumed(ready, ready.events)
    assert Counter((each.key, each.value) for each in read) == Counter(load(spec))


def test_generated_files_hold_the_load_and_its_outcome(uic: Uic, tmp_path: Path) -> None:
    ended = uic(
        "events", "generate", "events=1000", "users=20,poison=0.1", "duplicates=0.2", "--out", "load", "--per-file", "400"
    )
    assert ended.code == 0
    files = sorted(path.name for path in (tmp_path / "load").glob("*.jsonl"))
    assert files == ["events-00000.jsonl", "events-00001.jsonl", "events-00002.jsonl"]
    expected = json.loads((tmp_path / "load" / "expected.json").read_text())
    assert len(list(payloads(tmp_path / "load"))) == sum(expected["outcomes"].values()) == 1000
    assert sum(expected["applied"]) == expected["outcomes"]["applied"]
    assert sum(expected["dead"].values()) == expected["outcomes"]["dead"]
    assert not {"bad_key", "key_mismatch"} & set(expected["dead"])
    assert all(f"{name}=" in uic("events", "generate", "--fields").out for name in ("users", "too_late", "poisons"))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("produce",), "expected one of --events FOLDER and --generate name=value, got neither"),
        (("produce", "--events", "e", "--generate", "users=1"), "got both"),
        (("produce", "--events", "nowhere"), "nowhere: expected a folder of event files"),
        (("produce", "--events", "e", "--expected", "x"), "--bundle and --expected belong to --generate"),
        (("produce", "--generate", "users=1", "--rate", "0"), "--rate: expected a number above 0"),
        (("produce", "--generate", "users=1", "--rate", "5", "--at-once"), "without --at-once"),
        (("produce", "--generate", "user=1"), "expected name=value, got 'user=1'; names are users"),
        (("generate", "events=5"), "--out: expected a folder to write"),
        (("generate", "--out", "load"), "files need an end; say how many, such as events=100000"),
        (("generate", "events=5", "poisons=no_key", "--out", "load"), "files have no Kafka keys, so no no_key"),
    ],
)
def test_what_cannot_be_sent_or_generated_is_one_line(uic: Uic, arguments: tuple[str, ...], line: str) -> None:
    ended = uic("events", *arguments)
    assert ended.code == 2
    assert line in ended.err
    assert ended.err.count("\n") == 1


def test_a_load_without_its_topic_is_refused(uic_kafka: Uic) -> None:
    ended = uic_kafka("events", "produce", "--generate", "events=5")
    assert ended.code == 2
    assert "no such topic; `uic topics create` makes it" in ended.err


def test_a_bundles_ids_and_behaviours_are_those_of_the_load(uic: Uic, world: "object", tmp_path: Path) -> None:
    from small import World

    assert isinstance(world, World)
    assert uic("events", "generate", "events=300", "--bundle", world.bundle.path, "--out", "load").code == 0
    made = [json.loads(line) for line in payloads(tmp_path / "load")]
    assert {each["behaviour"] for each in made} == set(world.bundle.accepted)
    assert {each["item_id"] for each in made} <= set(world.bundle.items.ids.tolist())
    assert {each["category_id"] for each in made} <= set(world.bundle.categories.ids.tolist())
    refused = uic("events", "generate", "events=3", "items=99999", "--bundle", world.bundle.path, "--out", "other")
    assert "items: " in refused.err
