"""The real cluster that the scenarios share: Kafka behind TLS and SASL, a JobManager and three TaskManagers of one slot."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import toy

from jobs.dev.stack import DevStack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    # A worker lives for minutes here: what C2 would compile takes a quarter of the CPU time of a scenario, and is hardly used.
    quick = {"env.java.opts.taskmanager": "-XX:TieredStopAtLevel=1"}
    with DevStack(tmp_path_factory.mktemp("stack"), taskmanagers=3, sasl=True, tls=True, flink=quick) as running:
        yield running


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.make_bundle(tmp_path_factory.mktemp("bundle") / "toy")
