"""A server of the development stack, played by small Python programs: killed, paused, started again, outlived by nothing."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from jobs.dev.node import Node, free_port, listens
from uic.errors import EnvironmentProblem

SERVER = """
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("start", sys.argv[2], flush=True)
while True:
    server.accept()[0].close()
"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    port = free_port()

    def command(start: int) -> list[str]:
        return [sys.executable, "-c", SERVER, str(port), str(start)]

    made = Node(
        "server",
        command=command,
        environment=os.environ,
        log=tmp_path / "server.log",
        port=port,
        is_ready=lambda: listens(port),
    )
    yield made
    made.kill()


def wait_for(is_so: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < give_up_at
        time.sleep(0.02)


def test_a_killed_server_comes_back_on_its_port_and_writes_on_in_its_log(node: Node) -> None:
    node.start()
    node.wait_ready()
    node.kill()
    assert not node.is_running()
    node.restart()
    assert node.port is not None
    assert listens(node.port)
    wait_for(lambda: node.log.read_text().split("\n")[:2] == ["start 1", "start 2"])


def test_a_paused_server_stands_still_until_it_is_resumed(node: Node) -> None:
    node.start()
    node.wait_ready()
    node.pause()
    wait_for(lambda: psutil.Process(node.pid).status() == psutil.STATUS_STOPPED)
    assert node.is_running()
    node.resume()
    wait_for(lambda: psutil.Process(node.pid).status() != psutil.STATUS_STOPPED)


def test_a_paused_server_can_be_stopped(node: Node) -> None:
    node.start()
    node.wait_ready()
    node.pause()
    node.stop()
    assert not node.is_running()


def test_a_server_started_by_a_thread_outlives_that_thread(node: Node) -> None:
    thread = threading.Thread(target=node.start)
    thread.start()
    thread.join()
    node.wait_ready()
    assert node.is_running()


def test_a_server_that_ends_at_once_is_reported_with_its_last_words(tmp_path: Path) -> None:
    program = [sys.executable, "-c", "raise SystemExit('no memory for this')"]
    node = Node(
        "broken", command=lambda _: program, environment=os.environ, log=tmp_path / "x.log", port=None, is_ready=lambda: False
    )
    node.start()
    with pytest.raises(EnvironmentProblem, match=r"broken: ended before it was ready(.|\n)*no memory for this"):
        node.wait_ready()


def test_no_server_outlives_its_parent_even_if_that_is_killed() -> None:
    program = """
import os, sys, time
from pathlib import Path
from jobs.dev.node import Node
sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
node = Node("s", command=lambda _: sleeper, environment=os.environ, log=Path(os.devnull), port=None, is_ready=lambda: True)
node.start()
print(node.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert psutil.pid_exists(child)
        os.kill(parent.pid, signal.SIGKILL)
    wait_for(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)
