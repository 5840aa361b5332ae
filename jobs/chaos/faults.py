"""What can go wrong, each as a function that does it to a running world. Random moments come from the world's own seed."""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jobs.chaos.world import World

OUTAGE_S = 60.0
Act = Callable[[World], None]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault by name. `load` changes fields of the load's spec; `is_small`: the job folder is to be a small tmpfs."""

    act: Act
    help: str
    load: dict[str, Any] = field(default_factory=dict)
    is_small: bool = False


def nothing(world: World) -> None:
    """The control: what fails here is no fault's doing."""


def kill_taskmanager(world: World) -> None:
    kill_worker(world, at_share=world.rng.uniform(0.2, 0.6))


def kill_during_checkpoint(world: World) -> None:
    world.wait_until_sent(0.3)
    under_way = "a checkpoint to kill into"  # which is over soon
    world.wait(lambda: world.cluster.checkpoints(world.job_id).in_progress > 0, under_way, every_s=0.05)
    kill_worker(world, at_share=0)


def kill_ten_times(world: World) -> None:
    for _ in range(10):
        kill_worker(world, at_share=0.1)
        time.sleep(world.rng.uniform(0, 3))


def kill_jobmanager(world: World) -> None:
    """The JobManager has no successor of its own: its jobs are gone, and resume brings this one back."""
    world.wait_until_sent(world.rng.uniform(0.3, 0.6))
    world.wait_for_checkpoint()
    world.stack.jobmanager.kill()
    world.stack.jobmanager.start()
    world.stack.jobmanager.wait_ready()
    slots = world.case.parallelism
    world.wait(lambda: world.cluster.overview().slots_available >= slots, "TaskManagers to come back to the new JobManager")
    world.submit(resumes=True)


def pause_taskmanager(world: World) -> None:
    """Past the heartbeat's timeout: the job goes on elsewhere, and the paused one wakes up late."""
    world.wait_until_sent(world.rng.uniform(0.2, 0.5))
    node = world.worker()
    node.pause()
    try:
        # Not by the metric of restarts: the JobManager may wait for ever for the metrics of a worker that says nothing.
        world.wait(lambda: world.runs_without(node), "the job to be moved")
    finally:
        node.resume()


def restart_broker(world: World) -> None:
    world.wait_until_sent(world.rng.uniform(0.2, 0.5))
    world.stack.broker.kill()
    time.sleep(world.rng.uniform(0.5, 3))
    world.stack.broker.start()
    world.stack.broker.wait_ready()


def store_unreachable(world: World) -> None:
    """Nothing can be published for a minute, and nobody applies what was: the job must wait, and lose nothing."""
    world.wait_until_sent(world.rng.uniform(0.2, 0.5))
    world.kill_follower()
    world.stack.broker.pause()
    try:
        time.sleep(OUTAGE_S)
    finally:
        world.stack.broker.resume()
    world.start_follower()


def kill_follower(world: World) -> None:
    for share in (0.2, 0.4, 0.6):
        world.wait_until_sent(share)
        world.kill_follower()
        world.start_follower()


def fill_checkpoint_disk(world: World) -> None:
    """No byte more fits beside the checkpoints for a while; the job folder is a small file system of its own."""
    world.wait_until_sent(0.3)
    filler = world.job_dir / "filler"
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=1M"], capture_output=True, check=False)
    world.wait(lambda: world.cluster.checkpoints(world.job_id).failed > 0, "a checkpoint to fail")
    filler.unlink()
    world.wait_for_checkpoint()


def rescale(world: World) -> None:
    """1 -> 2 -> 1 slots, through savepoints."""
    for share, parallelism in ((0.3, 2), (0.6, 1)):
        world.wait_until_sent(share)
        world.stop_with_savepoint()
        world.submit(resumes=True, parallelism=parallelism)


def change_plan(world: World) -> None:
    """From one plan to the other and back, and to the other backend: one keyed state for all of them."""
    plans, backends = ("batched", "per-event"), ("hashmap", "rocksdb")
    for share, turn in ((0.3, 1), (0.6, 2)):
        world.wait_until_sent(share)
        world.stop_with_savepoint()
        plan = plans[(plans.index(world.case.plan) + turn) % 2]
        backend = backends[(backends.index(world.case.backend) + turn) % 2]
        world.submit(resumes=True, plan=plan, backend=backend)


def kill_worker(world: World, at_share: float = 0.0) -> None:
    """kill -9 of the TaskManager that runs the job, once this share of the load is in Kafka."""
    world.wait_until_sent(at_share)
    node = world.worker()
    node.kill()
    node.start()


FAULTS: dict[str, Fault] = {
    "control": Fault(act=nothing, help="no fault; runs first"),
    "kill-taskmanager": Fault(act=kill_taskmanager, help="kill -9 of the TaskManager at a random time"),
    "kill-during-checkpoint": Fault(act=kill_during_checkpoint, help="the same while a checkpoint is being taken"),
    "kill-ten-times": Fault(act=kill_ten_times, help="the same ten times in a row, up to 3 s apart"),
    "kill-jobmanager": Fault(act=kill_jobmanager, help="kill -9 of the JobManager, then resume"),
    "pause-taskmanager": Fault(act=pause_taskmanager, help="SIGSTOP of the TaskManager past its heartbeat, then SIGCONT"),
    "restart-broker": Fault(act=restart_broker, help="kill -9 of the Kafka broker, and a new start"),
    "store-unreachable": Fault(act=store_unreachable, help="broker paused and follower dead for a minute"),
    "full-disk": Fault(act=fill_checkpoint_disk, help="no space left for checkpoints, for a while (as root)", is_small=True),
    "kill-follower": Fault(act=kill_follower, help="kill -9 of `uic store follow`, three times"),
    "rescale": Fault(act=rescale, help="1 -> 2 -> 1 slots"),
    "change-plan": Fault(act=change_plan, help="to the other plan and backend and back, through savepoints"),
    "duplicates": Fault(act=nothing, help="every event ten times", load={"duplicates": 0.9}),
    "disorder": Fault(act=nothing, help="disorder within and beyond lateness", load={"disorder": 0.3, "too_late": 0.1}),
    "poison": Fault(act=nothing, help="a fifth of the events cannot be applied", load={"poison": 0.2}),
    "hot-user": Fault(act=kill_taskmanager, help="one user takes nearly everything; and a kill", load={"hot_share": 0.95}),
}
