"""Redis on the loopback interface, one server or a cluster of masters, for tests and `uic dev`.

They run `redis-server`, or the program that UIC_REDIS_SERVER names, such as valkey-server: one that takes Redis' configuration.
"""

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from jobs.dev.node import Node, free_port, listens
from uic.errors import EnvironmentProblem
from uic.store.place import RedisUrl

_SERVER = "UIC_REDIS_SERVER"
_READY_S = 30.0
_SLOTS = 16384
_BASIC = {
    "bind": "127.0.0.1",
    "save": "",
    "appendonly": "no",
    "protected-mode": "no",
    "loglevel": "warning",
    # The command line is what tells whose process it is.
    "set-proc-title": "no",
}


class RedisServers:
    """Servers between `start` and `stop`, or as a context manager; `masters` of more than one make a cluster.

    `replicas` come after the masters in `nodes`, the first a copy of the first master, and take over when theirs is gone.
    What they hold is gone when a server ends, as `options` may change: {"appendonly": "yes"}. With `tls`, three files (the
    authority's certificate, the server's, its key), they speak TLS alone.
    """

    def __init__(
        self,
        root: Path,
        *,
        masters: int = 1,
        replicas: int = 0,
        password: str | None = None,
        tls: tuple[Path, Path, Path] | None = None,
        options: Mapping[str, str] | None = None,
        logs: Path | None = None,
        inherited: tuple[int, ...] = (),
    ) -> None:
        self.root = root
        self._logs = logs or root
        self.password = password
        self._tls = tls
        self._masters = masters
        self._options = dict(options or {})
        self.program = _program()
        self._bus: list[int] = []
        self.nodes = [self._node(number, inherited) for number in range(masters + replicas)]

    def _node(self, number: int, inherited: tuple[int, ...]) -> Node:
        port = free_port()
        name = f"redis-{number + 1}"
        options = {**_BASIC, "port": str(port), "dir": str(self.root / name), **self._options}
        if self._tls is not None:
            ca, certificate, key = map(str, self._tls)
            options |= {"port": "0", "tls-port": str(port), "tls-auth-clients": "no"}
            options |= {"tls-ca-cert-file": ca, "tls-cert-file": certificate, "tls-key-file": key}
        if self._masters > 1:
            # Redis' own choice, 10,000 above the port, may be anybody's.
            self._bus.append(free_port())
            options |= {"cluster-enabled": "yes", "cluster-port": str(self._bus[-1]), "cluster-node-timeout": "2000"}
        if self.password is not None:
            options |= {"requirepass": self.password, "masterauth": self.password}

        def command(_: int) -> list[str]:
            (self.root / name).mkdir(parents=True, exist_ok=True)
            file = self.root / f"{name}.conf"
            file.touch(mode=0o600)  # a password may stand in it
            file.write_text("".join(f'{key} "{value}"\n' for key, value in options.items()))
            return [self.program, str(file)]

        return Node(
            name,
            command=command,
            environment=os.environ,
            log=self._logs / f"{name}.log",
            port=port,
            is_ready=lambda: listens(port),
            inherited=inherited,
        )

    def url(self, name: str = "uic", database: int = 0, *, timeout_s: float = 5.0) -> RedisUrl:
        """A store in these servers."""
        hosts = tuple(("127.0.0.1", node.port or 0) for node in self.nodes)
        ca = None if self._tls is None else str(self._tls[0])
        return RedisUrl(
            hosts, database, is_tls=ca is not None, is_cluster=self._masters > 1, name=name, timeout_s=timeout_s, ca=ca
        )

    def start(self) -> None:
        """Start them and wait until they answer; a cluster, until all of its slots are served and its replicas are copies."""
        self.root.mkdir(parents=True, exist_ok=True)
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            node.wait_ready(_READY_S)
        if self._masters > 1:
            self._join()

    def _join(self) -> None:
        masters, replicas = self.nodes[: self._masters], self.nodes[self._masters :]
        edges = [_SLOTS * number // self._masters for number in range(self._masters + 1)]
        for number, node in enumerate(masters):
            self._say(node, "CLUSTER ADDSLOTSRANGE", edges[number], edges[number + 1] - 1)
            self._say(node, "CLUSTER SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            self._say(node, "CLUSTER MEET", "127.0.0.1", self.nodes[0].port, self._bus[0])
        self._await(self.nodes, self._is_joined, "become a cluster")
        for master, node in zip(masters, replicas, strict=False):
            self._say(node, "CLUSTER REPLICATE", self._say(master, "CLUSTER MYID"))
        self._await(replicas, self._is_copy, "become replicas")

    def _await(self, nodes: Sequence[Node], is_so: Callable[[Node], bool], what: str) -> None:
        give_up_at = time.monotonic() + _READY_S
        while not all(map(is_so, nodes)):
            if time.monotonic() > give_up_at:
                raise EnvironmentProblem(f"{self.root}: the servers did not {what} within {_READY_S:.0f} s")
            time.sleep(0.05)

    def _is_joined(self, node: Node) -> bool:
        info = self._say(node, "CLUSTER INFO")
        return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == len(self.nodes)

    def _is_copy(self, node: Node) -> bool:
        info: Mapping[str, Any] = self._say(node, "INFO", "replication")
        return info.get("master_link_status") == "up"

    def _say(self, node: Node, *command: str | int | None) -> Any:  # as the library has answers
        from uic.store.redis_link import Link

        url = self.url()
        link = Link(url._replace(hosts=(("127.0.0.1", node.port or 0),), is_cluster=False), self.password)
        try:
            return link.ask(*command)
        finally:
            link.close()

    def stop(self) -> None:
        for node in self.nodes:
            node.ask_to_stop()
        for node in self.nodes:
            node.await_stop()

    def __enter__(self) -> "RedisServers":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def _program() -> str:
    name = os.environ.get(_SERVER) or "redis-server"
    found = shutil.which(name)
    if found is None:
        raise EnvironmentProblem(
            f"{name}: no such program on this machine; {_SERVER} names the server to run, where it is not redis-server "
            "(on Debian: apt-get install -y redis-server)"
        )
    return found
