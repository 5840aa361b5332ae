"""The job on a real Flink cluster, from a real Kafka, while things go wrong; the proof is that of `uic chaos`.

Several faults share one load here, so that all of it takes minutes; `uic chaos` runs each alone, longer, and over again.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
import toy

from jobs import blobs, topics
from jobs.chaos import faults
from jobs.chaos.command import run_case
from jobs.chaos.proof import Proof
from jobs.chaos.world import Case, World, committed_offsets, end_offsets, environment_of
from jobs.checkpoints import form_of, memories_of
from jobs.dev.stack import DevStack
from jobs.produce import produce
from operators import condemned
from uic.bundle import Bundle
from uic.store.sharded import open_to_read
from uic.synthetic.spec import SyntheticSpec

SEED = 7


def case(name: str, *, plan: str = "batched", backend: str = "hashmap", events: int, rate: float, **changes: Any) -> Case:
    """A load of everything that an event can be: duplicates, disorder, late events, poison, a hot user."""
    shares = {"zipf": 1.1, "duplicates": 0.05, "disorder": 0.05, "too_late": 0.02, "poison": 0.03, "hot_share": 0.1}
    spec = {"users": 300, "items": 200, "categories": 10, "seed": SEED, **shares, **changes.pop("spec", {})}
    return Case(
        fault=name, plan=plan, backend=backend, spec=SyntheticSpec(events=events, **spec), rate=rate, seed=SEED, **changes
    )


def check(proof: Proof) -> None:
    assert proof.wrong == []
    assert proof.applied > 0
    assert proof.left["late"] > 0
    assert proof.left["dead"] > 0


@pytest.fixture
def world(stack: DevStack, tmp_path: Path, toy_bundle: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """A world of the test's own case, its job started."""
    made = World(stack, tmp_path, toy_bundle, request.param, print)
    try:
        made.start()
        yield made
    finally:
        made.close()


def test_a_batched_job_survives_kills_of_everything_around_it(stack: DevStack, tmp_path: Path, toy_bundle: Path) -> None:
    mixed = case("kills", backend="rocksdb", events=20_000, rate=750)
    acts = (faults.kill_during_checkpoint, faults.kill_follower, faults.restart_broker, faults.kill_jobmanager)
    check(run_case(stack, tmp_path, toy_bundle, mixed, print, *acts))


def test_a_job_moves_between_plans_and_backends_and_survives_a_pause(stack: DevStack, tmp_path: Path, toy_bundle: Path) -> None:
    mixed = case("moves", plan="per-event", events=15_000, rate=500)
    check(run_case(stack, tmp_path, toy_bundle, mixed, print, faults.pause_taskmanager, faults.change_plan))


def test_a_job_is_rescaled_up_and_down_under_a_load_of_mostly_trouble(
    stack: DevStack, tmp_path: Path, toy_bundle: Path
) -> None:
    trouble = {"duplicates": 0.4, "disorder": 0.1, "too_late": 0.05, "poison": 0.1, "hot_share": 0.5}
    mixed = case("rescale", events=20_000, rate=1_000, spec=trouble)
    check(run_case(stack, tmp_path, toy_bundle, mixed, print, faults.rescale))


@pytest.mark.parametrize(
    "world", [case("flip", events=40_000, rate=1_000, checkpoint_interval_s=2.0, spec={"users": 30})], indirect=True
)
def test_a_flipped_bit_fails_the_job_with_the_checkpoints_name_and_resume_takes_an_older_one(world: World) -> None:
    # Flink itself restores the changed file without a word; the memory's own CRC notices.
    for _ in range(3):  # older ones, to go back to
        world.wait_for_checkpoint()
    flipped = []
    for _ in range(5):
        world.wait_for_checkpoint()
        points = world.cluster.checkpoints(world.job_id)
        assert points.last is not None
        flipped.append(points.last.path)
        undo = flip_a_bit(Path(points.last.path), world.bundle)
        faults.kill_worker(world)
        known = (points.restored_from, points.last.path)
        world.wait(lambda known=known: has_failed(world) or restored_from(world) not in known, "the job's way back")
        if restored_from(world) == points.last.path:
            break
        undo()  # a newer checkpoint was complete before the kill; only three are kept, and one must stay whole
    world.wait(lambda: has_failed(world), "the job's failure")
    failure = world.cluster.last_failure(world.job_id)
    assert failure is not None
    named = [entry.checkpoint for entry in condemned.read(world.job_dir)]
    assert named == flipped[-1:]
    assert Path(flipped[-1]).name in failure.cause
    assert "ChecksumMismatch" in failure.cause
    world.submit(resumes=True)
    assert restored_from(world) not in named
    world.settle()
    check(world.prove())


def test_an_exception_in_python_fails_the_task_with_its_traceback_in_the_log(stack: DevStack, tmp_path: Path) -> None:
    broken = toy.make_bundle(tmp_path / "bundle", is_broken=True)
    never = {"restart-strategy.type": "none"}
    world = World(stack, tmp_path, broken, case("broken", events=100, rate=1_000, flink=never), print)
    try:
        world.start()
        worker = world.worker()
        world.wait(lambda: world.cluster.job(world.job_id).state == "FAILED", "the job's failure")
        failure = world.cluster.last_failure(world.job_id)
        assert failure is not None
        assert failure.python is not None
        assert "uic/batch.py" in failure.python
        assert "Traceback (most recent call last)" in worker.log.read_text(errors="replace")
    finally:
        world.close()


