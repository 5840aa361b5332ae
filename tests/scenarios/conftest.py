"""The real cluster that the scenarios share: Kafka behind TLS and SASL, a JobManager and three TaskManagers of one slot."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import toy
from shared_stack import KEY, SharedStack, end_after_its_folder

from jobs.dev.stack import DevStack


@pytest.fixture(scope="session")
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedStack]:
    made = SharedStack(lambda: DevStack(tmp_path_factory.mktemp("stack"), taskmanagers=3, sasl=True, tls=True))
    request.session.stash[KEY] = made
    yield made
    made.end()


@pytest.fixture(scope="module")
def stack(shared: SharedStack) -> DevStack:
    return shared.running()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    end_after_its_folder(item, nextitem)


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.make_bundle(tmp_path_factory.mktemp("bundle") / "toy")
