"""What is known about the development stack in a folder: who holds it, and how it is reached.

artefact.json   the folder is ours               lock             its supervisor's process; held by it and by every server
stack.json      addresses and processes          supervisor.log   what the supervisor said
logs/ ...       see jobs/dev/stack.py
"""

import dataclasses
import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from jobs.dev.stack import DevStack
from jobs.settings import KafkaSettings
from uic import artefact
from uic.errors import EnvironmentProblem

KIND = "dev-stack"
_CONNECTION = ("bootstrap", "security_protocol", "username", "ca_file", "certificate_file", "key_file")


@dataclass(frozen=True, kw_only=True)
class NodeRecord:
    """One server, as it was last started."""

    name: str
    pid: int
    port: int | None
    log: str


@dataclass(frozen=True, kw_only=True)
class StackRecord:
    """A stack that answers; `kafka` holds the settings by which clients get in, None without a broker; `store`: Redis."""

    url: str
    kafka: dict[str, str] | None
    nodes: tuple[NodeRecord, ...]
    store: str | None = None

    def environment(self) -> dict[str, str]:
        """The environment variables that make uic's commands use this stack."""
        kafka = {f"UIC__KAFKA__{name.upper()}": value for name, value in (self.kafka or {}).items()}
        store = {} if self.store is None else {"UIC__STORE__PATH": self.store}
        return {**kafka, "UIC__CLUSTER__URL": self.url, **store}


class StackFolder:
    """A folder that is known to be ours."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.said = self.path / "supervisor.log"
        artefact.check_may_write(self.path, KIND, replace=True)
        try:
            # A password may stand in it, if only that of a broker for trying out.
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            if artefact.kind_of(self.path) is None:
                artefact.mark(self.path, KIND)
        except OSError as error:
            raise EnvironmentProblem(f"{self.path}: the stack's folder cannot be written: {error.strerror}") from error

    def try_lock(self) -> IO[str] | None:
        """The lock, held for as long as any process has the file open; None while somebody has it."""
        file = (self.path / "lock").open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return file

    def supervisor(self) -> int | None:
        """The process that holds the stack, None where there is none or only its servers are still dying."""
        import psutil

        text = (self.path / "lock").read_text() if self.is_held() else ""
        try:
            is_there = text.isdecimal() and psutil.Process(int(text)).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return int(text) if is_there else None

    def is_held(self) -> bool:
        """Whether a supervisor or one of its servers is there."""
        file = self.try_lock()
        if file is not None:
            file.close()
        return file is None

    def wait_until_free(self, within_s: float) -> bool:
        """Whether the last of them has gone within this time."""
        give_up_at = time.monotonic() + within_s
        while self.is_held():
            if time.monotonic() > give_up_at:
                return False
            time.sleep(0.05)
        return True

    def record(self) -> StackRecord | None:
        """The stack that answers here, None while none does."""
        try:
            content = json.loads((self.path / "stack.json").read_text())
        except FileNotFoundError:
            return None
        nodes = tuple(NodeRecord(**node) for node in content.pop("nodes"))
        return StackRecord(**content, nodes=nodes)

    def write(self, stack: DevStack) -> None:
        nodes = tuple(NodeRecord(name=node.name, pid=node.pid, port=node.port, log=str(node.log)) for node in stack.nodes)
        kafka = _connection(stack.kafka_settings()) if stack.has_kafka else None
        record = StackRecord(url=stack.url, kafka=kafka, nodes=nodes, store=stack.store)
        artefact.write_atomically(self.path / "stack.json", json.dumps(dataclasses.asdict(record), indent=2) + "\n")

    def forget(self) -> None:
        (self.path / "stack.json").unlink(missing_ok=True)

    def kill_what_is_left(self) -> list[int]:
        """kill -9 of every process that was started from this folder; returns their ids. They die with their parent anyway."""
        import psutil

        killed = []
        for process in psutil.process_iter(["cmdline"]):
            if any(str(self.path / "conf") + os.sep in word for word in process.info["cmdline"] or ()):
                process.kill()
                killed.append(process.pid)
        return killed


def _connection(kafka: KafkaSettings) -> dict[str, str]:
    found = {name: str(value) for name in _CONNECTION if (value := getattr(kafka, name)) is not None}
    return found if kafka.password is None else {**found, "password": kafka.password.get_secret_value()}
