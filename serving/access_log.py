"""One line of JSON for every request, and one for what the program has to say besides."""

import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Write = Callable[[Mapping[str, Any]], None]
_REQUEST_ID = b"x-request-id"
_MOST_ID = 64
# Asked all the time by those who run the server: told of only where something is wrong.
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})


class AccessLog:
    """Around the application: a line for each request once it is answered, and the caller's `X-Request-ID` handed back.

    While the server drains, every answer ends its connection, so that callers come back to another one.
    """

    def __init__(self, app: ASGIApp, write: Write, *, is_draining: Callable[[], bool]) -> None:
        self._app = app
        self._write = write
        self._is_draining = is_draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        scope["state"] = {**scope.get("state", {}), "facts": {}}
        request_id = _given_id(scope) or os.urandom(16).hex().encode()
        status = 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (_REQUEST_ID, request_id)]
                if self._is_draining():
                    headers.append((b"connection", b"close"))
                message = {**message, "headers": headers}
            await send(message)

        mistake = None
        try:
            await self._app(scope, receive, send_marked)
        except Exception as error:  # ours: answered with 500 already, and told here with its traceback
            mistake = "".join(traceback.format_exception(error))
        if scope["path"] in _QUIET and 0 < status < 400:
            return
        facts: dict[str, Any] = {
            "request": request_id.decode("latin-1"),
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "ms": round((time.perf_counter() - began) * 1000, 2),
            "caller": (scope.get("client") or ["?"])[0],
            **scope["state"]["facts"],
        }
        if mistake is not None:
            facts["mistake"] = mistake
        self._write(facts)


def _given_id(scope: Scope) -> bytes | None:
    for name, value in scope["headers"]:
        if name == _REQUEST_ID:
            given: bytes = value[:_MOST_ID]
            # Nothing that could pass for another line of the log, or another header.
            return given if given.isascii() and given.decode().isprintable() and given else None
    return None


def write_line(facts: Mapping[str, Any]) -> None:
    """One line of JSON on standard output."""
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **facts}
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()


class JsonLines(logging.Handler):
    """What is logged besides, as lines of the same kind: `event` and the facts given as `extra={"facts": {...}}`."""

    def emit(self, record: logging.LogRecord) -> None:
        facts: dict[str, Any] = {
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info is not None:
            facts["mistake"] = logging.Formatter().formatException(record.exc_info)
        write_line(facts)
