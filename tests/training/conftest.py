"""The small world of tests/training/small.py, made once in a session."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "training"))

import small


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> small.World:
    return small.world(tmp_path_factory.getbasetemp() / "small")
