"""`uic bundle migrate` on a real cluster: to another layout while events flow and readers read, killed on the way.

The store is a folder; with UIC_TEST_ALL_STORES=1 also one in Redis.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
import toy
from confluent_kafka import Producer

sys.path.append(str(Path(__file__).parents[1] / "serving"))

import tiny

from jobs import topics
from jobs.bundles.migration import Journal, Migrations, settings_of, to_yaml
from jobs.chaos.world import covered_offsets, end_offsets
from jobs.cluster.rest import Cluster
from jobs.dev.redis_servers import RedisServers
from jobs.dev.stack import DevStack
from jobs.folder import JobFolder
from jobs.kafka import client_config
from jobs.rollback.world import StoreOnDisk
from jobs.settings import ClusterSettings, RegistrySettings, Settings, StoreSettings, StreamSettings
from jobs.submit import Submission, submit
from serving.client import Candidate, NotScored, ScoreClient
from uic.bundle import Bundle
from uic.errors import StoreError, UicError
from uic.event import BehaviourEvent, to_json
from uic.fold import fold
from uic.forgetting import FILE, Entry, Forgotten
from uic.registry import Registry
from uic.runtime import OnnxStep
from uic.update import Rules

USERS = [f"u{number}" for number in range(30)]
HISTORY_MS = 3_600_000
WAIT_S = 600.0
OLD, NEW = 1, 7


@dataclass
class World:
    """A job with its follower and a server of scores; `events` is all that was ever sent."""

    root: Path
    settings: Settings
    old: Path
    until_ms: int
    history: list[BehaviourEvent]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    events: list[BehaviourEvent] = field(default_factory=list)
    stops: threading.Event = field(default_factory=threading.Event)
    sending: threading.Thread | None = None

    @property
    def environment(self) -> dict[str, str]:
        secret = self.settings.kafka.password
        assert secret is not None
        return {**os.environ, "UIC__KAFKA__PASSWORD": secret.get_secret_value()}

    def uic(self, *words: object, config: Path | None = None) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "jobs.cli", "--config", config or self.root / "uic.yaml", *words]
        with (self.root / f"{words[0]}.log").open("ab") as log:
            process = subprocess.Popen(
                [str(word) for word in command], cwd=self.root, env=self.environment, stdout=log, stderr=log
            )
        self.processes.append(process)
        return process

    def migrate(self, *words: object) -> subprocess.Popen[bytes]:
        record = JobFolder(self.settings.stream.job_dir, make=False).record()
        assert record is not None
        assert record.cluster is not None
        told = [
            "--wheel",
            record.cluster.wheel,
            "--history",
            self.root / "history.jsonl",
            "--until",
            iso(self.until_ms),
            "--overlap-s",
            600,
            "--sample",
            20,
        ]
        return self.uic("bundle", "migrate", NEW, *told, *words)

    def said(self) -> str:
        return (self.root / "bundle.log").read_text()

    def journal(self) -> Journal | None:
        return next(iter(Migrations(self.settings.stream.job_dir).journals()), None)

    def send(self) -> None:
        """Events of all users, a few at a time, until it is told to stop."""
        producer = Producer({**client_config(self.settings.kafka), "partitioner": "murmur2_random", "linger.ms": 0})
        draw = random.Random(2)
        while not self.stops.wait(0.02):
            event = one(draw.choice(USERS), time.time_ns() // 1_000_000, draw)
            self.events.append(event)
            producer.produce(self.settings.kafka.events, to_json(event), event.user_id)
            producer.poll(0)
        assert producer.flush(30) == 0


STORES = ["folder", "redis"] if "UIC_TEST_ALL_STORES" in os.environ else ["folder"]


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Where the store of the first job is."""
    if request.param == "folder":
        yield tmp_path / "store"
        return
    with RedisServers(tmp_path / "redis") as servers:
        yield Path(str(servers.url("migrated")))


