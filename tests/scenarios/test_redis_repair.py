"""A cluster job with its store in Redis, which loses everything twice: a repair makes it equal to the job's state again."""

import dataclasses
import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import toy
from test_cluster import case

from jobs import topics
from jobs.chaos.world import World, environment_of
from jobs.checkpoints import form_of
from jobs.dev.redis_servers import RedisServers
from jobs.dev.stack import DevStack
from jobs.produce import produce
from jobs.settings import Settings, StreamSettings
from jobs.store.in_savepoint import memories_by_user
from jobs.submit import Submission, submit
from uic.bundle import Bundle
from uic.codec import read_header
from uic.errors import UicError
from uic.store.redis_store import RedisStore
from uic.store.sharded import open_to_read

USERS = [f"u{number}" for number in range(40)]


class InRedis(World):
    """A world whose job and follower write to Redis."""

    place = Path()

    @property
    def store(self) -> Path:
        return self.place

    def submit(self, *, resumes: bool, **changes: object) -> None:
        settings = Settings(kafka=self.kafka, stream=StreamSettings(direct=self.store))
        asked = Submission(
            bundle=self.bundle, job_dir=self.job_dir, url=self.stack.url, name="redis", plan="batched", parallelism=2,
            backend="hashmap", checkpoint_interval_s=1.0,
        )  # fmt: skip
        self.record = submit(settings, asked, resumes=resumes)

    def visit(self, *users: str) -> None:
        records = []
        for user in users:
            self.sent += 1
            fields = {"user_id": user, "item_id": self.sent * 7 % 200 + 1, "category_id": self.sent % 10 + 1}
            event = {**fields, "behaviour": "click", "time_ms": toy.START_MS + self.sent}
            records.append((user.encode(), json.dumps(event).encode()))
        produce(self.kafka, records)

    def stored(self) -> dict[str, bytes]:
        with closing(open_to_read(self.store)) as store:
            return {user: blob for user in store.users() if (blob := store.read(user)) is not None}

    def has(self, sequences: dict[str, int]) -> bool:
        try:
            return {user: read_header(blob).sequence for user, blob in self.stored().items()} == sequences
        except UicError:  # not made yet, or lost
            return False

    def in_state(self) -> tuple[Path, dict[str, bytes]]:
        """A savepoint of the running job, and its memories."""
        form = form_of(self.bundle)
        assert form is not None
        assert self.record is not None
        self.cover()
        taken = self.cluster.savepoint(self.job_id, self.job_dir / "checkpoints" / f"run-{self.record.run:06d}")
        return taken, {user: blob for user, blob in memories_by_user(taken, form) if blob is not None}

    def repair(self, *words: object) -> str:
        command = [sys.executable, "-m", "jobs.cli", "store", "repair", "--bundle", self.bundle, "--store", self.store]
        command += ["--job-dir", self.job_dir, *words]
        done = subprocess.run(
            list(map(str, command)), env=environment_of(self.kafka), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def test_a_store_that_lost_everything_is_equal_to_the_jobs_state_again_while_the_job_runs(
    stack: DevStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where a follower into Redis keeps what it refuses
    bundle = toy.make_bundle(tmp_path / "toy")
    world = InRedis(stack, tmp_path, bundle, dataclasses.replace(case("redis", events=0, rate=1_000)), print)
    world.root.mkdir()
    topics.create(world.kafka)
    with RedisServers(tmp_path / "redis") as servers:
        world.place = Path(str(servers.url()))
        redis = servers.nodes[0]
        try:
            world.submit(resumes=False)
            # The job writes by itself what comes while nobody follows the topic.
            world.visit(*USERS * 2)
            world.wait(lambda: world.has(dict.fromkeys(USERS, 2)), "what the job writes directly", 60)
            world.start_follower()

            redis.kill()
            world.visit(*USERS[:10])
            redis.start()
            redis.wait_ready()
            world.visit(*USERS[5:15], "new")
            expected = {user: 2 + (user in USERS[:10]) + (user in USERS[5:15]) for user in USERS} | {"new": 1}
            said = world.repair()
            assert "memories offered" in said
            world.wait(lambda: world.has(expected), "the repaired store", 30)
            assert world.stored() == world.in_state()[1]

            with closing(RedisStore.create_or_open(servers.url(), Bundle.open(bundle).identity)) as store:
                assert store.lost_ms is None
                memory = world.stored()["u0"]
                store.link.ask("FLUSHALL")
                assert store.write("gone", memory)  # of whom the job knows nothing, and whose deletion was lost
                assert store.lost_ms is not None
                world.visit(*USERS[20:])
                savepoint, state = world.in_state()
                said = world.repair("--savepoint", savepoint)
                assert "1 users who had left removed" in said
                world.wait(lambda: world.stored() == state, "the repaired store", 30)
                assert store.lost_ms is None
        finally:
            world.close()