def test_idle_users_leave_state_and_store_and_a_replay_by_the_other_plan_makes_the_same_store(
    stack: DevStack, tmp_path: Path, toy_bundle: Path
) -> None:
    first = World(stack, tmp_path, toy_bundle, idle_case("idle", "per-event"), print)
    again = World(stack, tmp_path, toy_bundle, idle_case("idle-again", "batched"), print)
    try:
        first.start()
        first.settle()
        left = set(stored(first))
        time.sleep(IDLE_S + 1)
        # New users on every partition, twice: the log's own clock has to pass the idle ones everywhere.
        for _ in range(2):
            produce(first.kafka, [visit(user) for user in range(40)], rate=None)
            time.sleep(0.5)
        first.wait(lambda: left.isdisjoint(stored(first)), "the leaving of idle users")
        assert set(stored(first)) == {f"visitor {user}" for user in range(40)}

        again.kafka = again.kafka.model_copy(update={"events": first.kafka.events})
        again.root.mkdir()
        topics.create(again.kafka)
        again.submit(resumes=False)
        again.wait(lambda: stored(again) == stored(first), "the same store from a replay")
        assert 'uic_events_total{outcome="applied"}' in metrics_of(again)
        savepoint = again.stop_with_savepoint()
        form = form_of(toy_bundle)
        assert form is not None
        assert sorted(memories_of(savepoint, form)) == sorted(stored(again).values())
    finally:
        first.close()
        again.close()


def metrics_of(world: World) -> str:
    """What the job's worker tells Prometheus, found as Prometheus finds it."""
    (found,) = (world.job_dir / "metrics").glob("*.json")
    (target,) = json.loads(found.read_text())[0]["targets"]
    return requests.get(f"http://{target}/metrics", timeout=10).text


IDLE_S = 3


def idle_case(name: str, plan: str) -> Case:
    return case(name, plan=plan, events=2_000, rate=2_000, idle_after_s=IDLE_S)


def visit(user: int) -> tuple[bytes, bytes]:
    name = f"visitor {user}"
    event = {"user_id": name, "item_id": 1, "category_id": 1, "behaviour": "click", "time_ms": time.time_ns() // 1_000_000}
    return name.encode(), json.dumps(event).encode()


def stored(world: World) -> dict[str, bytes]:
    """What the store holds once the snapshots topic is applied to its end."""
    world.kill_follower()
    command = [
        sys.executable,
        "-m",
        "jobs.cli",
        "store",
        "follow",
        "--bundle",
        world.bundle,
        "--store",
        world.store,
        "--until-end",
    ]
    subprocess.run(command, env=environment_of(world.kafka), check=True, capture_output=True)
    store = open_to_read(world.store)
    try:
        return {user: blob for user in store.users() if (blob := store.read(user)) is not None}
    finally:
        store.close()


def test_a_fresh_job_starts_at_a_time_or_where_the_group_has_committed(
    stack: DevStack, tmp_path: Path, toy_bundle: Path
) -> None:
    world = World(stack, tmp_path, toy_bundle, case("start", events=0, rate=1_000), print)
    world.root.mkdir()
    topics.create(world.kafka)
    try:
        produce(world.kafka, [visit(user) for user in range(30)], rate=None)
        time.sleep(0.05)
        between = datetime.now(UTC).isoformat()
        time.sleep(0.05)
        produce(world.kafka, [visit(user) for user in range(20, 50)], rate=None)
        world.kafka = world.kafka.model_copy(update={"start": between})
        world.submit(resumes=False)
        second = {f"visitor {user}" for user in range(20, 50)}
        world.wait(lambda: set(stored(world)) == second, "the users after that time, and no others")
        ends = end_offsets(world.kafka, world.kafka.events)
        world.wait(lambda: committed_offsets(world.kafka) == ends, "what is committed")
        world.cluster.cancel(world.job_id)

        produce(world.kafka, [visit(user) for user in range(60, 70)], rate=None)
        world.kafka = world.kafka.model_copy(update={"start": "committed"})
        world.submit(resumes=False, job_dir=world.root / "another-job")
        third = {f"visitor {user}" for user in range(60, 70)}
        world.wait(lambda: set(stored(world)) == second | third, "the users after what was committed")
        codec = Bundle.open(toy_bundle).codec
        assert {codec.decode(blob).sequence for blob in stored(world).values()} == {1}
    finally:
        world.close()


def test_a_full_checkpoint_disk_costs_checkpoints_and_no_event(stack: DevStack, tmp_path: Path, toy_bundle: Path) -> None:
    # The small disk has to be mounted, which only root may; so are the containers' and CI's tests.
    full = case("full", events=10_000, rate=750, small_disk=True)
    check(run_case(stack, tmp_path, toy_bundle, full, print, faults.fill_checkpoint_disk))


def has_failed(world: World) -> bool:
    return world.cluster.job(world.job_id).state == "FAILED"


def restored_from(world: World) -> str | None:
    return world.cluster.checkpoints(world.job_id).restored_from


def flip_a_bit(checkpoint: Path, bundle: Path) -> Callable[[], object]:
    """One bit within one memory of a checkpoint's files; what is returned puts it back, while Flink keeps the checkpoint."""
    form = form_of(bundle)
    for path in sorted(each for each in checkpoint.iterdir() if each.is_file()):
        data = bytearray(path.read_bytes())
        found = next(iter(blobs.find(bytes(data), form)), None)
        if found is not None:
            assert form is not None
            whole = bytes(data)
            data[found.offset + form.size // 2] ^= 0x10
            path.write_bytes(data)
            return lambda: path.exists() and path.write_bytes(whole)
    raise AssertionError(f"{checkpoint}: no memory in it")
