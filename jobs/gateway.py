"""The JVM in which the embedded Flink runs, started here rather than by PyFlink: its pid, output and end are ours.

PyFlink would leave the JVM's stderr in a pipe that nobody reads, and would not tell its pid. It connects to any gateway whose
port stands in PYFLINK_GATEWAY_PORT, which is how `flink run -py` does it too.
"""

import ctypes
import logging
import os
import shlex
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import operators
from uic.errors import EnvironmentProblem, JobError

_MAIN_CLASS = "org.apache.flink.client.python.PythonGatewayServer"
_START_S = 90
_STOP_S = 20
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)

_LOG4J = """\
rootLogger.level = INFO
rootLogger.appenderRef.file.ref = File
appender.file.name = File
appender.file.type = FILE
appender.file.fileName = ${sys:log.file}
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{yyyy-MM-dd HH:mm:ss,SSS} %-5p %c{1} - %m%n
"""


class Jvm:
    """A running JVM with Flink on its class path and PyFlink connected to it."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self.log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """End it: politely first, then for certain."""
        _disconnect()
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def kill(self) -> None:
        self._process.kill()


def start_jvm(java: Path, *, log_dir: Path, options: str, lock: IO[str], jars: list[Path]) -> Jvm:
    """Start the JVM, with `jars` beside Flink's own on its class path, and let PyFlink use it.

    The JVM inherits `lock`: an flock is held for as long as any process has the file open, so whoever gets it next knows that
    launcher and JVM are both gone.
    """
    try:
        from pyflink.pyflink_gateway_server import construct_flink_classpath, get_jvm_opts, prepare_environment_variables
    except ImportError as error:
        raise EnvironmentProblem(
            f"PyFlink is not installed ({error}); `pip install 'user-interest-center[stream]'` brings it"
        ) from error

    log_dir.mkdir(parents=True, exist_ok=True)
    log = log_dir / "flink.log"
    (log_dir / "log4j.properties").write_text(_LOG4J)
    port_file = log_dir / ".gateway-port"
    port_file.unlink(missing_ok=True)
    environment = dict(os.environ)
    prepare_environment_variables(environment)
    environment["_PYFLINK_CONN_INFO_PATH"] = str(port_file)
    # The interpreter inside the JVM knows nothing of this one's virtual environment.
    without_beam = str(Path(operators.__file__).parent / "without_beam")
    environment["PYTHONPATH"] = os.pathsep.join([without_beam, *(path for path in sys.path if path)])
    command = [
        str(java),
        "-XX:+IgnoreUnrecognizedVMOptions",
        *get_jvm_opts(environment),
        *shlex.split(options),
        f"-Dlog.file={log}",
        f"-Dlog4j.configurationFile={log_dir / 'log4j.properties'}",
        "-cp",
        os.pathsep.join([construct_flink_classpath(environment), *map(str, jars)]),
        _MAIN_CLASS,
    ]
    libc = ctypes.CDLL(None)

    def die_with_parent() -> None:
        # The JVM would notice the end of its parent by itself, but only 1.5 to 3 s later.
        libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)

    with (log_dir / "jvm.out").open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=[lock.fileno()],
            # A Ctrl-C at the terminal is for the launcher, which then stops the job in order.
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    jvm = Jvm(process, log)
    try:
        _connect(jvm, port_file, log_dir / "jvm.out")
    except BaseException:
        jvm.kill()
        raise
    return jvm


def _connect(jvm: Jvm, port_file: Path, output: Path) -> None:
    # What building the job will need; meanwhile the JVM starts. For Beam see operators/without_beam.
    sys.modules.setdefault("apache_beam", None)  # type: ignore[arg-type]  # None is how Python is told that there is none
    import jobs.environment  # noqa: F401  # imported for what its import does

    give_up_at = time.monotonic() + _START_S
    while not port_file.exists() or port_file.stat().st_size < 4:
        if jvm.exit_code() is not None:
            said = output.read_text(errors="replace").strip()[-500:]
            raise JobError(f"the JVM ended with code {jvm.exit_code()} before it was ready: {said or f'see {jvm.log}'}")
        if time.monotonic() > give_up_at:
            raise JobError(f"the JVM was not ready after {_START_S} s; see {output}")
        time.sleep(0.05)
    os.environ["PYFLINK_GATEWAY_PORT"] = str(struct.unpack("!I", port_file.read_bytes()[:4])[0])
    # Otherwise PyFlink starts Beam's worker pool, which only process mode needs.
    os.environ["_python_worker_execution_mode"] = "process"  # noqa: SIM112  # PyFlink's own name
    from pyflink.java_gateway import get_gateway

    get_gateway()
    # py4j reports every connection that ends with the JVM, however it ended; the launcher knows better what to say.
    logging.getLogger("py4j.java_gateway").disabled = True
    logging.getLogger("py4j.clientserver").disabled = True


def _disconnect() -> None:
    """Keep py4j from telling the ended JVM about each Java object that Python no longer needs, and let another one come."""
    from pyflink import java_gateway

    if java_gateway._gateway is not None:
        java_gateway._gateway._gateway_client.is_connected = False
        java_gateway._gateway = None
