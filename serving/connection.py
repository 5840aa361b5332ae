"""One write a response: uvicorn gives the head and the body of each to the socket by themselves.

Two writes are two system calls, two packets, and two times that the caller wakes up: a fifth of what the server does for a
request that it turns away.
"""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_HEAD = b"HTTP/"


class WholeResponses(HttpToolsProtocol):
    """uvicorn's protocol, over a transport that keeps the head of a response until its body comes."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows it alike
        super().connection_made(joined(transport, self.loop))


def joined(transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> asyncio.Transport:
    """The transport, but for heads of responses: each waits for what is written next, to the next turn of the loop at most."""
    return cast(asyncio.Transport, _Joined(transport, loop))  # it has all that the transport has


class _Joined:
    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""

    def write(self, data: bytes) -> None:
        head, self._head = self._head, b""
        if not head and data.startswith(_HEAD):
            self._head = data
            self._loop.call_soon(self._flush)  # for an answer without a body, or one whose body takes its time
        else:
            self._transport.write(head + data)

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
