"""Python in a process of its own, that tells how far it is and can be killed at that very place."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO


class Child:
    """A running child; `said` waits for its next line."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def said(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the child ended with {self.process.wait()}"
        return line.rstrip("\n")

    def tell(self, text: str) -> None:
        stdin: IO[str] | None = self.process.stdin
        assert stdin is not None
        stdin.write(f"{text}\n")
        stdin.flush()

    def kill(self) -> None:
        """kill -9, and what the child had said until then."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def rest(self) -> list[str]:
        assert self.process.stdout is not None
        return [line.rstrip("\n") for line in self.process.stdout if line.endswith("\n")]


@contextmanager
def child(code: str, *arguments: object) -> Iterator[Child]:
    """Run `code` with sys.argv[1:] = arguments. It is gone when the block is left."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        yield Child(process)
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
