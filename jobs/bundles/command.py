"""`uic bundle push|list|show|pull|promote|migrate|retire`: models on their way from training into running jobs."""

import json
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from jobs.bundles.migrate_command import migrate_command
from uic.errors import BadInput, UicError

if TYPE_CHECKING:
    from jobs.settings import Settings
    from operators.bundle_status import BundleStatus
    from uic.bundle import Manifest
    from uic.registry import Entry, Registry

bundle_app = typer.Typer(help="Exported models: keep them in the registry, let running jobs take them.", no_args_is_help=True)
_JobDir = Annotated[Path | None, typer.Option(help="The job's folder; default: stream.job_dir of uic.yaml.")]
_Version = Annotated[int, typer.Argument(help="The bundle's version, as `uic bundle list` shows it.")]
_Output = Annotated[Literal["text", "json"], typer.Option(help="For people or for programs.")]


@bundle_app.callback()
def _bundle() -> None:
    """Exported models: keep them in the registry, let running jobs take them."""


@bundle_app.command("push")
def push_command(
    ctx: typer.Context,
    bundle: Annotated[Path, typer.Argument(help="The folder that `uic export` made.")],
) -> None:
    """Check every digest of a bundle and put it into the registry (registry.url), where it never changes any more.

    It is there as a whole or not at all; pushing it again changes nothing. Example: uic bundle push bundles/first
    """
    registry = _registry(ctx.obj)
    entry = registry.push(bundle, now_ms=_now_ms(), say=lambda text: typer.echo(f"  {text}"))
    typer.echo(
        f"bundle {entry.version} is in {registry.url} ({entry.bytes / 1e6:,.1f} MB); `uic bundle promote` lets a job take it"
    )


@bundle_app.command("list")
def list_command(ctx: typer.Context, job_dir: _JobDir = None, output: _Output = "text") -> None:
    """List the bundles of the registry, oldest first: what each is, what was done with it, and which of them the job applies.

    A bundle whose manifest is not the one that was pushed is shown as damaged. Example: uic bundle list
    """
    registry = _registry(ctx.obj)
    applied = _applied(job_dir or ctx.obj.stream.job_dir)
    rows = [_row(registry, entry, applied) for entry in registry.entries()]
    if output == "json":
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True, highlight=False, markup=False)
    if not rows:
        console.print(f"{registry.url}: no bundle yet; `uic bundle push` puts one there")
        return
    table = Table("version", "state", "lineage", "parent", "layout", "trained until", "size", "metrics", "note")
    for row in rows:
        state = f"{row['state']}, active" if row["subtasks"] else row["state"]
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in row["metrics"].items())
        table.add_row(
            str(row["version"]), state, row["lineage"][:8], str(row["parent"] or ""), row["layout"], row["trained_until"],
            f"{row['bytes'] / 1e6:,.1f} MB", metrics, row["note"],
        )  # fmt: skip
    console.print(table)


@bundle_app.command("show")
def show_command(ctx: typer.Context, version: _Version, job_dir: _JobDir = None) -> None:
    """Show one bundle, what the job's subtasks say of it, and how far its training ends from that of the active one.

    Example: uic bundle show 1763800000000
    """
    from uic.promotion import is_too_far, skew_h

    registry = _registry(ctx.obj)
    folder = job_dir or ctx.obj.stream.job_dir
    row = _row(registry, registry.get(version), _applied(folder))
    for name in ("version", "state", "lineage", "parent", "layout", "trained_until", "bytes", "digest", "note"):
        typer.echo(f"{name:<14} {'' if row[name] is None else row[name]}")
    for subtask, status in sorted(_statuses(folder).items()):
        said = f", said {status.answer} last{': ' + status.why if status.why else ''}" if status.answer else ""
        typer.echo(f"subtask {subtask:<6} applies {status.version}{said}")
        if row["cut_off_ms"] is None:
            continue
        apart_h = skew_h(status.training_cut_off_ms, row["cut_off_ms"])
        limit_h = ctx.obj.registry.max_skew_h
        judged = (
            f"more than registry.max_skew_h = {limit_h:g}" if is_too_far(apart_h, limit_h) else f"at most {limit_h:g}: fine"
        )
        typer.echo(f"{'skew':<14} {apart_h:+.1f} h from this bundle to the one it applies ({judged})")


