"""`uic verify`: every memory in the store against an offline fold of the same events."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jobs.event_log import payloads
from jobs.verdict import LeftOut, Oracle, verify
from uic.errors import BadInput, UicError
from uic.forgetting import FILE as FORGOTTEN_FILE
from uic.forgetting import Forgotten
from uic.quarantine import Quarantine

__all__ = ["payloads", "verify", "verify_command"]


def verify_command(
    ctx: typer.Context,
    bundle: Annotated[
        list[Path], typer.Option(help="The bundle that the job used; of several that took turns each, in their order.")
    ],
    events: Annotated[Path | None, typer.Option(help="Folder of event files, as given to `uic job run`.")] = None,
    kafka: Annotated[
        bool, typer.Option("--kafka", help="Fold the whole events topic instead, up to where it ends now.")
    ] = False,
    store: Annotated[Path | None, typer.Option(help="The online store; default: store.path of uic.yaml.")] = None,
    oracle: Annotated[Oracle, typer.Option(help="What takes the steps: numpy in float64, or ONNX Runtime.")] = "onnx",
    lateness_s: Annotated[int | None, typer.Option(help="As given to the job.")] = None,
    accept_late: Annotated[bool, typer.Option(help="As given to the job.")] = False,
    idle_after_s: Annotated[int | None, typer.Option(help="As given to the job.")] = None,
    job_dir: Annotated[
        Path | None, typer.Option(help="The job's folder, which says who is forgotten and what a rollback leaves out.")
    ] = None,
    most: Annotated[int, typer.Option(help="How many mismatches to print.")] = 10,
) -> None:
    """Fold the events offline, without Flink, and compare every user's memory in the store.

    The job and `uic store follow` must have finished with these events. Where several bundles have made a memory in turn, every
    place is tried at which one may have taken over, first those within an hour of the time at which the registry (registry.url)
    says it was promoted: so bundles of every hour can be told, but for users with events close to many of those times (each
    doubles the ways). Where 200,000 steps have explained nothing and more are left, it is said whether the right events were
    applied, and nothing of the numbers. Exit code 1 where any differs, 0 otherwise, also where nothing can be said.

    Example: uic verify --kafka --bundle bundles/first --store store
    """
    if (events is None) == (not kafka):
        raise BadInput("uic verify: expected the events from one place, either --events FOLDER or --kafka")
    stream = ctx.obj.stream
    idle_after_s = stream.idle_after_s if idle_after_s is None else idle_after_s
    console = Console(soft_wrap=True, highlight=False, markup=False)
    started = time.monotonic()
    with console.status("folding the events"):
        verdict = verify(
            events or ctx.obj.kafka, bundle, store or ctx.obj.store.path, oracle=oracle,
            lateness_ms=1000 * (stream.lateness_s if lateness_s is None else lateness_s),
            max_ahead_ms=1000 * stream.max_ahead_s, accept_late=accept_late,
            idle_after_ms=None if idle_after_s is None else 1000 * idle_after_s,
            left_out=left_out(job_dir or stream.job_dir),
            took_over_ms=promoted_ms(ctx.obj.registry.url) if len(bundle) > 1 else None,
        )  # fmt: skip
    console.print(
        f"events: {', '.join(f'{count:,} {outcome}' for outcome, count in sorted(verdict.outcomes.items())) or 'none'}"
    )
    console.print(f"users compared: {verdict.users:,} ({oracle}, {time.monotonic() - started:.1f} s)")
    console.print(f"largest difference: {verdict.worst:.3f} of the tolerance (1e-5 + 1e-5 of the value)")
    if verdict.tied:
        console.print(f"users with a tie of channels, not compared: {verdict.tied}")
    if verdict.idle:
        console.print(f"users idle at the end of the log, who have left: {verdict.idle}")
    if verdict.passed:
        console.print(f"users whose memory several bundles have made in turn: {verdict.passed}")
    for title, users in (("nothing can be said of", verdict.undecided), ("mismatches", verdict.mismatches)):
        if users or users is verdict.mismatches:
            console.print(f"{title}: {len(users)}")
        for user, what in list(users.items())[:most]:
            console.print(f"  user {user!r}: {what}")
    if not verdict.holds:
        raise typer.Exit(1)


def promoted_ms(url: str) -> dict[int, int]:
    """When each bundle of a registry was promoted last, by its version; nothing where there is no registry."""
    from uic.registry import Registry

    try:
        return {entry.version: entry.promoted_ms for entry in Registry(url).entries() if entry.promoted_ms is not None}
    except UicError:
        return {}


def left_out(job_dir: Path) -> LeftOut:
    """What the job of this folder leaves out of the log; where there is no job, nothing."""
    from jobs.folder import KIND, JobFolder
    from uic import artefact

    if artefact.kind_of(job_dir) != KIND:
        return LeftOut()
    record = JobFolder(job_dir, make=False).record()
    rules = None if record is None or record.quarantine is None else Quarantine.read(Path(record.quarantine))
    return LeftOut(quarantine=rules, forgotten=Forgotten(job_dir / FORGOTTEN_FILE))
