"""The small world of tests/training/small.py, made once in a session, a broker, and the command line as a function."""

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "training"))

import small
from command import Ended, Uic
from followed import Memories
from shared_stack import KEY, SharedStack, end_after_its_folder

from jobs.cli import main
from jobs.dev.stack import DevStack
from jobs.settings import KafkaSettings
from jobs.topics import create

_numbers = itertools.count()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> small.World:
    return small.world(tmp_path_factory.getbasetemp() / "small")


@pytest.fixture
def uic(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> Uic:
    """`uic("score", "--user", "u1")` runs the command as the console script does, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["uic", *map(str, arguments)])
        capfdbinary.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        printed = capfdbinary.readouterr()
        return Ended(code, printed.out, printed.err.decode())

    return run


@pytest.fixture(scope="session")
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedStack]:
    made = SharedStack(lambda: DevStack(tmp_path_factory.mktemp("broker"), taskmanagers=0, flink_cluster=False, sasl=True))
    request.session.stash[KEY] = made
    yield made
    made.end()


@pytest.fixture(scope="module")
def broker(shared: SharedStack) -> KafkaSettings:
    """A real broker for the tests of this folder, with SASL on; they use topics of their own, see `kafka`."""
    return shared.running().kafka_settings()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    end_after_its_folder(item, nextitem)


@pytest.fixture
def kafka(broker: KafkaSettings) -> KafkaSettings:
    """Settings that name topics and a group which nobody else uses; the topics are not there yet."""
    number = next(_numbers)
    names = {name: f"{name}-{number}" for name in ("events", "snapshots", "late", "dead", "control", "group")}
    return broker.model_copy(update={**names, "partitions": 3})


@pytest.fixture
def uic_kafka(uic: Uic, kafka: KafkaSettings, monkeypatch: pytest.MonkeyPatch) -> Uic:
    """The command line with the settings of `kafka`."""
    assert kafka.password is not None
    for name in (
        "bootstrap",
        "security_protocol",
        "username",
        "events",
        "snapshots",
        "late",
        "dead",
        "control",
        "group",
        "partitions",
    ):
        monkeypatch.setenv(f"UIC__KAFKA__{name.upper()}", str(getattr(kafka, name)))
    monkeypatch.setenv("UIC__KAFKA__PASSWORD", kafka.password.get_secret_value())
    return uic


@pytest.fixture
def memories(world: small.World) -> Memories:
    return Memories(world)


@pytest.fixture
def topic(kafka: KafkaSettings) -> KafkaSettings:
    """The same settings, the topics made."""
    create(kafka)
    return kafka


@pytest.fixture
def follow(uic_kafka: Uic, world: small.World, tmp_path: Path) -> Callable[..., str]:
    """Follow to the end, into `tmp_path / "store"`; returns what was said."""

    def run(*options: object, code: int = 0) -> str:
        store = ("--store", tmp_path / "store")
        ended = uic_kafka("store", "follow", "--bundle", world.bundle.path, *store, "--until-end", *options)
        assert ended.code == code, ended.err
        return ended.err + ended.out

    return run
