"""The OpenAPI document: made from the types that bodies are read and written with, so that the two cannot differ."""

from typing import TYPE_CHECKING, Any

import msgspec

from serving.wire import BundleAnswer, ProblemAnswer, ScoreAnswer, ScoreRequest

if TYPE_CHECKING:
    from serving.service import Limits

REQUEST = {
    "users": [
        {"user_id": "196", "candidates": [{"item_id": 242, "category_id": 3}, {"item_id": 302, "category_id": 9}]},
        {"user_id": "nobody", "candidates": [{"item_id": 242}]},
    ]
}
ANSWER = {
    "bundle_version": 1795305600000,
    "users": [
        {
            "user_id": "196",
            "found": "live",
            "why": None,
            "memory": {
                "bundle_version": 1795305600000,
                "generation": 0,
                "events": 1000,
                "last_event_ms": 1795301000000,
                "taken_in_ms": 1795301000120,
            },
            "probabilities": [0.3125, 0.0841],
        },
        {"user_id": "nobody", "found": "initial", "why": None, "memory": None, "probabilities": [0.1102]},
    ],
}
_AS_OF = {"as_of": "2026-11-20", "users": REQUEST["users"]}


def document(limits: "Limits", *, needs_token: bool) -> dict[str, Any]:
    """The document for a server with these limits."""
    types = (ScoreRequest, ScoreAnswer, ProblemAnswer, BundleAnswer)
    (request, answer, _, bundle), components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    bounds = (
        f"At most {limits.body_bytes} bytes, {limits.users} users and {limits.candidates} candidates over all users; "
        f"answered within {limits.time_s:g} s or not at all."
    )
    examples = {"now": {"value": REQUEST}, "as of a day": {"value": _AS_OF}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "User Interest Center: scores",
            "version": "1",
            "description": "P(click) of candidates from a user's memory, in a time that does not depend on the history.",
        },
        "paths": {
            "/v1/score": {
                "post": {
                    "operationId": "score",
                    "summary": "Score candidates",
                    "description": f"Probabilities in the order asked. {bounds}",
                    "security": [{"token": []}] if needs_token else [],
                    "requestBody": {"required": True, "content": _json(request, examples=examples)},
                    "responses": {
                        "200": {"description": "Scores", "content": _json(answer, example=ANSWER)},
                        **_problems(
                            {
                                "400": "The body is no JSON, or ended too early.",
                                "401": "No token, or a wrong one.",
                                "408": "The body did not come in time.",
                                "413": "The body is too large.",
                                "422": "A field is wrong; too many users or candidates; a head feature is missing; a day "
                                "that is not kept.",
                                "503": "Overloaded, starting, or the store does not answer: try again after Retry-After.",
                                "504": "It took too long.",
                            }
                        ),
                    },
                }
            },
            "/v1/admin/bundle": {
                "post": {
                    "operationId": "bundle",
                    "summary": "Take the bundle that the server's path points to now; the old one goes on until it is warm",
                    "security": [{"admin": []}],
                    "responses": {
                        "200": {"description": "It scores now", "content": _json(bundle)},
                        **_problems(
                            {
                                "401": "No token, or a wrong one.",
                                "403": "The server has no admin token.",
                                "409": "The bundle was refused; the old one goes on.",
                            }
                        ),
                    },
                }
            },
            "/healthz": _plain("alive", "The process lives"),
            "/readyz": {
                "get": {
                    "operationId": "ready",
                    "summary": "The bundle is warm, and the server is not about to stop",
                    "responses": {
                        "200": {"description": "Ready", "content": _json({"type": "object"})},
                        **_problems({"503": "Starting, or draining."}),
                    },
                }
            },
            "/metrics": {
                "get": {
                    "operationId": "metrics",
                    "summary": "For Prometheus",
                    "responses": {"200": {"description": "Text", "content": {"text/plain": {"schema": {"type": "string"}}}}},
                }
            },
            "/openapi.json": _plain("schema", "This document"),
        },
        "components": {
            "schemas": components,
            "securitySchemes": {name: {"type": "http", "scheme": "bearer"} for name in ("token", "admin")},
        },
    }


def _plain(name: str, summary: str) -> dict[str, Any]:
    responses = {"200": {"description": summary, "content": _json({"type": "object"})}}
    return {"get": {"operationId": name, "summary": summary, "responses": responses}}


def _json(schema: dict[str, Any], **more: Any) -> dict[str, Any]:  # examples: any JSON value
    return {"application/json": {"schema": schema, **more}}


def _problems(said: dict[str, str]) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/ProblemAnswer"}
    return {status: {"description": words, "content": _json(schema)} for status, words in said.items()}
