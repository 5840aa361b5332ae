"""A bundle becomes the model of a running job on a real cluster: without restart, everywhere or nowhere, and through a death.

The toy bundles' steps are exact in float32, so memories tell which model applied which event.
"""

import dataclasses
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import toy
from test_cluster import case

import jobs.submit
from jobs import topics
from jobs.bundles.promote import promote, running, send
from jobs.chaos import faults
from jobs.chaos.world import World, end_offsets, environment_of
from jobs.checkpoints import form_of, memories_of
from jobs.dev.stack import DevStack
from jobs.produce import produce
from jobs.settings import RegistrySettings, Settings
from operators import bundle_status, control
from uic.bundle import Bundle
from uic.codec import Codec
from uic.errors import BundleError
from uic.registry import Registry

USERS = 30
SUBTASKS = 2
# Version and the share of the state that its step keeps.
KEEPS = {1: 0.5, 2: 0.25, 3: 1.0}


class Visit:
    """The n-th event of a load; which user, item and category follows from n."""

    def __init__(self, n: int) -> None:
        self.user, self.item, self.category = n % USERS, n * 7 % 240 + 1, n % 10 + 1
        self.n = n

    def record(self) -> tuple[bytes, bytes]:
        key = f"u{self.user}"
        fields = {"user_id": key, "item_id": self.item, "category_id": self.category, "behaviour": "click"}
        return key.encode(), json.dumps({**fields, "time_ms": toy.START_MS + self.n}).encode()

    def applied(self, state: np.float32, version: int) -> np.float32:
        """What the step of this version makes of a state; version 1 knows 200 items, later ones 20 more each."""
        known = 200 + 20 * (version - 1)
        row = self.item + 1 if self.item <= known else 1
        event = np.float32(row) + np.float32(self.category + 1) * np.float32(0.25)
        return state * np.float32(KEEPS[version]) + event


def folded(visits: Sequence[Visit], versions: Sequence[int]) -> np.float32:
    state = np.float32(0)
    for visit, version in zip(visits, versions, strict=True):
        state = visit.applied(state, version)
    return state


