"""The connection of one process to a Redis or a cluster: our script, called for one user or for many at once, in bounded time.

Whatever is sent may be done twice without harm, so what got no answer is sent again, a few times.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import redis
from redis.backoff import ExponentialBackoff
from redis.cluster import ClusterNode
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    ConnectionError,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    TimeoutError,
    TryAgainError,
)
from redis.retry import Retry

from uic.errors import StoreError, StoreUnavailable
from uic.store.place import PASSWORD, RedisUrl
from uic.store.redis_script import SCRIPT, SHA

# Commands of one pipeline: their memories, and the answers, wait in memory on both sides.
_AT_ONCE = 256
_SCANNED = 512
_FORBIDDEN = (AuthenticationError, AuthorizationError, NoPermissionError)
# They pass: a server that is away or loads its data, a cluster that elects, memory that is full, a replica that was the master.
_PASSING = (
    ConnectionError,
    TimeoutError,
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    TryAgainError,
    OSError,
)
_PASSING_WORDS = ("BUSY", "MISCONF", "NOREPLICAS")

Result = TypeVar("Result")
# A command, or an answer, as the library has them.
Reply = Any
Call = tuple[Sequence[bytes], Sequence[bytes]]


class Link:
    """Connections are made when they are needed, and may be used by several threads."""

    def __init__(self, url: RedisUrl, password: str | None = None) -> None:
        """Without a password, that of the environment: where a worker of Flink's connects, there is nobody to hand it over."""
        self.url = url
        options: dict[str, Any] = {  # as the library takes them
            "username": url.username,
            "password": os.environ.get(PASSWORD) if password is None else password,
            "socket_timeout": url.timeout_s,
            "socket_connect_timeout": url.timeout_s,
            "socket_keepalive": True,
            "client_name": "uic",
        }
        if url.is_tls:
            options |= {"ssl": True, "ssl_ca_certs": url.ca, "ssl_certfile": url.cert, "ssl_keyfile": url.key}
        retry = Retry(ExponentialBackoff(cap=0.2, base=0.02), url.retries)
        self._client: Any
        if url.is_cluster:
            nodes = [ClusterNode(host, port) for host, port in url.hosts]  # type: ignore[no-untyped-call]  # it has no types
            self._client = self._asked(
                lambda: redis.RedisCluster(
                    startup_nodes=nodes,
                    cluster_error_retry_attempts=url.retries,
                    retry=Retry(ExponentialBackoff(), 0),
                    **options,
                )
            )
        else:
            host, port = url.hosts[0]
            errors = [ConnectionError, TimeoutError]
            self._client = redis.Redis(host=host, port=port, db=url.database, retry=retry, retry_on_error=errors, **options)  # type: ignore[arg-type]  # its stub wants another list

    def call(self, keys: Sequence[bytes], arguments: Sequence[bytes]) -> Reply:
        """What the script answers (uic/store/redis_script.py)."""
        try:
            return self.ask("EVALSHA", SHA, len(keys), *keys, *arguments)
        except NoScriptError:  # a server that was started anew
            return self.ask("EVAL", SCRIPT, len(keys), *keys, *arguments)

    def call_many(self, calls: Sequence[Call], *, at_once: bool = False) -> list[Reply]:
        """The same for many, in few round trips. `at_once`: nobody sees some of them done and others not; not in a cluster."""
        replies: list[Reply] = []
        for start in range(0, len(calls), len(calls) if at_once else _AT_ONCE):
            part = calls[start : start + (len(calls) if at_once else _AT_ONCE)]
            found = self._send(part, "EVALSHA", SHA, at_once)
            missing = [place for place, reply in enumerate(found) if isinstance(reply, NoScriptError)]
            if missing:
                again = self._send([part[place] for place in missing], "EVAL", SCRIPT, at_once)
                for place, reply in zip(missing, again, strict=True):
                    found[place] = reply
            replies += found
        for reply in replies:
            if isinstance(reply, Exception):
                raise self._error(reply) from reply
        return replies

    def _send(self, calls: Sequence[Call], command: str, script: str, at_once: bool) -> list[Reply]:
        def send() -> list[Reply]:
            pipeline = self._client.pipeline(transaction=at_once and not self.url.is_cluster)
            for keys, arguments in calls:
                pipeline.execute_command(command, script, len(keys), *keys, *arguments)
            replies: list[Reply] = pipeline.execute(raise_on_error=False)
            return replies

        return self._asked(send)

    def ask(self, *command: Reply) -> Reply:
        """One command of Redis' own."""
        return self._asked(lambda: self._client.execute_command(*command))

    def ask_many(self, commands: Sequence[tuple[Reply, ...]]) -> list[Reply]:
        """Commands of Redis' own, in few round trips."""
        replies: list[Reply] = []
        for start in range(0, len(commands), _AT_ONCE):
            part = commands[start : start + _AT_ONCE]

            def send(part: Sequence[tuple[Reply, ...]] = part) -> list[Reply]:
                pipeline = self._client.pipeline(transaction=False)
                for command in part:
                    pipeline.execute_command(*command)
                answers: list[Reply] = pipeline.execute()
                return answers

            replies += self._asked(send)
        return replies

    def scan(self, pattern: bytes) -> Iterator[list[bytes]]:
        """All keys of a pattern, in pieces; a key may come twice while Redis makes room."""
        nodes = self._client.get_primaries() if self.url.is_cluster else [None]
        for node in nodes:
            options = {} if node is None else {"target_nodes": node}
            cursor: Any = 0
            while True:
                answer = self._asked(lambda: self._client.scan(cursor, match=pattern, count=_SCANNED, **options))  # noqa: B023  # called at once
                # A cluster names the node of each answer.
                cursor, keys = answer if node is None else (next(iter(answer[0].values())), answer[1])
                if keys:
                    yield keys
                if cursor == 0:
                    break

    def servers(self) -> list[tuple[str, dict[str, Any]]]:
        """Each server that takes writes, and what it says of itself."""
        if not self.url.is_cluster:
            host, port = self.url.hosts[0]
            return [(f"{host}:{port}", self._asked(self._client.info))]
        nodes = self._client.get_primaries()
        return [(node.name, self._asked(lambda: self._client.info(target_nodes=node))) for node in nodes]  # noqa: B023  # called at once

    def sizes(self, keys: Sequence[bytes]) -> list[int]:
        """The bytes that keys take in the memory of Redis, with all that it adds."""
        return [size or 0 for size in self.ask_many([("MEMORY USAGE", key, "SAMPLES", 0) for key in keys])]

    def close(self) -> None:
        self._client.close()

    def _asked(self, send: Callable[[], Result]) -> Result:
        try:
            return send()
        except NoScriptError:
            raise
        except (RedisError, RedisClusterException, OSError) as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> StoreError:
        if isinstance(error, _FORBIDDEN):
            return StoreError(
                f"{self.url}: Redis does not let us in: {error}; the user stands in the URL, the password in {PASSWORD}"
            )
        if isinstance(error, _PASSING) or str(error).startswith(_PASSING_WORDS):
            return StoreUnavailable(f"{self.url}: Redis does not do what it is asked for now: {error}")
        return StoreError(f"{self.url}: Redis refuses: {error}")
