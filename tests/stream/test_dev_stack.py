"""The development stack for real: through the command line, killed, behind a password and behind TLS."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from pydantic import SecretStr

from jobs.dev.broker import answers
from jobs.dev.stack import DevStack
from jobs.jars import broker_jars, has_job_jars, job_jars
from jobs.kafka import client_config
from jobs.settings import KafkaSettings
from uic.errors import EnvironmentProblem


def uic_dev(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs.cli", "dev", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=480, check=False)


def processes_of(folder: Path) -> list[str]:
    """The command lines of all processes that were started for a stack in this folder."""
    lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if str(folder / ".uic-dev") in line]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    uic_dev(tmp_path, "down")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    with DevStack(tmp_path_factory.mktemp("sasl"), flink_cluster=False, sasl=True) as stack:
        yield stack


def test_a_stack_comes_up_shows_itself_and_goes_down(folder: Path) -> None:
    up = uic_dev(folder, "up", "--taskmanagers", "1")
    assert up.returncode == 0, up.stderr
    status = uic_dev(folder, "status")
    assert status.returncode == 0
    assert [line.split()[0] for line in status.stdout.splitlines()[1:]] == ["broker", "jobmanager", "taskmanager-1"]
    assert all(" yes " in line for line in status.stdout.splitlines()[1:])
    for name in ("broker", "jobmanager", "taskmanager-1"):
        assert (folder / ".uic-dev" / "logs" / f"{name}.log").stat().st_size > 0

    again = uic_dev(folder, "up")
    assert again.returncode == 0
    assert "runs in .uic-dev already" in again.stdout

    variables = dict(line.removeprefix("export ").split("=") for line in uic_dev(folder, "env").stdout.splitlines())
    topics = AdminClient({"bootstrap.servers": variables["UIC__KAFKA__BOOTSTRAP"]}).list_topics(timeout=10).topics
    assert {"events", "snapshots", "late-events", "dead-letters"} <= set(topics)
    assert variables["UIC__CLUSTER__URL"] in up.stdout

    assert uic_dev(folder, "down").returncode == 0
    assert processes_of(folder) == []
    assert {path.name for path in (folder / ".uic-dev").iterdir()} == {"artefact.json", "lock", "logs", "supervisor.log"}
    assert uic_dev(folder, "status").returncode == 1


def test_nothing_outlives_a_killed_supervisor_and_the_next_stack_starts_clean(folder: Path) -> None:
    up = uic_dev(folder, "up", "--no-kafka", "--taskmanagers", "1", "--redis")
    assert (up.returncode, "Redis   redis://127.0.0.1:" in up.stdout) == (0, True)
    assert "UIC__STORE__PATH=redis://127.0.0.1:" in uic_dev(folder, "env").stdout
    supervisor = int((folder / ".uic-dev" / "lock").read_text())
    assert len(processes_of(folder)) == 4
    os.kill(supervisor, signal.SIGKILL)
    give_up_at = time.monotonic() + 20
    while processes_of(folder):
        assert time.monotonic() < give_up_at, processes_of(folder)
        time.sleep(0.05)
    assert uic_dev(folder, "status").returncode == 1

    left = folder / ".uic-dev" / "tmp" / "left-behind"
    left.mkdir()
    again = uic_dev(folder, "up", "--no-kafka", "--taskmanagers", "0")
    assert again.returncode == 0, again.stderr
    assert not left.exists()


def test_a_folder_of_something_else_is_left_alone(folder: Path) -> None:
    (folder / ".uic-dev").mkdir()
    (folder / ".uic-dev" / "thesis.txt").write_text("mine")
    refused = uic_dev(folder, "up")
    assert refused.returncode == 2
    assert "expected an empty folder or a dev-stack" in refused.stderr
    assert (folder / ".uic-dev" / "thesis.txt").read_text() == "mine"
    (folder / ".uic-dev" / "thesis.txt").unlink()


def test_a_server_that_cannot_start_is_named_with_its_words(folder: Path) -> None:
    refused = uic_dev(folder, "up", "--no-kafka", "--flink", "taskmanager.memory.process.size=10m")
    assert refused.returncode == 2
    assert "taskmanager-1" in refused.stderr
    assert "IllegalConfigurationException" in refused.stderr
    assert processes_of(folder) == []


def test_a_broker_with_passwords_lets_in_who_knows_one(guarded: DevStack) -> None:
    right = guarded.kafka_settings()
    assert right.security_protocol == "SASL_PLAINTEXT"
    assert answers(right)
    assert not answers(right.model_copy(update={"password": SecretStr("guess")}))
    assert not answers(KafkaSettings(bootstrap=guarded.bootstrap))


def test_a_broker_started_again_still_has_its_messages_and_the_offsets_of_its_groups(guarded: DevStack) -> None:
    config = client_config(guarded.kafka_settings())
    admin = AdminClient(config)  # named: it would be gone before its answer
    admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result()
    producer = Producer(config)
    for word in ("one", "two", "three"):
        producer.produce("kept", value=word.encode())
    assert producer.flush(20) == 0
    assert read(config, "kept", 2) == ["one", "two"]
    guarded.broker.kill()
    guarded.broker.restart()
    assert read(config, "kept", 1) == ["three"]


def read(config: dict[str, str], topic: str, count: int) -> list[str]:
    """So many messages after those the group has committed, committed too; the log took each in at its own time."""
    group = {"group.id": "readers", "auto.offset.reset": "earliest", "enable.auto.commit": False}
    consumer = Consumer({**config, **group})
    consumer.subscribe([topic])
    try:
        found = []
        give_up_at = time.monotonic() + 30
        while len(found) < count:
            assert time.monotonic() < give_up_at
            message = consumer.poll(1)
            if message is not None and message.error() is None:
                log_append_time = 2
                assert message.timestamp()[0] == log_append_time
                found.append(message.value().decode())
                consumer.commit(message, asynchronous=False)
        return found
    finally:
        consumer.close()


def test_a_broker_behind_tls_shows_its_certificate_and_asks_for_the_clients(tmp_path: Path) -> None:
    with DevStack(tmp_path, flink_cluster=False, tls=True) as stack:
        right = stack.kafka_settings()
        assert right.security_protocol == "SSL"
        assert answers(right)
        assert not answers(right.model_copy(update={"ca_file": None}))
        assert not answers(right.model_copy(update={"certificate_file": None, "key_file": None}))
    assert not (tmp_path / "tls").exists()


def test_missing_jars_are_named_with_the_way_to_get_them(tmp_path: Path) -> None:
    assert not has_job_jars(tmp_path)
    with pytest.raises(EnvironmentProblem, match=r"expected uic-flink\.jar.*make jars"):
        job_jars(tmp_path)
    with pytest.raises(EnvironmentProblem, match=r"expected kafka_\*\.jar.*make jars"):
        broker_jars(tmp_path)
