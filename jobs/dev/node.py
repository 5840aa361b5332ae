"""A server of the development stack: a process that can be killed, paused, started again, and never outlives its parent."""

import ctypes
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from uic.errors import EnvironmentProblem

READY_S = 180.0
_STOP_S = 15.0
_TAIL_BYTES = 1500
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
# Linux hands out 32768 and up to outgoing connections: a server's port there may be taken while the server is down.
_PORTS = range(20_000, 32_000)
# For prctl(2) the parent is the thread that started the child, so it has to be one that does not end before this process.
_starter = ThreadPoolExecutor(1, thread_name_prefix="starter")
_libc = ctypes.CDLL(None)


class Node:
    """A server process.

    `command` is asked at every start, with the number of the start (1, 2, ...). `is_ready` says whether the server answers.
    What it prints goes to `log`, start after start. Processes inherit the files in `inherited`.
    """

    def __init__(
        self,
        name: str,
        *,
        command: Callable[[int], list[str]],
        environment: Mapping[str, str],
        log: Path,
        port: int | None,
        is_ready: Callable[[], bool],
        inherited: tuple[int, ...] = (),
    ) -> None:
        self.name = name
        self.log = log
        self.port = port
        self.starts = 0
        self._command = command
        self._environment = dict(environment)
        self._is_ready = is_ready
        self._inherited = inherited
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process started last; raises EnvironmentProblem before the first start."""
        if self._process is None:
            raise EnvironmentProblem(f"{self.name}: has not been started")
        return self._process.pid

    def is_running(self) -> bool:
        """Whether the process is there; paused is running too."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, without waiting for it to answer."""
        if self.is_running():
            raise EnvironmentProblem(f"{self.name}: runs already, as process {self.pid}")
        self.starts += 1
        self._process = _starter.submit(self._launch, self._command(self.starts)).result()

    def wait_ready(self, within_s: float = READY_S) -> None:
        """Wait until it answers; raises EnvironmentProblem with the end of its log if it ends or takes longer."""
        give_up_at = time.monotonic() + within_s
        while not self._is_ready():
            if not self.is_running():
                raise EnvironmentProblem(f"{self.name}: ended before it was ready. {self._said()}")
            if time.monotonic() > give_up_at:
                raise EnvironmentProblem(f"{self.name}: not ready after {within_s:.0f} s. {self._said()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it in order, for certain after a while."""
        self.ask_to_stop()
        self.await_stop()

    def ask_to_stop(self) -> None:
        """The first half of `stop`, so that several can stop at once."""
        if self._process is not None and self.is_running():
            self.resume()
            self._process.terminate()

    def await_stop(self, within_s: float = _STOP_S) -> None:
        """The second half of `stop`."""
        if self._process is None:
            return
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self._process is not None and self.is_running():
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def pause(self) -> None:
        """Stop it where it stands (SIGSTOP): it keeps its connections and files, and does nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        """Stop it in order if it runs, start it and wait until it answers."""
        self.stop()
        self.start()
        self.wait_ready()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.is_running():
            os.killpg(self._process.pid, number)

    def _launch(self, command: list[str]) -> subprocess.Popen[bytes]:
        parent = os.getpid()

        def die_with_parent() -> None:
            _libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
            if os.getppid() != parent:  # it died before the line above
                os._exit(1)

        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                pass_fds=self._inherited,
                # A Ctrl-C at the terminal is for whoever holds the stack, who then stops it in order.
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def _said(self) -> str:
        try:
            said = self.log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").strip()
        except OSError:
            said = ""
        return f"The end of {self.log}:\n{said}" if said else f"{self.log} is empty"


def free_port() -> int:
    """A port on the loopback interface at which nobody listens."""
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise EnvironmentProblem(f"127.0.0.1: no free port from {_PORTS.start} to {_PORTS.stop - 1}")


def listens(port: int) -> bool:
    """Whether something accepts connections at this loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
