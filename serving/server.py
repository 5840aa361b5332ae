"""The process: sockets, signals, start and end.

Start: the socket listens and /healthz answers while the bundle is loaded and warmed; then /readyz does too.
SIGHUP: what the bundle's path points to now is loaded beside the old one and takes over.
SIGTERM: for `drain_s` /readyz says no and every answer ends its connection, so that callers go elsewhere; then the socket
closes, what is under way is answered, and the process ends with 0. A second signal does not wait for the first one's `drain_s`.
"""

import asyncio
import gc
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn
import uvloop
from starlette.types import ASGIApp

from serving.connection import WholeResponses
from serving.service import Service, every, log
from uic.bundle import MANIFEST
from uic.errors import EnvironmentProblem, UicError
from uic.registry import Registry

_LEARN_S = 60.0
_BACKLOG = 2048
# Longer than the proxies and clients in front keep a connection, so that it is they who end it, between two requests.
_KEEP_ALIVE_S = 75


@dataclass(frozen=True, kw_only=True)
class Listening:
    """Where and how the server listens; port 0 takes any free one. `watch_s`: how often to look where the path points."""

    host: str = "127.0.0.1"
    port: int = 8080
    certificate: Path | None = None
    key: Path | None = None
    drain_s: float = 5.0
    refresh_s: float = 0.1
    watch_s: float | None = None


def serve(app: ASGIApp, service: Service, listening: Listening, registry: Registry | None = None) -> None:
    """Serve until a signal ends it. Raises what is wrong with the first bundle, and EnvironmentProblem for a port in use.

    From the registry comes where the training of each bundle ends that may have written a memory.
    """
    uvloop.run(_serve(app, service, listening, registry))


async def _serve(app: ASGIApp, service: Service, listening: Listening, registry: Registry | None) -> None:
    config = uvicorn.Config(
        app,
        http=WholeResponses,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        ssl_certfile=listening.certificate,
        ssl_keyfile=listening.key,
        timeout_graceful_shutdown=int(service.limits.time_s) + 1,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        raise EnvironmentProblem(f"serve.certificate, serve.key: cannot be used: {error}") from error
    server = _Server(config, service, listening.drain_s)
    with _listen(listening) as listener:
        serving = asyncio.create_task(server.serve([listener]))
        beside: list[asyncio.Task[None]] = []
        try:
            host, port = listener.getsockname()[:2]
            log.info("listening", extra={"facts": {"host": host, "port": port, "tls": config.is_ssl}})
            loop = asyncio.get_running_loop()

            def reload() -> None:
                beside.append(loop.create_task(asyncio.to_thread(_load, service)))

            loop.add_signal_handler(signal.SIGHUP, reload)
            await _load_first(service, serving)
            # What is there by now stays: the collector, which holds every request up, need not look through it again.
            gc.freeze()
            beside.append(loop.create_task(every(listening.refresh_s, service.refresh)))
            if registry is not None:
                beside.append(loop.create_task(every(_LEARN_S, lambda: service.learn(registry))))
            if listening.watch_s is not None:
                beside.append(loop.create_task(every(listening.watch_s, _watcher(service))))
            await asyncio.wait([serving])
        finally:
            server.should_exit = True
            for task in beside:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            await serving
            await asyncio.to_thread(service.close)


async def _load_first(service: Service, serving: asyncio.Task[None]) -> None:
    loading = asyncio.create_task(asyncio.to_thread(service.load))
    await asyncio.wait([loading, serving], return_when=asyncio.FIRST_COMPLETED)
    await loading


def _load(service: Service) -> None:
    with suppress(UicError):  # told in the log and the metrics; the old bundle goes on
        service.load()


def _watcher(service: Service) -> Callable[[], None]:
    # What was loaded may not be what is there by now: the first look loads again, which changes nothing where it is the same.
    seen: tuple[Path, bytes] | None = None

    def look() -> None:
        nonlocal seen
        found = _where(service.pointer)
        if found is not None and found != seen:
            seen = found
            _load(service)

    return look


def _where(pointer: Path) -> tuple[Path, bytes] | None:
    """What a path points to, as far as it takes to notice another bundle; None while there is none."""
    try:
        path = pointer.resolve()
        return path, (path / MANIFEST).read_bytes()
    except OSError:
        return None


def _listen(listening: Listening) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            listening.host, listening.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)  # from here on nobody is refused a connection
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise EnvironmentProblem(
            f"serve: port {listening.port} of {listening.host} cannot be used: {error}; choose another, or 0 for any free one"
        ) from error
    return listener


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, service: Service, drain_s: float) -> None:
        super().__init__(config)
        self._service = service
        self._drain_s = drain_s
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._service.is_draining:
            self.should_exit = True
            return
        self._service.is_draining = True
        log.info("draining", extra={"facts": {"seconds": self._drain_s}})
        self._loop.call_soon_threadsafe(self._loop.call_later, self._drain_s, self._stop)

    def _stop(self) -> None:
        self.should_exit = True
