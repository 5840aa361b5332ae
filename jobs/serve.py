"""`uic serve`: probabilities of candidates over HTTP, from the memories in the online store."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.settings import Settings


def serve_command(
    ctx: typer.Context,
    bundle: Annotated[Path, typer.Option(help="The bundle that scores, or a link to it that is set to another one later.")],
    store: Annotated[Path | None, typer.Option(help="The online store; default: store.path of uic.yaml.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default: serve.host.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on, 0 for any free one; default: serve.port.")] = None,
) -> None:
    """Score candidates over HTTP from the memories in the online store, until a signal ends it.

    POST /v1/score asks, /openapi.json says how; /healthz, /readyz and /metrics are for those who run it. SIGHUP takes the
    bundle that the path points to now, without dropping a request; SIGTERM drains and ends. Tokens come from the environment:
    UIC__SERVE__TOKEN for scores, UIC__SERVE__ADMIN_TOKEN for POST /v1/admin/bundle.

    Example: uic serve --bundle bundles/current --store store --port 8080
    """
    import logging
    import os

    from serving.access_log import JsonLines, write_line
    from serving.app import Tokens, make_app
    from serving.server import Listening, serve
    from serving.service import Limits, Service
    from uic.registry import Registry
    from uic.store.sharded import open_to_read

    settings: Settings = ctx.obj
    asked = settings.serve
    logging.basicConfig(level=logging.WARNING, handlers=[JsonLines()])
    logging.getLogger("uic").setLevel(logging.INFO)
    limits = Limits(
        body_bytes=asked.body_bytes,
        users=asked.users,
        candidates=asked.candidates,
        time_s=asked.time_s,
        threads=asked.threads or len(os.sched_getaffinity(0)),
        waiting=asked.waiting,
    )
    listening = Listening(
        host=host or asked.host,
        port=asked.port if port is None else port,
        certificate=asked.certificate,
        key=asked.key,
        drain_s=asked.drain_s,
        refresh_s=asked.refresh_s,
        watch_s=asked.watch_s,
    )
    place = store or settings.store.path
    memories = open_to_read(place)
    try:
        service = Service(bundle, memories, place, limits, open_to_read)
        tokens = Tokens(
            score=None if asked.token is None else asked.token.get_secret_value(),
            admin=None if asked.admin_token is None else asked.admin_token.get_secret_value(),
        )
        serve(make_app(service, tokens, write_line), service, listening, Registry(settings.registry.url))
    finally:
        memories.close()
