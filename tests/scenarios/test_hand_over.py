"""From history to a running job on a real cluster: a warm-up's savepoint, and the hand-over to live events."""

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import toy
from confluent_kafka import Consumer, Message, TopicPartition

from jobs import topics
from jobs.chaos.world import covered_offsets, end_offsets
from jobs.checkpoints import form_of, memories_of
from jobs.cluster.rest import Cluster
from jobs.dev.stack import DevStack
from jobs.kafka import client_config
from jobs.produce import produce
from jobs.settings import KafkaSettings, Settings
from jobs.submit import Submission, submit
from jobs.warm_up.handover import check_handover
from uic.bundle import Bundle
from uic.errors import BadInput
from uic.event import BehaviourEvent, to_json
from uic.fold import fold
from uic.memory import UserMemory
from uic.runtime import OnnxStep
from uic.update import Rules

OVERLAP_MS = 600_000
IDLE_S = 3600
WAIT_S = 120.0


@dataclass(frozen=True)
class Warm:
    """A warm-up until T: its savepoint, and what was recorded."""

    savepoint: Path
    until_ms: int
    history: list[BehaviourEvent]


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory, toy_bundle: Path) -> Warm:
    """The savepoint, whose making was killed once half-way."""
    root = tmp_path_factory.mktemp("warm-up")
    until_ms = time.time_ns() // 1_000_000
    draw = random.Random(4)
    history = [one(f"u{draw.randrange(60)}", until_ms - draw.randrange(1, 1_800_000), draw) for _ in range(3000)]
    history += [one("u1", until_ms - 9_000_000, draw), one("gone", until_ms - 7_200_000, draw)]
    (root / "history.jsonl").write_bytes(b"".join(to_json(event) + b"\n" for event in history))
    command = [sys.executable, "-m", "jobs.cli", "warm-up", "--history", root / "history.jsonl", "--until", iso(until_ms)]
    command += ["--bundle", toy_bundle, "--work", root / "work", "--savepoint", root / "savepoint", "--idle-after-s", IDLE_S]
    words = [str(word) for word in command]
    with (root / "said").open("wb") as said:
        process = subprocess.Popen(words, stdout=said, stderr=said)
        wait(lambda: any(root.glob(".savepoint.partial-*/*")) or process.poll() is not None, "the savepoint's beginning")
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (root / "savepoint").exists()
        assert subprocess.run(words, stdout=said, stderr=said, check=False).returncode == 0, (root / "said").read_text()
    assert not list(root.glob(".savepoint*"))
    return Warm(root / "savepoint", until_ms, history)


@pytest.fixture
def submitted(stack: DevStack) -> Iterator[list[str]]:
    """Jobs to cancel when the test is over."""
    jobs: list[str] = []
    yield jobs
    cluster = Cluster(stack.url)
    for job in jobs:
        if cluster.is_alive(job):
            cluster.cancel(job)


@pytest.mark.parametrize(("plan", "backend"), [("batched", "rocksdb"), ("per-event", "hashmap")])
def test_no_event_around_the_hand_over_is_lost_or_applied_twice(
    stack: DevStack, warm: Warm, toy_bundle: Path, tmp_path: Path, submitted: list[str], plan: str, backend: str
) -> None:
    names = {name: f"warm-{plan}-{name}" for name in ("events", "snapshots", "late", "dead", "group")}
    kafka = stack.kafka_settings().model_copy(update={**names, "start": iso(warm.until_ms - OVERLAP_MS)})
    topics.create(kafka)
    draw = random.Random(5)
    overlap = [event for event in warm.history if event.time_ms >= warm.until_ms - OVERLAP_MS]
    stragglers = [one(f"u{number}", warm.until_ms - 1 - number, draw) for number in range(20)]
    edge = [one(f"u{number}", warm.until_ms, draw) for number in range(40, 70)]
    live = edge + [one(f"u{draw.randrange(70)}", warm.until_ms + 1 + number, draw) for number in range(2000)]
    log = sorted(overlap + stragglers + live, key=lambda event: event.time_ms)
    produce(kafka, [(event.user_id.encode(), to_json(event)) for event in log], rate=None)

    submission = Submission(
        bundle=toy_bundle, job_dir=tmp_path / "job", url=stack.url, name=f"warm-{plan}", plan=plan, parallelism=2,
        backend=backend, checkpoint_interval_s=1, restore=warm.savepoint,
    )  # fmt: skip
    record = submit(settings(kafka, warm.until_ms), submission, resumes=False)
    assert record.cluster is not None
    job, cluster = record.cluster.job_id, Cluster(stack.url)
    submitted.append(job)
    ends = end_offsets(kafka, kafka.events)
    wait(lambda: covered_offsets(cluster, job, kafka) == ends, "a checkpoint with all events", cluster, job)
    wait(lambda: latest(kafka).get("gone", b"?") is None, "the idle user's leave", cluster, job)
    assert deletions(kafka) == {"gone": {"generation": b"0"}}
    savepoint = cluster.stop(job, tmp_path / "job" / "checkpoints" / "run-000001")

    bundle = Bundle.open(toy_bundle)
    updater = bundle.updater(OnnxStep(bundle), Rules(idle_after_ms=1000 * IDLE_S))
    recorded = sorted(warm.history, key=lambda event: event.time_ms)
    expected = fold(updater, recorded + sorted(live, key=lambda event: event.time_ms)).memories
    snapshots = {user: bundle.codec.decode(blob) for user, blob in latest(kafka).items() if blob is not None}
    assert {user: facts(memory) for user, memory in snapshots.items()} == {
        user: facts(expected[user]) for user in {event.user_id for event in live}
    }
    form = form_of(toy_bundle)
    assert form is not None
    state = Counter(facts(bundle.codec.decode(blob)) for blob in memories_of(savepoint, form))
    assert state == Counter(facts(memory) for user, memory in expected.items() if user != "gone")
    assert sum(end_offsets(kafka, kafka.late).values()) == len(overlap) + len(stragglers)
    assert sum(end_offsets(kafka, kafka.dead).values()) == 0