@bundle_app.command("pull")
def pull_command(
    ctx: typer.Context,
    version: _Version,
    out: Annotated[Path, typer.Option(help="Folder below which the bundle is put, under its version.")] = Path("bundles"),
) -> None:
    """Copy a bundle out of the registry, every digest checked; what `uic job submit`, `resume` and `uic score` are given.

    Example: uic bundle pull 1763800000000 --out bundles
    """
    registry = _registry(ctx.obj)
    typer.echo(str(registry.fetch(registry.get(version), out).path))


@bundle_app.command("promote")
def promote_command(ctx: typer.Context, version: _Version, job_dir: _JobDir = None) -> None:
    """Let the running job go over to this bundle, between two batches and without a restart; memories continue.

    Every subtask makes it ready beside the active one and checks it; only when all of them have does anyone swap. Exit code 0:
    all have swapped. 2: it was refused, and why, or a subtask did not answer in time. Example: uic bundle promote 1763800000000
    """
    from jobs.bundles.promote import promote

    folder = job_dir or ctx.obj.stream.job_dir
    promote(ctx.obj, folder, version, typer.echo)
    typer.echo(f"bundle {version} is active; memories say so from their next event on")


bundle_app.command("migrate")(migrate_command)


@bundle_app.command("retire")
def retire_command(ctx: typer.Context, version: _Version, job_dir: _JobDir = None) -> None:
    """Say that a bundle is not to be promoted any more; refused for the active one. Its files stay: savepoints may be of it.

    Example: uic bundle retire 1763700000000
    """
    registry = _registry(ctx.obj)
    entry = registry.get(version)
    folder = job_dir or ctx.obj.stream.job_dir
    if version in _applied(folder).values():
        raise BadInput(f"bundle {version}: the job of {folder} applies it; promote another one first")
    if entry.state == "promoted" and version == _last_promoted(registry, registry.manifest(entry).lineage):
        raise BadInput(f"bundle {version}: it was the last one of its lineage to be promoted; promote another one first")
    registry.note_retired(version, _now_ms())
    copy = folder / "bundles" / entry.folder
    if copy.is_dir():
        shutil.rmtree(copy)
    typer.echo(f"bundle {version} is retired")


def _registry(settings: "Settings") -> "Registry":
    from uic.registry import Registry

    return Registry(settings.registry.url)


def _statuses(job_dir: Path) -> "dict[int, BundleStatus]":
    from jobs.folder import JobFolder
    from operators import bundle_status

    try:
        record = JobFolder(job_dir, make=False).record()
    except BadInput:
        return {}  # there is no job of ours
    return {} if record is None else bundle_status.read_all(job_dir, record.run)


def _applied(job_dir: Path) -> dict[int, int]:
    """The version that each subtask of the job's latest run applies."""
    return {subtask: status.version for subtask, status in _statuses(job_dir).items()}


def _last_promoted(registry: "Registry", lineage: str) -> int | None:
    promoted = [each for each in registry.entries() if each.promoted_ms is not None]
    of_lineage = [each for each in promoted if registry.manifest(each).lineage == lineage]
    return max(of_lineage, key=lambda each: each.promoted_ms or 0).version if of_lineage else None


def _row(registry: "Registry", entry: "Entry", applied: dict[int, int]) -> dict[str, Any]:
    """What is told of a bundle, the same for people and for programs."""
    manifest, note = None, "" if entry.refused is None else f"refused: {entry.refused}"
    try:
        manifest = registry.manifest(entry)
    except UicError as error:
        note = f"damaged: {error}"
    return {
        "version": entry.version,
        "state": entry.state if manifest is not None else "damaged",
        "lineage": "" if manifest is None else manifest.lineage,
        "parent": None if manifest is None else manifest.parent,
        "layout": "" if manifest is None else manifest.layout,
        "cut_off_ms": None if manifest is None else manifest.training_cut_off_ms,
        "trained_until": "" if manifest is None else _when(manifest.training_cut_off_ms),
        "bytes": entry.bytes,
        "digest": entry.digest,
        "metrics": {} if manifest is None else _metrics(manifest),
        "pushed_ms": entry.pushed_ms,
        "promoted_ms": entry.promoted_ms,
        "retired_ms": entry.retired_ms,
        "subtasks": sorted(subtask for subtask, version in applied.items() if version == entry.version),
        "note": note,
    }


def _metrics(manifest: "Manifest") -> dict[str, float]:
    """What the best epoch of its training reached in validation."""
    best = manifest.training.get("best")
    valid = best.get("valid", {}) if isinstance(best, dict) else {}
    return {name: float(valid[name]) for name in ("auc", "user_auc") if isinstance(valid.get(name), int | float)}


def _when(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
