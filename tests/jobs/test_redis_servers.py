"""Which program is run where a Redis is needed: redis-server, or the one that UIC_REDIS_SERVER names."""

import re
import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from command import Uic

from jobs.dev.redis_servers import RedisServers
from uic.errors import EnvironmentProblem
from uic.store.contract import StoreIdentity
from uic.store.redis_store import RedisStore

VARIABLE = "UIC_REDIS_SERVER"
IDENTITY = StoreIdentity("0123456789abcdef", "lineage")
INSTALL = Path(__file__).parents[2] / "infra" / "install_redis.sh"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The server of these tests by another name, alone in its folder."""
    program = tmp_path / "bin" / "other-server"
    program.parent.mkdir()
    program.symlink_to(RedisServers(tmp_path).program)
    return program


def test_the_variable_names_the_program_that_is_run(other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(other))
    with RedisServers(tmp_path / "redis") as servers:
        assert psutil.Process(servers.nodes[0].pid).cmdline()[0] == str(other)


@pytest.mark.parametrize("named", ["no-such-server", None])
def test_a_program_that_is_missing_is_told_with_the_variable(
    named: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    if named is not None:
        monkeypatch.setenv(VARIABLE, named)
    expected = f"^{named or 'redis-server'}: no such program on this machine; {VARIABLE} names the server to run"
    with pytest.raises(EnvironmentProblem, match=expected):
        RedisServers(tmp_path / "redis")


def test_nothing_is_installed_where_another_program_is_named(other: Path) -> None:
    def install(name: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(other.parent), VARIABLE: name}
        return subprocess.run(
            [shutil.which("bash") or "bash", INSTALL], env=environment, capture_output=True, text=True, check=False
        )

    assert install(other.name).returncode == 0
    missing = install("no-such-server")
    assert (missing.returncode, missing.stderr.startswith("no-such-server: no such program")) == (1, True)


def test_a_stores_stats_name_the_server_and_its_version(uic: Uic, tmp_path: Path) -> None:
    with RedisServers(tmp_path / "redis") as servers:
        with closing(RedisStore.create_or_open(servers.url(), IDENTITY, buckets=4)):
            said = uic("store", "stats", "--store", servers.url()).out
        told = subprocess.run([servers.program, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.match(r"(\w+) server v=(\S+)", told)
    assert version is not None
    assert f" {version[1].lower()} {version[2]}, noeviction" in said
