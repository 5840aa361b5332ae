"""The HTTP application: what each path does, who may ask, and what every problem is answered with.

    POST /v1/score           scores                           GET /healthz   the process lives
    POST /v1/admin/bundle    take what the bundle's path      GET /readyz    the bundle is warm, and this server stays
                             points to now                    GET /metrics   for Prometheus
    GET  /openapi.json       the schema of all this

Scores are answered in front of Starlette, which routes the rest: its request, routing and response cost as much as half of a
score. msgspec reads and writes: FastAPI would check the same bodies through pydantic.
"""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.access_log import AccessLog, Write
from serving.metrics import CONTENT_TYPE
from serving.openapi import document
from serving.service import Service, log
from serving.wire import BundleAnswer, Refused, read_request
from uic.errors import UicError

_SCORE = "/v1/score"
_JSON = "application/json"
_NO_HEADERS: Mapping[str, str] = {}
Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Bearer tokens; None asks for none. Without an admin token nobody may do what needs one."""

    score: str | None = None
    admin: str | None = None


def make_app(service: Service, tokens: Tokens, write: Write) -> ASGIApp:
    """The application over a service. `write` is given one line of JSON a request."""
    schema = msgspec.json.encode(document(service.limits, needs_token=tokens.score is not None))

    async def score(scope: Scope, receive: Receive, send: Send) -> None:
        began, metrics = time.perf_counter(), service.metrics
        try:
            until = asyncio.get_running_loop().time() + service.limits.time_s
            _check_token(scope, tokens.score)
            service.check_room()
            body = await _body(scope, receive, service.limits.body_bytes, until)
            parsing = time.perf_counter()
            asked = read_request(body, most_users=service.limits.users, most_candidates=service.limits.candidates)
            metrics.stage("parse", time.perf_counter() - parsing)
            data, scope["state"]["facts"] = await service.score(asked, until)
        except Refused as refused:
            metrics.outcome(refused.code)
            await _send(send, refused.status, refused.body(), refused.headers)
        except Exception:
            metrics.outcome("internal")
            await _send(send, _MISTAKE.status, _MISTAKE.body())
            raise  # AccessLog writes it down
        else:
            metrics.outcome("ok")
            metrics.stage("whole", time.perf_counter() - began)
            await _send(send, 200, data)

    async def bundle(request: Request) -> Response:
        if tokens.admin is None:
            raise Refused(403, "no_admin", "this server was started without an admin token (UIC__SERVE__ADMIN_TOKEN)")
        _check_token(request.scope, tokens.admin)
        try:
            version, before = await asyncio.to_thread(service.load)
        except UicError as error:
            raise Refused(409, "bundle_refused", f"{type(error).__name__}: {error}") from error
        return Response(msgspec.json.encode(BundleAnswer(version, before)), media_type=_JSON)

    async def healthz(_: Request) -> Response:
        return Response(b'{"status":"alive"}', media_type=_JSON)

    async def readyz(_: Request) -> Response:
        if service.is_draining:
            raise Refused(503, "draining", "this server is about to stop")
        return Response(msgspec.json.encode({"status": "ready", "bundle_version": service.model.version}), media_type=_JSON)

    async def metrics(_: Request) -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    async def openapi(_: Request) -> Response:
        return Response(schema, media_type=_JSON)

    app = Starlette(
        routes=[
            Route(_SCORE, _only_posted, methods=["POST"]),
            Route("/v1/admin/bundle", bundle, methods=["POST"]),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            Route("/openapi.json", openapi),
        ],
        exception_handlers={Refused: _refused, HTTPException: _http_problem, Exception: _our_mistake},
    )
    app.router.redirect_slashes = False

    async def entry(scope: Scope, receive: Receive, send: Send) -> None:
        is_score = scope["path"] == _SCORE and scope["method"] == "POST"
        await (score if is_score else app)(scope, receive, send)

    return AccessLog(entry, write, is_draining=lambda: service.is_draining)


async def _only_posted(_: Request) -> Response:
    raise AssertionError("what is posted here never comes to Starlette, which answers 405 to the rest")


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return Response(error.body(), error.status, headers=error.headers, media_type=_JSON)


async def _http_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "no_such_path", 405: "no_such_method"}.get(error.status_code, "http")
    refused = Refused(error.status_code, code, str(error.detail), **dict(error.headers or {}))
    return await _refused(_, refused)


async def _our_mistake(request: Request, error: Exception) -> Response:
    # The traceback is for us: Starlette raises the error once more after this answer, and AccessLog writes it down.
    return await _refused(request, _MISTAKE)


_MISTAKE = Refused(500, "internal", "the server made a mistake; its log says which")


def _check_token(scope: Scope, token: str | None) -> None:
    if token is None:
        return
    # Compared as bytes, in a time that does not tell how much of it was right.
    if not hmac.compare_digest(_header(scope, b"authorization"), f"Bearer {token}".encode()):
        raise Refused(
            401, "unauthorized", "expected the header `Authorization: Bearer TOKEN`", **{"www-authenticate": "Bearer"}
        )


def _header(scope: Scope, wanted: bytes) -> bytes:
    return next((value for name, value in scope["headers"] if name == wanted), b"")


async def _body(scope: Scope, receive: Receive, most_bytes: int, until: float) -> bytearray:
    """The body; raises Refused where it is larger than allowed (without reading it all) or does not come in time."""
    length = _header(scope, b"content-length")
    if length.isdigit() and int(length) > most_bytes:
        raise _too_large(most_bytes)
    body, is_more = bytearray(), True
    try:
        async with asyncio.timeout_at(until):
            while is_more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    log.debug("the caller left before its request was complete")
                    raise Refused(400, "left", "the connection ended before the body did")
                body += message.get("body", b"")
                if len(body) > most_bytes:
                    raise _too_large(most_bytes)
                is_more = message.get("more_body", False)
    except TimeoutError:
        raise Refused(
            408, "slow_body", f"the body did not come in time: {len(body)} bytes so far", connection="close"
        ) from None
    return body


def _too_large(most_bytes: int) -> Refused:
    return Refused(413, "too_large", f"expected a body of at most {most_bytes} bytes", connection="close")


async def _send(send: Send, status: int, data: bytes, headers: Mapping[str, str] = _NO_HEADERS) -> None:
    sent = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
    sent += [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": sent})
    await send({"type": "http.response.body", "body": data})
