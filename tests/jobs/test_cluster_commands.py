"""`uic job list|status|stop|cancel` against a real cluster and a real broker, and what is said where there is none."""

import http.server
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from command import Uic
from confluent_kafka import Producer
from confluent_kafka.admin import NewPartitions

sys.path.append(str(Path(__file__).parents[1] / "scenarios"))

import toy

from jobs import checkpoints, topics
from jobs.cluster.lag import Lag, Partition, lag
from jobs.cluster.rest import Cluster
from jobs.dev.stack import DevStack
from jobs.folder import ClusterRecord, JobFolder, JobRecord
from jobs.kafka import client_config
from jobs.settings import KafkaSettings
from uic.errors import EnvironmentProblem, JobError

USERS = 40
WITHIN_S = 120
FLINK = {
    "execution.checkpointing.num-retained": "3",
    "metrics.fetcher.update-interval": "500",
}


class World(NamedTuple):
    """A cluster with one slot, a broker, and the settings that lead to both."""

    stack: DevStack
    kafka: KafkaSettings
    bundle: Path
    job_dir: Path
    config: Path

    def submit(self, command: str, *options: str) -> str:
        """Submit or resume in a process of its own, since PyFlink knows one JVM a process; returns the job's id."""
        words = [sys.executable, "-m", "jobs.cli", "--config", str(self.config), "job", command, "--bundle", str(self.bundle)]
        done = subprocess.run([*words, *options], capture_output=True, text=True, timeout=WITHIN_S, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        record = JobFolder(self.job_dir).record()
        assert record is not None
        assert record.cluster is not None
        return record.cluster.job_id

    def send(self, first: int, count: int) -> None:
        producer = Producer({**client_config(self.kafka), "partitioner": "murmur2_random"})
        for number in range(first, first + count):
            user = f"u{number % USERS}"
            event = {"user_id": user, "item_id": 1, "category_id": 1, "behaviour": "buy", "time_ms": toy.START_MS + number}
            producer.produce(self.kafka.events, json.dumps(event).encode(), user.encode())
        assert producer.flush(30) == 0


@pytest.fixture(scope="module")
def world(broker: KafkaSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("world")
    kafka = broker.model_copy(update={"events": "e", "snapshots": "s", "late": "l", "dead": "d", "group": "g", "partitions": 2})
    topics.create(kafka)
    with DevStack(root / "stack", taskmanagers=1, kafka=False, flink=FLINK) as stack:
        settings = {
            "stream": {"job_dir": str(root / "job"), "checkpoint_interval_s": 0.5},
            "cluster": {"url": stack.url},
            "kafka": kafka.model_dump(mode="json", exclude={"password"}, exclude_none=True),
        }
        (root / "uic.yaml").write_text(yaml.safe_dump(settings))
        yield World(stack, kafka, toy.make_bundle(root / "bundle"), root / "job", root / "uic.yaml")


@pytest.fixture
def job(world: World, uic: Uic, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`job("status")` with the world's settings."""
    assert world.kafka.password is not None
    monkeypatch.setenv("UIC__KAFKA__PASSWORD", world.kafka.password.get_secret_value())
    return lambda *words: uic("--config", world.config, "job", *words)


def await_status(job: Callable[..., Any], wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Ask for the status until it is as wanted."""
    give_up_at = time.monotonic() + WITHIN_S
    while True:
        status: dict[str, Any] = json.loads(job("status", "--output", "json").out)
        if wanted(status):
            return status
        assert time.monotonic() < give_up_at, json.dumps(status, indent=2)
        time.sleep(0.5)


@pytest.mark.timeout(500)
def test_a_job_is_told_from_its_start_through_a_lost_worker_to_its_stop_and_its_end(
    world: World, job: Callable[..., Any], uic: Uic
) -> None:
    world.send(0, 200)
    job_id = world.submit("submit", "--parallelism", "1")
    status = await_status(job, lambda status: (status["unread"], status["uncovered"]) == (0, 0))
    assert (status["state"], status["restarts"], status["partitions"], status["problems"]) == ("RUNNING", 0, 2, [])
    assert status["checkpoint"]["path"].startswith(f"{world.job_dir}/checkpoints/run-000001/{job_id}/chk-")
    assert await_status(job, lambda status: status["events_per_s"])["events_per_s"] > 0
    shown = job("status")
    assert shown.code == 0
    assert "0 events not covered by a checkpoint" in shown.out
    (listed,) = json.loads(job("list", "--output", "json").out)
    # Both sources, events and control, and the update.
    assert (listed["id"], listed["name"], listed["state"], listed["running_tasks"]) == (job_id, "uic", "RUNNING", 3)

    doctor = uic("--config", world.config, "doctor", "--require", "cluster", "--require", "topics", "--output", "json")
    found = {(each["area"], each["level"]) for each in json.loads(doctor.out)}
    assert doctor.code == 0, doctor.out
    assert {(area, "ok") for area in ("bundle", "job", "cluster", "kafka", "topics", "partitioner")} <= found

    # The only worker dies: nothing is read, and that is what is said.
    world.stack.taskmanagers[0].kill()
    await_status(job, lambda status: status["failure"] is not None)
    world.send(200, 70)
    # The JobManager strikes the worker off when a heartbeat is refused, which may be after its tasks have failed.
    status = await_status(job, lambda status: status["uncovered"] == 70 and "0 of 0 slots are free" in str(status["problems"]))
    assert not status["is_well"]
    assert any("of 3 steps do not run" in problem and "0 of 0 slots are free" in problem for problem in status["problems"])
    assert "taskmanager-1.1" in status["failure"]["cause"]
    world.stack.taskmanagers[0].restart()
    status = await_status(job, lambda status: (status["unread"], status["uncovered"]) == (0, 0))
    assert status["restarts"] >= 1
    assert status["restored_from"].startswith(f"{world.job_dir}/checkpoints/run-000001/{job_id}/chk-")

    stopped = job("stop")
    assert stopped.code == 0, stopped.err
    savepoint = Path(stopped.out.strip())
    folder = JobFolder(world.job_dir)
    assert savepoint.parent == folder.checkpoints_of(1)
    found = checkpoints.inspect(savepoint, checkpoints.form_of(world.bundle))
    assert (found.memories, found.is_intact) == (USERS, True)
    ended = job("status")
    assert ended.code == 1
    assert f"it is FINISHED. `uic job resume` goes on from {savepoint.relative_to(world.job_dir)}" in ended.out
    again = job("stop")
    assert (again.code, "has ended already, it is FINISHED since" in again.err) == (2, True)

    # Resumed, it goes on where it was; cancelled, its checkpoints stay.
    second = world.submit("resume", "--parallelism", "1")
    world.send(270, 30)
    await_status(job, lambda status: status["uncovered"] == 0 and status["checkpoint"]["path"].find(second) >= 0)
    await_status(job, lambda _: len(list(folder.checkpoints_of(2).glob("*/chk-*/_metadata"))) >= 3)
    cancelled = job("cancel")
    assert cancelled.code == 0
    kept = [Path(line.removeprefix("kept: ")) for line in cancelled.out.splitlines()]
    assert len(kept) == 3
    assert kept == [path for path in folder.candidates() if folder.run_of(path) == 2]
    assert folder.newest_intact_checkpoint(lambda _: None, checkpoints.form_of(world.bundle)) == kept[0]
    assert [each["state"] for each in json.loads(job("list", "--output", "json").out)] == ["CANCELED", "FINISHED"]

    # A topic with another count of partitions is a problem, told in words.
    admin = topics.connect(world.kafka)
    admin.create_partitions([NewPartitions(world.kafka.events, 3)])[world.kafka.events].result()
    status = await_status(job, lambda status: status["partitions"] == 3)
    assert any("had 2 partitions when the job was submitted, now it has 3" in problem for problem in status["problems"])

    with pytest.raises(JobError, match=rf"no job {'0' * 32} there"):
        Cluster(world.stack.url).job("0" * 32)
    assert not Cluster(world.stack.url).is_alive("0" * 32)
    with pytest.raises(JobError, match=r"made no savepoint: .*Could not find Flink job"):
        Cluster(world.stack.url).savepoint(job_id, world.job_dir / "none")


ON = ClusterRecord(
    url="http://127.0.0.1:9",
    job_id="ab" * 16,
    name="uic",
    plan="batched",
    parallelism=1,
    bootstrap="127.0.0.1:9",
    topic="events",
    partitions=4,
    wheel="w.whl",
)
RECORD = JobRecord(
    run=1, layout="l", lineage="i", bundle_version=1, bundle="b", events="events", store="s", backend="hashmap", cluster=ON
)


def test_a_cluster_that_is_not_there_is_named_with_the_way_out(uic: Uic) -> None:
    ended = uic("job", "list", "--cluster", "http://127.0.0.1:9")
    assert ended.code == 2
    assert ended.err.startswith("EnvironmentProblem: http://127.0.0.1:9: no Flink cluster answers: [Errno 111]")
    assert "`uic dev up` starts one" in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize("url", ["localhost:8081", "ftp://a", "http://", ""])
def test_what_is_no_address_is_refused(uic: Uic, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UIC__CLUSTER__URL", url)
    ended = uic("job", "list")
    assert ended.code == 2
    assert ended.err.startswith("BadInput: cluster.url: expected an address such as http://localhost:8081")


def test_the_status_of_a_lost_cluster_tells_what_the_folder_knows(uic: Uic, tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "job")
    folder.write(RECORD)
    checkpoint = folder.checkpoints_of(1) / ("ab" * 16) / "chk-3"
    checkpoint.mkdir(parents=True)
    (checkpoint / "_metadata").write_bytes(bytes.fromhex("4960672d"))
    ended = uic("job", "status", "--output", "json")
    assert ended.code == 1
    status = json.loads(ended.out)
    assert status["state"] is None
    cluster, kafka = status["problems"]
    assert "no Flink cluster answers" in cluster
    assert cluster.endswith(f"`uic job resume` goes on from checkpoints/run-000001/{'ab' * 16}/chk-3")
    assert kafka.startswith("lag is not known: kafka.bootstrap 127.0.0.1:9: no broker answered")


@pytest.mark.parametrize("command", ["status", "stop", "cancel"])
def test_a_folder_without_a_submitted_job_is_refused(uic: Uic, tmp_path: Path, command: str) -> None:
    assert "job: expected a streaming-job directory" in uic("job", command).err
    assert not (tmp_path / "job").exists()
    folder = JobFolder(tmp_path / "job")
    assert "no job was started in this folder yet; `uic job submit` starts one" in uic("job", command).err
    folder.write(JobRecord(**{**RECORD.__dict__, "cluster": None}))
    assert "its job runs in this machine's embedded Flink" in uic("job", command).err


class _Other(http.server.BaseHTTPRequestHandler):
    """Some server that is not Flink."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>welcome</html>")

    def log_message(self, *_: object) -> None:
        pass


def test_another_server_at_the_address_is_not_taken_for_flink() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), _Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(EnvironmentProblem, match="expected Flink's REST interface, got 200 '<html>welcome"):
            Cluster(f"http://127.0.0.1:{server.server_port}").overview()
        server.shutdown()


@pytest.mark.parametrize(
    ("log", "read", "expected"),
    [
        ({}, {}, Lag(0, 0)),
        ({0: Partition(0, 10, None)}, {}, Lag(None, None)),
        ({0: Partition(0, 10, None)}, {0: 4}, Lag(6, None)),
        ({0: Partition(0, 10, 7)}, {}, Lag(3, 3)),
        ({0: Partition(0, 10, 7)}, {0: 4}, Lag(3, 3)),
        ({0: Partition(0, 10, 7), 1: Partition(3, 3, None)}, {0: 10}, Lag(0, 3)),
        ({0: Partition(5, 10, 7), 1: Partition(0, 10, 10)}, {0: 9, 1: 10}, Lag(1, 3)),
    ],
)
def test_lag_is_the_rest_of_the_log_and_not_known_where_nothing_was_read(
    log: dict[int, Partition], read: dict[int, int], expected: Lag
) -> None:
    assert lag(log, read) == expected