@pytest.fixture
def world(stack: DevStack, tmp_path: Path, place: Path) -> Iterator[World]:
    names = {name: f"migrated-{tmp_path.name}-{name}" for name in ("events", "snapshots", "late", "dead", "group", "control")}
    settings = Settings(
        kafka=stack.kafka_settings().model_copy(update={**names, "partitions": 2}),
        stream=StreamSettings(job_dir=tmp_path / "job", metrics_port=0),
        store=StoreSettings(path=place),
        cluster=ClusterSettings(url=stack.url),
        registry=RegistrySettings(url=str(tmp_path / "registry")),
    )
    (tmp_path / "uic.yaml").write_text(to_yaml(settings))
    until_ms, draw = time.time_ns() // 1_000_000, random.Random(1)
    history = [one(draw.choice([*USERS, "gone", "quiet"]), until_ms - draw.randrange(1, HISTORY_MS), draw) for _ in range(2000)]
    (tmp_path / "history.jsonl").write_bytes(b"".join(to_json(event) + b"\n" for event in history))
    made = World(tmp_path, settings, tiny.make_bundle(tmp_path / "old", version=OLD), until_ms, history)
    try:
        yield made
    finally:
        made.stops.set()
        if made.sending is not None:
            made.sending.join()
        for process in made.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        cluster = Cluster(stack.url)
        for folder in (settings.stream.job_dir, tmp_path / f"job-{NEW}" / "job"):
            record = JobFolder(folder, make=False).record() if folder.exists() else None
            if record is not None and record.cluster is not None and cluster.is_alive(record.cluster.job_id):
                cluster.cancel(record.cluster.job_id)


