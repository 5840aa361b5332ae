"""The small world of tests/training/small.py, made once in a session, and the command line as a function."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "training"))

import small
from command import Ended, Uic

from jobs.cli import main


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
