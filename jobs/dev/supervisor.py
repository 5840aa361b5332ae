"""The process that holds a development stack for `uic dev`; with its end, however it comes, all servers end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from jobs.dev.record import StackFolder, StackRecord
from jobs.dev.stack import DevStack
from uic.errors import EnvironmentProblem, UicError

_LOOK_EVERY_S = 1.0


def start_detached(folder: StackFolder, options: dict[str, Any], say: Callable[[str], None]) -> StackRecord:
    """Let a process of its own hold the stack and wait until it answers, passing on what it says; `options` are DevStack's."""
    # What a killed predecessor has left must not be taken for the new one.
    folder.forget()
    with folder.said.open("wb") as output:
        command = [sys.executable, "-P", "-m", "jobs.dev.supervisor", str(folder.path), json.dumps(options)]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    with folder.said.open() as said:
        try:
            while (record := folder.record()) is None and process.poll() is None:
                for line in said:
                    say(line.rstrip())
                time.sleep(0.1)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        rest = said.read().strip()
    if record is None:
        raise EnvironmentProblem(rest or f"{folder.path}: the stack's supervisor ended with code {process.returncode}")
    if rest:
        say(rest)
    return record


def hold(folder: StackFolder, options: dict[str, Any], say: Callable[[str], None], ready: Callable[[], None]) -> NoReturn:
    """Hold the stack in this process: start it, call `ready` when it answers, keep it until SIGTERM or Ctrl-C."""
    lock = folder.try_lock()
    if lock is None:
        raise EnvironmentProblem(f"{folder.path}: another stack runs or starts there; see `uic dev status`")
    with lock:
        folder.forget()
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _leave)
        try:
            with DevStack(folder.path, **options, inherited=(lock.fileno(),), say=say) as stack:
                folder.write(stack)
                ready()
                _watch(stack, say)
        finally:
            folder.forget()


def _watch(stack: DevStack, say: Callable[[str], None]) -> NoReturn:
    running = {node.name for node in stack.nodes}
    while True:
        time.sleep(_LOOK_EVERY_S)
        for node in stack.nodes:
            if node.name in running and not node.is_running():
                running.discard(node.name)
                say(f"{node.name} (process {node.pid}) has ended by itself; see {node.log}")


def _leave(*_: object) -> NoReturn:
    # Once: what follows is the stop in order, which a second signal must not break off.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise SystemExit(0)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        hold(StackFolder(Path(sys.argv[1])), json.loads(sys.argv[2]), _say, lambda: None)
    except UicError as error:
        _say(str(error))
        sys.exit(2)
