"""What can be known of the containers without Docker: the files fit each other and the code, and the entry scripts run."""

import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from jobs.cli import app
from jobs.dev.broker import answers
from jobs.dev.node import free_port
from jobs.java import find_java
from jobs.settings import KafkaSettings, load_settings

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
COMPOSE: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
DOCKERFILE = (INFRA / "docker" / "Dockerfile").read_text().replace("\\\n", " ")
STAGES = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE)
COPIES = re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE)


def wait_for(is_so: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 180
    while not is_so():
        assert time.monotonic() < give_up_at
        time.sleep(0.1)


def test_every_image_is_built_by_a_stage_of_a_dockerfile_from_the_repository() -> None:
    for service in SERVICES.values():
        build = service["build"]
        context = (INFRA / build["context"]).resolve()
        assert context == ROOT
        assert context / build["dockerfile"] == INFRA / "docker" / "Dockerfile"
        assert build["target"] in STAGES


def test_what_an_image_copies_is_in_the_repository_and_let_through_to_the_build() -> None:
    let_through = re.findall(r"^!(.+)$", (INFRA / "docker" / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    seen = 0
    for words in map(str.split, COPIES):
        origin = [word.removeprefix("--from=") for word in words if word.startswith("--from=")]
        if origin:
            assert origin[0] in STAGES
            continue
        for source in words[:-1]:
            assert (ROOT / source).exists(), source
            assert any(source == path or source.startswith(f"{path}/") for path in let_through), source
            seen += 1
    assert seen > 10


def test_the_wheel_is_built_from_all_packages() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()
    match = re.search(r"^module-name = \[(.+)\]$", pyproject, re.MULTILINE)
    assert match is not None
    copied = {words.split()[0] for words in COPIES}
    assert set(re.findall(r'"(\w+)"', match[1])) <= copied


def test_no_image_runs_as_root_and_every_server_says_how_it_is() -> None:
    for stage in ("broker", "uic"):
        text = re.split(r"^FROM \S+ AS ", DOCKERFILE, flags=re.MULTILINE)[STAGES.index(stage) + 1]
        assert "\nUSER uic\n" in text
        entry = text.index("ENTRYPOINT")
        assert text.index("USER uic") < entry
    assert "HEALTHCHECK" in DOCKERFILE
    assert all("healthcheck" in SERVICES[name] for name in ("jobmanager", "taskmanager"))


def test_services_and_volumes_that_are_named_exist() -> None:
    for service in SERVICES.values():
        assert set(service.get("depends_on", {})) <= set(SERVICES)
        of_the_host = {volume for volume in service["volumes"] if volume.startswith("$")}
        assert {volume.split(":")[0] for volume in set(service["volumes"]) - of_the_host} <= set(COMPOSE["volumes"])


@pytest.mark.parametrize("name", [name for name, service in SERVICES.items() if "command" in service])
def test_a_command_that_a_service_runs_is_a_command_of_uic(name: str) -> None:
    words = list(SERVICES[name]["command"])
    command: Any = typer.main.get_command(app)  # click's Group or Command
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    options = {option: parameter for parameter in command.params for option in parameter.opts}
    assert set(words[::2]) <= set(options)
    required = {parameter.name for parameter in command.params if parameter.required}
    assert required <= {options[word].name for word in words[::2]}


def test_the_environment_of_the_services_is_that_of_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in SERVICES["uic"]["environment"].items():
        monkeypatch.setenv(name, value)
    settings = load_settings(None)
    broker, port = settings.kafka.bootstrap.split(":")
    assert broker in SERVICES
    properties = (INFRA / "docker" / "server.properties").read_text()
    assert f"advertised.listeners=INSIDE://{broker}:{port}," in properties
    assert f"HOST://localhost:{SERVICES[broker]['ports'][0].split(':')[-1]}\n" in properties
    flink = yaml.safe_load((INFRA / "docker" / "flink" / "config.yaml").read_text())
    assert settings.cluster.url == f"http://{flink['rest.address']}:{flink['rest.port']}"
    assert flink["rest.address"] in SERVICES
    assert flink["jobmanager.rpc.address"] in SERVICES
    assert str(flink["taskmanager.rpc.port"]) in str(SERVICES["taskmanager"]["healthcheck"]["test"])
    for service in ("jobmanager", "taskmanager", "uic"):
        mounted = {volume.split(":")[1] for volume in SERVICES[service]["volumes"] if not volume.startswith("$")}
        assert str(settings.stream.job_dir.parent) in mounted
    assert str(settings.store.path.parent) in mounted
    for folder in mounted:
        assert f" {folder}" in DOCKERFILE, "a volume has the owner that the folder has in the image"


@contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    java = find_java(dict(os.environ)).executable
    path = os.pathsep.join([str(java.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    (tmp_path / "tmp").mkdir()
    return {**os.environ, "PATH": path, "JAVA_HOME": str(java.parent.parent), "TMPDIR": str(tmp_path / "tmp")}


def test_the_brokers_script_makes_its_data_folder_once_and_serves(tmp_path: Path, environment: dict[str, str]) -> None:
    inside, host, controller = str(free_port()), str(free_port()), str(free_port())
    properties = (INFRA / "docker" / "server.properties").read_text()
    for old, new in (
        ("broker:9092", f"localhost:{inside}"),
        ("19092", host),
        (":9092", f":{inside}"),
        ("9093", controller),
        ("/var/lib/kafka", str(tmp_path)),
    ):
        assert old in properties
        properties = properties.replace(old, new)
    (tmp_path / "server.properties").write_text(properties)
    (tmp_path / "log4j2.properties").write_text((INFRA / "docker" / "log4j2.properties").read_text())
    (tmp_path / "jars").symlink_to(INFRA / "jars" / "broker")
    command = ["bash", str(INFRA / "docker" / "broker.sh"), str(tmp_path)]
    identity = []
    for _ in range(2):
        with running(command, environment, tmp_path / "broker.log"):
            wait_for(lambda: answers(KafkaSettings(bootstrap=f"localhost:{inside}")))
            assert answers(KafkaSettings(bootstrap=f"localhost:{host}"))
        identity.append((tmp_path / "data" / "meta.properties").read_text().split("directory.id=")[1])
    assert identity[0] == identity[1]


def test_flinks_script_starts_a_cluster_from_the_pip_package(tmp_path: Path, environment: dict[str, str]) -> None:
    rest = str(free_port())
    local = {
        **dict.fromkeys(("jobmanager.rpc.address", "rest.address", "taskmanager.host"), "127.0.0.1"),
        **{name: str(free_port()) for name in ("jobmanager.rpc.port", "taskmanager.rpc.port")},
        "rest.port": rest,
        "io.tmp.dirs": str(tmp_path / "tmp"),
    }
    dynamic = [word for name, value in local.items() for word in ("-D", f"{name}={value}")]
    conf = tmp_path / "flink"
    conf.mkdir()
    for path in (INFRA / "docker" / "flink").iterdir():
        (conf / path.name).write_bytes(path.read_bytes())
    environment["FLINK_CONF_DIR"] = str(conf)
    script = ["bash", str(INFRA / "docker" / "flink.sh")]

    def has_a_slot() -> bool:
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                f"http://127.0.0.1:{rest}/overview"
            ) as answer:
                return b'"slots-total":1' in answer.read()
        except OSError:
            return False

    with (
        running([*script, "jobmanager", *dynamic], environment, tmp_path / "jobmanager.log"),
        running([*script, "taskmanager", *dynamic], environment, tmp_path / "taskmanager.log"),
    ):
        wait_for(has_a_slot)
