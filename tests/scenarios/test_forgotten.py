"""A user is forgotten while events flow, on a real cluster, and neither a replay nor an old savepoint brings them back."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy
from test_cluster import case

from jobs import topics
from jobs.chaos.world import World, environment_of
from jobs.checkpoints import form_of, memories_of
from jobs.dev.stack import DevStack
from jobs.produce import produce
from operators.condemned import condemn
from uic.codec import read_header
from uic.store.rocksdb import RocksStore

USERS = [f"u{n}" for n in range(12)]


class Stage:
    """A job with a follower, and a reader of the store in this process."""

    def __init__(self, stack: DevStack, root: Path, plan: str) -> None:
        bundle = toy.make_bundle(root / "toy")
        shape = case("forget", plan=plan, events=0, rate=1_000, parallelism=2)
        self.world = World(stack, root, bundle, shape, print)
        self.world.kafka = self.world.kafka.model_copy(update={"control": f"{shape.name}-control"})
        self.world.root.mkdir()
        topics.create(self.world.kafka)
        self.sent = 0

    def visit(self, *users: str) -> None:
        records = []
        for user in users:
            self.sent += 1
            item = self.sent * 7 % 200 + 1
            fields = {"user_id": user, "item_id": item, "category_id": self.sent % 10 + 1, "behaviour": "click"}
            records.append((user.encode(), json.dumps({**fields, "time_ms": toy.START_MS + self.sent}).encode()))
        produce(self.world.kafka, records)

    def read(self, user: str) -> int | None:
        """After how many events the store's memory of a user is; None where there is none."""
        store = RocksStore.open_to_read(self.world.store)
        try:
            blob = store.read(user)
        finally:
            store.close()
        return None if blob is None else read_header(blob).sequence

    def wait(self, user: str, sequence: int) -> None:
        self.world.wait(lambda: (self.world.store / "CURRENT").exists(), "the store", 60)
        self.world.wait(lambda: self.read(user) == sequence, f"memory {sequence} of {user}", 60)

    def forget(self, *words: str) -> subprocess.CompletedProcess[str]:
        world = self.world
        command = [sys.executable, "-m", "jobs.cli", "user", "forget", *words]
        command += ["--job-dir", str(world.job_dir), "--store", str(world.store)]
        return subprocess.run(command, env=environment_of(world.kafka), capture_output=True, text=True, check=False)

    def settle(self) -> None:
        self.world.cover()

    def stop(self) -> list[int]:
        """Stop with a savepoint; how many events each memory in it has had."""
        savepoint = self.world.stop_with_savepoint()
        form = form_of(self.world.bundle)
        assert form is not None
        return sorted(read_header(blob).sequence for blob in memories_of(savepoint, form))


@pytest.fixture
def stage(stack: DevStack, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    made = Stage(stack, tmp_path, request.param)
    try:
        yield made
    finally:
        made.world.close()


@pytest.mark.parametrize("stage", ["batched"], indirect=True)
def test_a_forgotten_user_is_gone_at_once_and_no_older_state_brings_them_back(stage: Stage) -> None:
    world = stage.world
    world.submit(resumes=False)
    world.start_follower()
    stage.visit(*USERS * 3)
    stage.wait("u1", 3)
    assert world.record is not None
    old = world.cluster.savepoint(world.job_id, world.job_dir / "checkpoints" / f"run-{world.record.run:06d}")
    stage.visit(*USERS)  # to be replayed from it
    for user in USERS:
        stage.wait(user, 4)

    for words in (["u1"], ["u2", "--later-events", "drop"], ["u3"], ["nobody"]):
        said = stage.forget(*words)
        assert said.returncode == 0, said.stdout + said.stderr
        assert stage.read(words[0]) is None
    assert "the running job: its memory of the user has gone from keyed state" in said.stdout
    assert "checkpoints and savepoints in" in said.stdout
    assert {user: stage.read(user) for user in ("u0", "u4")} == {"u0": 4, "u4": 4}
    assert b"u1" not in (world.job_dir / "forgotten.jsonl").read_bytes()

    stage.visit("u1", "u2", "u0", "u1")  # u3 stays away
    stage.wait("u1", 2)
    stage.wait("u0", 5)
    stage.settle()
    assert stage.read("u2") is None
    assert stage.stop() == sorted([2, 5, *[4] * (len(USERS) - 4)])

    # A rollback to a state that still knows all of them, and a replay of what came after it.
    for path in {*(world.job_dir / "checkpoints").glob("run-*/*/chk-*"), *(world.job_dir / "checkpoints").glob("run-*/sav*")}:
        if path != old:
            condemn(world.job_dir, str(path), "gone back behind it")
    assert stage.forget("u4").returncode == 0  # while no job runs
    assert stage.read("u4") is None
    world.submit(resumes=True)
    stage.visit("u0", "u4")
    stage.wait("u0", 6)
    stage.wait("u4", 1)
    stage.settle()
    assert {user: stage.read(user) for user in ("u1", "u2", "u3")} == {"u1": 2, "u2": None, "u3": None}
    assert stage.stop() == sorted([1, 2, 6, *[4] * (len(USERS) - 5)])


@pytest.mark.parametrize("stage", ["per-event"], indirect=True)
def test_the_per_event_plan_forgets_while_it_runs(stage: Stage) -> None:
    world = stage.world
    world.submit(resumes=False)
    world.start_follower()
    stage.visit(*USERS * 2)
    for user in USERS:
        stage.wait(user, 2)
    for words in (["u1"], ["u2"], ["u3", "--later-events", "drop"]):
        said = stage.forget(*words)
        assert said.returncode == 0, said.stdout + said.stderr
        assert "the running job: its memory of the user has gone from keyed state" in said.stdout
        assert stage.read(words[0]) is None
    stage.visit("u1", "u3", "u0")
    stage.wait("u1", 1)
    stage.wait("u0", 3)
    stage.settle()
    assert [stage.read(user) for user in ("u2", "u3")] == [None, None]
    assert stage.stop() == sorted([1, 3, *[2] * (len(USERS) - 4)])