@pytest.mark.parametrize("place", STORES, indirect=True)
def test_readers_go_over_to_a_bundle_of_another_layout_in_one_moment_and_miss_nothing(world: World, stack: DevStack) -> None:
    new = tiny.make_bundle(world.root / "new", version=NEW, lineage="other", slots=6, keeps=0.25, shift=1.0)
    registry = Registry(world.settings.registry.url)
    for path in (world.old, new):
        registry.push(path, now_ms=1)
    topics.create(world.settings.kafka)
    submission = Submission(
        bundle=world.old, job_dir=world.settings.stream.job_dir, url=stack.url, name="migrated", plan="batched", parallelism=1,
        backend="hashmap", checkpoint_interval_s=0.5,
    )  # fmt: skip
    submit(world.settings, submission, resumes=False)
    Forgotten(world.settings.stream.job_dir / FILE).note("gone", Entry(world.until_ms, "anew", 1))
    world.uic("store", "follow", "--bundle", world.old)
    world.sending = threading.Thread(target=world.send)
    world.sending.start()
    wait(lambda: is_there(world.settings.store.path), "the follower's store")

    with ExitStack() as stacked:
        server = stacked.enter_context(tiny.serving(world.old, world.settings.store.path))
        wait(lambda: all(asked(server.url)[1].values()), "a memory of every user")
        polls = stacked.enter_context(Polls(server.url))
        dry = world.migrate("--dry-run")
        assert dry.wait() == 0, world.said()
        assert world.journal() is None

        # Killed when the second job runs beside the first; nobody has noticed anything.
        killed = world.migrate()
        wait(lambda: began(world, "start") or killed.poll() is not None, "the second job")
        killed.send_signal(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL, world.said()
        journal = world.journal()
        assert journal is not None
        assert {version for version, _ in polls.seen} == {OLD}
        world.uic("store", "follow", "--bundle", journal.plan.bundle, config=journal.plan.config)
        # Whoever is forgotten meanwhile, is so in both.
        forgets = world.uic("user", "forget", "quiet")
        assert forgets.wait() == 0, (world.root / "user.log").read_text()
        done = world.migrate()
        assert done.wait() == 0, world.said()
        wait(lambda: polls.seen[-1][0] == NEW, "the server's going over")
        world.stops.set()
        world.sending.join()
        second = settings_of(world.settings, journal.plan)
        taken_over = JobFolder(second.stream.job_dir, make=False).record()
        assert taken_over is not None
        assert taken_over.cluster is not None
        job, ends = taken_over.cluster.job_id, end_offsets(second.kafka, second.kafka.events)
        wait(lambda: covered_offsets(Cluster(stack.url), job, second.kafka) == ends, "a checkpoint with all events")

    # One pair, then the other; every user always there, and their memories never went back.
    assert not polls.failures
    versions = [version for version, _ in polls.seen]
    switch = versions.index(NEW)
    assert set(versions[:switch]) == {OLD}
    assert set(versions[switch:]) == {NEW}
    for before, after in zip(polls.seen[:-1], polls.seen[1:], strict=True):
        for user in USERS:
            assert after[1][user] > 0
            assert after[0] != before[0] or after[1][user] >= before[1][user]

    report = json.loads((Migrations(world.settings.stream.job_dir).of(NEW) / "report.json").read_text())
    assert (report["holds"], report["users"]) == (True, 20)
    found = world.journal()
    assert found is not None
    assert found.is_over
    assert found.evidence is not None
    record = JobFolder(world.settings.stream.job_dir, make=False).record()
    assert record is not None
    assert record.cluster is not None
    assert not Cluster(stack.url).is_alive(record.cluster.job_id)
    assert [registry.get(version).state for version in (OLD, NEW)] == ["retired", "promoted"]

    # What is there are the memories of history and stream, folded with the new bundle.
    bundle = Bundle.open(Path(found.plan.bundle))
    recorded = sorted((event for event in world.history if event.user_id in USERS), key=lambda event: event.time_ms)
    expected = fold(bundle.updater(OnnxStep(bundle), Rules()), [*recorded, *world.events]).memories
    store = StoreOnDisk(found.plan.new_store)
    try:
        wait(lambda: sequences(store, bundle) == {user: each.sequence for user, each in expected.items()}, "the second store")
        for user, memory in expected.items():
            blob = store.read(user)
            assert blob is not None
            assert bundle.codec.decode(blob).state_F.tobytes() == memory.state_F.tobytes(), user
        assert [store.read(user) for user in ("gone", "quiet")] == [None, None]
    finally:
        store.close()


class Polls:
    """A reader that asks again and again: which bundle has answered, and how many events each user's memory has seen."""

    def __init__(self, url: str) -> None:
        self.seen: list[tuple[int, dict[str, int]]] = []
        self.failures: list[Exception] = []
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> "Polls":
        self._thread.start()
        wait(lambda: bool(self.seen or self.failures), "the first answer")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._stop.wait(0.2):
            try:
                self.seen.append(asked(self._url))
            except NotScored as error:
                self.failures.append(error)
                return


def asked(url: str) -> tuple[int, dict[str, int]]:
    with ScoreClient(url, tries=1, timeout_s=30) as client:
        answer = client.score_users([(user, [Candidate(1, 1)]) for user in USERS])
    return answer.bundle_version, {user.user_id: user.memory.events if user.memory else 0 for user in answer.users}


def is_there(store: Path) -> bool:
    with suppress(UicError):  # the follower is making it
        StoreOnDisk(store).close()
        return True
    return False


def sequences(store: StoreOnDisk, bundle: Bundle) -> dict[str, int]:
    blobs = {user: store.read(user) for user in [*USERS, "gone", "quiet"]}
    return {user: bundle.codec.decode(blob).sequence for user, blob in blobs.items() if blob is not None}


def began(world: World, step: str) -> bool:
    journal = world.journal()
    return journal is not None and step in journal.done


def one(user: str, time_ms: int, draw: random.Random) -> BehaviourEvent:
    return BehaviourEvent(
        user_id=user,
        item_id=draw.randrange(1, 221),
        category_id=draw.randrange(1, 11),
        behaviour=draw.choice(toy.BEHAVIOURS),
        time_ms=time_ms,
        event_id=f"e{draw.getrandbits(60)}",
    )


def iso(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat()


def wait(is_so: Callable[[], bool], what: str) -> None:
    give_up_at = time.monotonic() + WAIT_S
    while True:
        try:
            if is_so():
                return
        except StoreError:
            pass  # being made
        assert time.monotonic() < give_up_at, f"{what} did not come"
        time.sleep(0.05)
