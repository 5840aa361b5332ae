"""A JobManager and TaskManagers on the loopback interface, from the pip package of Flink.

Started without Flink's shell scripts, which run four more JVMs for each server: what they work out (class path, memory, JVM
options) is worked out here once. flink-python.jar belongs into lib, and `pemja.` to the parent class loader: otherwise the
second job in a TaskManager finds no Python.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

import operators
from jobs.dev.node import Node, free_port
from uic.errors import EnvironmentProblem

_JOBMANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASKMANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
# A JobManager computes nothing: the quick compiler will do, and it is up sooner.
_OPTIONS = {_JOBMANAGER: ("-XX:TieredStopAtLevel=1",), _TASKMANAGER: ("-XX:+UseG1GC",)}
_MEMORY_TOOL = "org.apache.flink.runtime.util.bash.BashJavaUtils"
_MEMORY_RESULT = "BASH_JAVA_UTILS_EXEC_RESULT:"
_SETTINGS = {
    "jobmanager.rpc.address": "127.0.0.1",
    "jobmanager.bind-host": "127.0.0.1",
    "jobmanager.memory.process.size": "900m",
    "taskmanager.host": "127.0.0.1",
    "taskmanager.bind-host": "127.0.0.1",
    "taskmanager.numberOfTaskSlots": "1",
    "taskmanager.memory.process.size": "1600m",
    "taskmanager.memory.managed.size": "256m",
    "rest.address": "127.0.0.1",
    "rest.bind-address": "127.0.0.1",
    # A dead TaskManager is noticed when it refuses one heartbeat, a silent one after the timeout.
    "heartbeat.interval": "2 s",
    "heartbeat.timeout": "8 s",
    "heartbeat.rpc-failure-threshold": "1",
    # The cluster's own setting, whatever a job asks for: with one checkpoint alone, a damaged one would be the end.
    "execution.checkpointing.num-retained": "3",
    "classloader.parent-first-patterns.additional": "pemja.",
    "python.executable": sys.executable,
    "python.client.executable": sys.executable,
}
_LOG4J = """\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = Console
appender.console.name = Console
appender.console.type = Console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{yyyy-MM-dd HH:mm:ss,SSS} %-5p %c{1} - %m%n
"""
# What PyFlink leaves in the environment of a process that has spoken to a JVM.
_OF_A_CLIENT = ("PYFLINK_GATEWAY_PORT", "_python_worker_execution_mode")
# The proxy of this machine's environment is not for the loopback interface.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class FlinkCluster:
    """How the cluster is set up and reached; `jobmanager` and what `taskmanager` makes are its processes."""

    def __init__(
        self,
        root: Path,
        *,
        java: Path,
        logs: Path,
        settings: Mapping[str, str],
        taskmanager_environment: Mapping[str, str],
        inherited: tuple[int, ...],
    ) -> None:
        self._root = root
        self._java = java
        self._logs = logs
        self._inherited = inherited
        self._home = _flink_home()
        self._lib = self._link_lib()
        rest = free_port()
        self.url = f"http://127.0.0.1:{rest}"
        self._settings = {
            **_SETTINGS,
            "jobmanager.rpc.port": str(free_port()),
            "rest.port": str(rest),
            **settings,
            "env.java.opts.all": f"{_default_java_options(self._home)} {settings.get('env.java.opts.all', '')}".strip(),
        }
        self._environment = self._base_environment()
        self._taskmanager_environment = {**self._environment, **taskmanager_environment}
        self._memory: dict[str, tuple[list[str], list[str]]] = {}
        self.jobmanager = self._node("jobmanager", rest, _JOBMANAGER, self._environment, is_ready=self._answers)

    def taskmanager(self, number: int) -> Node:
        """Another TaskManager, not started yet."""
        name = f"taskmanager-{number}"

        def is_registered() -> bool:
            return resource_id(node) in self.registered()

        node = self._node(name, None, _TASKMANAGER, self._taskmanager_environment, is_ready=is_registered)
        return node

    def registered(self) -> set[str]:
        """The ids of the TaskManagers that the JobManager knows; none while it does not answer."""
        try:
            return {entry["id"] for entry in self._get("/taskmanagers")["taskmanagers"]}
        except (OSError, ValueError):
            return set()

    def _answers(self) -> bool:
        try:
            self._get("/overview")
        except (OSError, ValueError):
            return False
        return True

    def _get(self, path: str) -> Any:  # whatever JSON the REST interface answers
        with _open(self.url + path, timeout=2) as response:
            return json.loads(response.read())

    def _node(
        self, name: str, port: int | None, main: str, environment: Mapping[str, str], *, is_ready: Callable[[], bool]
    ) -> Node:
        folder, temporary, log = self._root / "conf" / name, self._root / "tmp" / name, self._logs / f"{name}.log"
        folder.mkdir(parents=True)
        settings = {**self._settings, "io.tmp.dirs": str(temporary)}
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        (folder / "log4j.properties").write_text(_LOG4J)
        is_taskmanager = main == _TASKMANAGER

        def command(start: int) -> list[str]:
            # Whoever was killed could not clean up.
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            jvm, dynamic = self._memory_of("TM" if is_taskmanager else "JM", folder)
            options = (
                *("-XX:-UsePerfData", *_OPTIONS[main], f"-Djava.io.tmpdir={temporary}", f"-Dlog.file={log}"),
                f"-Dlog4j.configurationFile={folder / 'log4j.properties'}",
                *shlex.split(settings["env.java.opts.all"]),
                *shlex.split(settings.get(f"env.java.opts.{'taskmanager' if is_taskmanager else 'jobmanager'}", "")),
            )
            # A new id for every start: the JobManager must not take the successor for the one that died.
            identity = ["-D", f"taskmanager.resource-id={name}.{start}"] if is_taskmanager else []
            return [
                *(str(self._java), *jvm, *options, "-cp", self._class_path(), main, "--configDir", str(folder)),
                *([] if is_taskmanager else ["--executionMode", "cluster"]),
                *dynamic,
                *identity,
            ]

        conf = {**environment, "FLINK_CONF_DIR": str(folder)}
        return Node(name, command=command, environment=conf, log=log, port=port, is_ready=is_ready, inherited=self._inherited)

    def _memory_of(self, role: str, folder: Path) -> tuple[list[str], list[str]]:
        """JVM options and dynamic properties that follow from the memory settings, as Flink's own tool works them out."""
        if role not in self._memory:
            jars = os.pathsep.join(
                [str(self._home / "bin" / "bash-java-utils.jar"), *map(str, self._lib.glob("flink-dist-*.jar"))]
            )
            tool = [str(self._java), "-XX:TieredStopAtLevel=1", "-cp", jars, _MEMORY_TOOL, f"GET_{role}_RESOURCE_PARAMS"]
            done = subprocess.run([*tool, "--configDir", str(folder)], capture_output=True, text=True, timeout=60, check=False)
            found = [line.removeprefix(_MEMORY_RESULT) for line in done.stdout.splitlines() if line.startswith(_MEMORY_RESULT)]
            if len(found) != 2:
                said = (done.stdout + done.stderr).strip()[-1000:]
                raise EnvironmentProblem(f"{folder / 'config.yaml'}: Flink cannot make its memory of these settings:\n{said}")
            self._memory[role] = (shlex.split(found[0]), shlex.split(found[1]))
        return self._memory[role]

    def _class_path(self) -> str:
        # flink-dist last, as in Flink's own scripts.
        jars = sorted(self._lib.glob("*.jar"), key=lambda jar: (jar.name.startswith("flink-dist"), jar.name))
        return os.pathsep.join(map(str, jars))

    def _link_lib(self) -> Path:
        lib = self._root / "lib"
        lib.mkdir(parents=True)
        for jar in (*self._home.glob("lib/*.jar"), *self._home.glob("opt/flink-python-*.jar")):
            (lib / jar.name).symlink_to(jar)
        return lib

    def _base_environment(self) -> dict[str, str]:
        # The checkout is not among them: the project's code reaches the workers with the job.
        site = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
        without_beam = str(Path(operators.__file__).parent / "without_beam")
        ours = {name: value for name, value in os.environ.items() if name not in _OF_A_CLIENT}
        return {
            **ours,
            "JAVA_HOME": str(self._java.parent.parent),
            "FLINK_HOME": str(self._home),
            "FLINK_LIB_DIR": str(self._lib),
            "FLINK_OPT_DIR": str(self._home / "opt"),
            "FLINK_PLUGINS_DIR": str(self._home / "plugins"),
            "FLINK_LOG_DIR": str(self._logs),
            "PYTHONPATH": os.pathsep.join([without_beam, *site]),
        }


def resource_id(taskmanager: Node) -> str:
    """The id under which the JobManager knows this start of a TaskManager."""
    return f"{taskmanager.name}.{taskmanager.starts}"


def _flink_home() -> Path:
    from importlib.util import find_spec

    found = find_spec("pyflink")
    if found is None or found.origin is None:
        raise EnvironmentProblem("PyFlink is not installed; `pip install 'user-interest-center[stream]'` brings it")
    return Path(found.origin).parent


def _default_java_options(home: Path) -> str:
    """What Flink needs to be told to Java 17, as its own config.yaml says it."""
    content = yaml.safe_load((home / "conf" / "config.yaml").read_text())
    return str(content["env"]["java"]["opts"]["all"])