def test_a_job_that_would_lose_or_repeat_events_is_refused(warm: Warm, toy_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(toy_bundle)
    kafka = KafkaSettings(start="earliest")
    check_handover(warm.savepoint, bundle, settings(kafka, warm.until_ms))
    wrong = [
        ("stream.not_before", bundle, settings(kafka, None)),
        ("stream.not_before", bundle, settings(kafka, warm.until_ms - 1000)),
        ("kafka.start", bundle, settings(KafkaSettings(start="latest"), warm.until_ms)),
        ("kafka.start", bundle, settings(KafkaSettings(start=iso(warm.until_ms + 1000)), warm.until_ms)),
        ("idle_after_s", bundle, settings(kafka, warm.until_ms, idle_after_s=None)),
        ("lineage", Bundle.open(toy.make_bundle(tmp_path / "other", lineage="another")), settings(kafka, warm.until_ms)),
    ]
    for what, model, told in wrong:
        with pytest.raises(BadInput, match=what):
            check_handover(warm.savepoint, model, told)


def one(user: str, time_ms: int, draw: random.Random) -> BehaviourEvent:
    return BehaviourEvent(
        user_id=user,
        item_id=draw.randrange(1, 221),
        category_id=draw.randrange(1, 11),
        behaviour=draw.choice(toy.BEHAVIOURS),
        time_ms=time_ms,
        event_id=draw.choice([None, f"e{draw.getrandbits(60)}"]),
    )


def settings(kafka: KafkaSettings, until_ms: int | None, idle_after_s: int | None = IDLE_S) -> Settings:
    not_before = None if until_ms is None else datetime.fromtimestamp(until_ms / 1000, UTC)
    stream = {"not_before": not_before, "idle_after_s": idle_after_s, "metrics_port": 0}
    return Settings(kafka=kafka, stream=stream)  # type: ignore[arg-type]  # what pydantic makes settings of


def iso(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat()


def facts(memory: UserMemory) -> tuple[Any, ...]:
    """All of a memory but when the log took in its last event."""
    return memory.state_F.tobytes(), memory.fingerprints, memory.sequence, memory.last_time_ms


def latest(kafka: KafkaSettings) -> dict[str, bytes | None]:
    """What the snapshots topic says of each user now."""
    return {(message.key() or b"").decode(): message.value() for message in published(kafka)}


def deletions(kafka: KafkaSettings) -> dict[str, dict[str, Any]]:
    """The headers with which users were said to have left."""
    return {
        (message.key() or b"").decode(): dict(message.headers() or ())
        for message in published(kafka)
        if message.value() is None
    }


def published(kafka: KafkaSettings) -> list[Message]:
    """All of the snapshots topic, each partition in order."""
    consumer = Consumer({**client_config(kafka), "group.id": "warm-look", "enable.auto.commit": False, "fetch.wait.max.ms": 10})
    try:
        ends = end_offsets(kafka, kafka.snapshots)
        consumer.assign([TopicPartition(kafka.snapshots, partition, 0) for partition in ends])
        found: list[Message] = []
        left = sum(ends.values())
        while left > 0:
            messages = consumer.consume(left, timeout=10)
            assert messages
            left -= len(messages)
            found += messages
        return found
    finally:
        consumer.close()


def wait(is_so: Callable[[], bool], what: str, cluster: Cluster | None = None, job: str = "") -> None:
    give_up_at = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < give_up_at, f"{what} did not come: {cluster and cluster.last_failure(job)}"
        time.sleep(0.05)