class Stage:
    """A job with a registry beside it."""

    def __init__(self, stack: DevStack, root: Path, plan: str) -> None:
        self.first = toy.make_bundle(root / "first", version=1)
        # The stack is shared, and so are its topics' names: each test has its own.
        shape = case(root.name, plan=plan, events=0, rate=1_000, parallelism=SUBTASKS)
        self.world = World(stack, root, self.first, shape, print)
        self.world.kafka = self.world.kafka.model_copy(update={"control": f"{shape.name}-control"})
        self.world.root.mkdir()
        topics.create(self.world.kafka)
        self.registry = Registry(str(root / "registry"))
        section = RegistrySettings(url=self.registry.url, promote_timeout_s=120)
        self.settings = Settings(kafka=self.world.kafka, registry=section)
        self.root = root
        self.sent: list[Visit] = []
        for version in (2, 3):
            self.push(version, parent=version - 1, keeps=KEEPS[version], more_items=20 * (version - 1))

    def push(self, version: int, **changes: object) -> Path:
        path = toy.make_bundle(self.root / f"bundle-{version}", version=version, **changes)  # type: ignore[arg-type]  # by name
        self.registry.push(path, now_ms=version)
        return path

    def visit(self, count: int, rate: float | None = None) -> list[Visit]:
        visits = [Visit(len(self.sent) + n) for n in range(count)]
        self.sent += visits
        produce(self.world.kafka, [visit.record() for visit in visits], rate=rate)
        return visits

    def settle(self) -> None:
        """Until a completed checkpoint holds every event."""
        self.world.cover()

    def applied(self) -> list[int]:
        assert self.world.record is not None
        statuses = bundle_status.read_all(self.world.job_dir, self.world.record.run)
        return [statuses[subtask].version for subtask in sorted(statuses)]

    def uic(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {**environment_of(self.world.kafka), "UIC__REGISTRY__URL": self.registry.url, "COLUMNS": "250"}
        command = [sys.executable, "-m", "jobs.cli", "bundle", *words, "--job-dir", str(self.world.job_dir)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    def stop(self) -> dict[float, int]:
        """Stop with a savepoint; its memories: the state, whose elements are one number, and who touched it last."""
        savepoint = self.world.stop_with_savepoint()
        form = form_of(self.first)
        assert form is not None
        codec: Codec = Bundle.open(self.first).codec
        memories = [codec.decode(blob) for blob in memories_of(savepoint, form)]
        assert sorted(memory.sequence for memory in memories) == sorted(len(self.of(user)) for user in range(USERS))
        assert all(len(set(memory.state_F.tolist())) == 1 for memory in memories)
        return {memory.state_F[0].item(): memory.bundle_version for memory in memories}

    def of(self, user: int) -> list[Visit]:
        return [visit for visit in self.sent if visit.user == user]


@pytest.fixture
def stage(stack: DevStack, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    made = Stage(stack, tmp_path, request.param)
    try:
        yield made
    finally:
        made.world.close()


@pytest.mark.parametrize("stage", ["batched"], indirect=True)
def test_a_bundle_is_promoted_and_what_does_not_fit_is_refused_by_every_worker(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = stage.world
    # As a job was before there was a control topic: its savepoint is gone on with by one that has it.
    with monkeypatch.context() as patched:
        whole = jobs.submit.kafka_topics
        patched.setattr(jobs.submit, "kafka_topics", lambda *given: dataclasses.replace(whole(*given), control=None))
        world.submit(resumes=False)
    stage.visit(300)
    stage.settle()
    world.stop_with_savepoint()
    world.submit(resumes=True)
    assert stage.applied() == [1, 1]

    # In a quiet moment.
    stage.visit(300)
    stage.settle()
    said = stage.uic("promote", "2")
    assert said.returncode == 0, said.stderr
    assert stage.applied() == [2, 2]
    stage.visit(300)
    stage.settle()

    # What does not fit is refused, by the command or by every worker, and version 2 goes on.
    stage.push(4, lineage="other")
    stage.push(5, is_broken=True, more_items=20)
    stage.push(6, more_items=20)
    (stage.root / "registry" / stage.registry.get(6).folder / "embeddings.bin").write_bytes(b"rot")
    other = stage.uic("promote", "4")
    assert other.returncode == 2
    assert "it is of lineage other" in other.stderr
    assert "1. warm-up: bundle 4" in other.stderr
    with pytest.raises(BundleError, match=r"bundle 5: refused by subtask \d: .* its step cannot be taken"):
        promote(stage.settings, world.job_dir, 5, print)
    with pytest.raises(BundleError, match=r"embeddings\.bin: altered"):
        promote(stage.settings, world.job_dir, 6, print)
    # Also where somebody skips the question whether it may.
    job = running(world.job_dir)
    corrupt = {"to": job.address, "version": 6, "url": stage.registry.url, "digest": stage.registry.get(6).digest}
    send(world.kafka, control.Promote(**corrupt, issued_ms=99))  # type: ignore[arg-type]  # by name
    world.wait(lambda: {each.answers_ms for each in running(world.job_dir).statuses.values()} == {99}, "both subtasks' refusal")
    assert {each.answer for each in running(world.job_dir).statuses.values()} == {"refused"}
    assert stage.applied() == [2, 2]
    listed = stage.uic("list").stdout
    assert [line for line in listed.splitlines() if " 2 " in line and "promoted, active" in line]
    assert "refused: it is of lineage other" in listed

    stage.visit(60)
    stage.settle()
    expected = {
        folded(visits, [1 if visit.n < 2 * 300 else 2 for visit in visits]).item(): 2 for visits in map(stage.of, range(USERS))
    }
    assert stage.stop() == expected


@pytest.mark.parametrize("stage", ["batched"], indirect=True)
def test_each_user_goes_over_to_a_bundle_once_also_where_a_worker_dies_as_all_are_ready(stage: Stage) -> None:
    world = stage.world
    world.submit(resumes=False)
    load = threading.Thread(target=stage.visit, args=(4_000, 1_000))
    load.start()
    world.wait(lambda: sum(end_offsets(world.kafka, world.kafka.events).values()) > 500, "some of the load")

    def kill_when_ready(text: str) -> None:
        if "is ready in 2 of 2" in text:
            faults.kill_worker(world)

    # Version 3 keeps all of a state: what it adds to a memory is lost or doubled visibly.
    promote(stage.settings, world.job_dir, 3, kill_when_ready)
    load.join()
    stage.settle()
    assert stage.applied() == [3, 3]
    afterwards = stage.visit(USERS)
    stage.settle()
    found = stage.stop()

    accounted = set()
    for user in range(USERS):
        visits = stage.of(user)
        loaded = sum(visit.n < afterwards[0].n for visit in visits)
        # The load may have gone by before the switch, or come after it: events and switch are two topics.
        switched = [[1] * before + [3] * (len(visits) - before) for before in range(loaded + 1)]
        possible = {folded(visits, versions).item() for versions in switched}
        assert possible & found.keys(), f"u{user}: {sorted(possible)} of {sorted(found)}"
        accounted |= possible
    assert found.keys() <= accounted
    assert set(found.values()) == {3}


@pytest.mark.parametrize("stage", ["per-event"], indirect=True)
def test_the_per_event_plan_takes_a_bundle_too_and_keeps_it_through_a_death(stage: Stage) -> None:
    world = stage.world
    world.submit(resumes=False)
    before = stage.visit(60)
    stage.settle()
    promote(stage.settings, world.job_dir, 2, print)
    assert stage.applied() == [2, 2]
    stage.visit(60)
    stage.settle()
    world.wait_for_checkpoint()
    restarts = world.cluster.restarts(world.job_id)
    faults.kill_worker(world)
    world.wait(lambda: world.cluster.restarts(world.job_id) != restarts, "the failover")
    stage.visit(60)
    stage.settle()
    expected = {
        folded(visits, [1 if visit.n < len(before) else 2 for visit in visits]).item(): 2
        for visits in map(stage.of, range(USERS))
    }
    assert stage.stop() == expected
