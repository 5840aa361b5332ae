"""Packed memories as a Flink savepoint, written by SavepointOfMemories.java in a JVM of its own."""

import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from jobs.jars import job_jars
from jobs.java import find_java
from jobs.warm_up.handover import FILE
from operators import contract
from uic import artefact
from uic.errors import EnvironmentProblem, JobError

KIND = "savepoint"
_API = "flink-state-processor-api-"
_MAIN_CLASS = "uic.flink.SavepointOfMemories"
_LOG4J = """\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = Console
appender.console.name = Console
appender.console.type = CONSOLE
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{yyyy-MM-dd HH:mm:ss,SSS} %-5p %c{1} - %m%n
"""


def write_savepoint(
    files: list[Path],
    target: Path,
    jars: Path,
    work: Path,
    *,
    about: str,
    idle_after_ms: int | None,
    parallelism: int = 1,
    is_done: Callable[[int], None] = lambda _: None,
) -> int:
    """Make `target` a savepoint of these memories, in one rename; how many users are in it. `is_done` is told of some more.

    `about` is what `warm-up.json` in it says. Raises EnvironmentProblem where the jars are not built, ForeignDirectory where
    `target` holds something else, JobError where the JVM fails.
    """
    command = _command(jars)
    temporary = work.absolute() / "savepoint"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        log4j, names = temporary / "log4j.properties", temporary / "files.txt"
        log4j.write_text(_LOG4J)
        names.write_text("".join(f"{path}\n" for path in files))
        with artefact.new_directory(target, KIND, replace=True) as folder:
            arguments = [
                folder.as_uri(), contract.UPDATE, contract.MEMORY, contract.MAX_PARALLELISM, parallelism, idle_after_ms or 0,
                temporary, names,
            ]  # fmt: skip
            users = _run([*command, *map(str, arguments)], log4j, work.absolute() / "savepoint.log", is_done)
            (folder / FILE).write_text(about)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return users


def check_savepoint(target: Path, jars: Path) -> None:
    """Raise what `write_savepoint` would for want of jars or Java, or for what is in the target's place."""
    _command(jars)
    artefact.check_may_write(target, KIND, replace=True)


def _command(jars: Path) -> list[str]:
    """The JVM with the class path, up to the main class."""
    ours = job_jars(jars)
    if not any(jar.name.startswith(_API) for jar in ours):
        raise EnvironmentProblem(f"{jars}: expected {_API}*.jar there, found none; `make jars` in the checkout fetches it")
    try:
        from pyflink.pyflink_gateway_server import construct_flink_classpath, prepare_environment_variables
    except ImportError as error:
        raise EnvironmentProblem(
            f"PyFlink is not installed ({error}); `pip install 'user-interest-center[stream]'` brings Flink's jars"
        ) from error
    environment = dict(os.environ)
    prepare_environment_variables(environment)
    classes = os.pathsep.join([construct_flink_classpath(environment), *map(str, ours)])
    opens = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in ("java.lang", "java.util", "java.nio")]
    return [str(find_java(environment).executable), "-Xmx1g", *opens, "-cp", classes, _MAIN_CLASS]


def _run(command: list[str], log4j: Path, log: Path, is_done: Callable[[int], None]) -> int:
    libc = ctypes.CDLL(None)

    def die_with_parent() -> None:
        libc.prctl(1, signal.SIGKILL)

    # After the JVM's own options, before the class path.
    command = [command[0], f"-Dlog4j.configurationFile={log4j}", *command[1:]]
    users = 0
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, preexec_fn=die_with_parent)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("users "):
                is_done(int(line.split()[1]) - users)
                users = int(line.split()[1])
        code = process.wait()
    if code != 0:
        raise JobError(
            f"the savepoint could not be written, the JVM ended with code {code}: {_why(log)}; all of it is in {log}"
        )
    return users


def _why(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    causes = [line for line in lines if line.startswith("Caused by: ")]
    return (causes or [line for line in lines if line.strip()] or ["it said nothing"])[-1]
