"""`uic checkpoint list|inspect`: what a job could go on from, and whether every memory in it is as it was written.

The commands over daily checkpoints, which are of the same group, are in jobs/daily/commands.py.
"""

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from jobs.daily.commands import add_daily_commands
from uic.errors import BadInput

if TYPE_CHECKING:
    from jobs.checkpoints import Inspection
    from jobs.folder import JobFolder
    from jobs.settings import Settings

checkpoint_app = typer.Typer(
    help="What a job could go on from: checkpoints, savepoints, daily checkpoints.", no_args_is_help=True
)
_JobDir = Annotated[Path | None, typer.Option(help="The job's folder; default: stream.job_dir of uic.yaml.")]
_Output = Annotated[Literal["text", "json"], typer.Option(help="For people or for programs.")]
_MOST_SHOWN = 20


@checkpoint_app.callback()
def _checkpoint() -> None:
    """What a job could go on from: checkpoints, savepoints, daily checkpoints."""


@checkpoint_app.command("list")
def list_command(
    ctx: typer.Context,
    job_dir: _JobDir = None,
    fast: Annotated[bool, typer.Option("--fast", help="Do not read the memories, only whether each is complete.")] = False,
    output: _Output = "text",
) -> None:
    """List the checkpoints and savepoints in a job's folder, newest first, each memory's CRC computed anew; and its daily ones.

    The first that is intact is what `uic job resume` goes on from. Daily checkpoints are not read anew, `uic checkpoint verify`
    does that. Example: uic checkpoint list --job-dir job
    """
    from rich.console import Console
    from rich.table import Table

    from jobs.folder import JobFolder

    folder = JobFolder(job_dir or ctx.obj.stream.job_dir, make=False)
    rows = [_row(folder, path, fast=fast) for path in folder.candidates()]
    daily = _daily_rows(ctx.obj, folder.path)
    if output == "json":
        typer.echo(json.dumps([*rows, *daily], indent=2))
        return
    console = Console(highlight=False, markup=False)
    if not rows:
        console.print(f"{folder.path}: no checkpoint yet")
    for first, title, shown in (("run", "intact?", rows), ("day", "daily", daily)):
        table = Table(first, "checkpoint", "time", "size", "memories", title)
        for row in shown:
            size = "" if row["bytes"] is None else f"{row['bytes'] / 1e6:,.1f} MB"
            memories = "" if row["memories"] is None else f"{row['memories']:,}"
            table.add_row(str(row[first]), row["name"], row["time"], size, memories, row["state"])
        if shown:
            console.print(table)


@checkpoint_app.command("inspect")
def inspect_command(
    ctx: typer.Context,
    checkpoint: Annotated[str, typer.Argument(help="Its folder, or its name such as chk-17; default: the newest.")] = "",
    job_dir: _JobDir = None,
    output: _Output = "text",
) -> None:
    """Read every memory of a checkpoint or savepoint and name each that is not as it was written, by file and byte.

    Exit code 0 where all are intact, 1 where any is not. User ids, timers and positions carry no checksum and are not seen.
    Example: uic checkpoint inspect chk-17 --job-dir job
    """
    from rich.console import Console

    from jobs import flink_metadata

    form = None
    path = Path(checkpoint)
    if not checkpoint or not (path / flink_metadata.FILE).exists():
        from jobs.folder import JobFolder

        folder = JobFolder(job_dir or ctx.obj.stream.job_dir, make=False)
        path = _named(folder, checkpoint)
        form = _form(folder)
    if (problem := flink_metadata.why_incomplete(path)) is not None:
        raise BadInput(f"{path}: {problem}")
    found = _read(path, form)
    if output == "json":
        typer.echo(json.dumps(_as_json(path, found), indent=2))
    else:
        console = Console(soft_wrap=True, highlight=False, markup=False)
        console.print(f"{path}: {found.memories:,} memories in {found.bytes / 1e6:,.1f} MB, {found.why()}")
        for text in [*found.missing, *map(str, found.bad[:_MOST_SHOWN])]:
            console.print(f"  wrong: {text}")
        for text in found.unseen[:_MOST_SHOWN]:
            console.print(f"  not seen: {text}")
    if not found.is_intact:
        raise typer.Exit(1)


def _row(folder: "JobFolder", path: Path, *, fast: bool) -> dict[str, Any]:
    """One checkpoint as columns; None for what is not known."""
    from jobs import checkpoints, flink_metadata

    kind = "savepoint" if path.name.startswith("savepoint") else "checkpoint"
    row: dict[str, Any] = {"kind": kind, "run": folder.run_of(path), "name": path.name, "path": str(path)}
    row |= {"bytes": None, "memories": None, "time": _time(path.stat().st_mtime)}
    problem = flink_metadata.why_incomplete(path)
    if problem is None:
        row["bytes"] = checkpoints.size_of(path)
        problem = folder.why_condemned(path)
        if not fast:
            found = _read(path, _form(folder))
            row["memories"] = found.memories
            problem = problem or (None if found.is_intact else found.why())
            if problem is None and found.unseen:
                problem = f"intact, but {len(found.unseen)} of its files cannot be looked into"
    return {**row, "state": problem or ("complete" if fast else "intact")}


def _daily_rows(settings: "Settings", job_dir: Path) -> list[dict[str, Any]]:
    """The daily checkpoints as columns, newest first; none where there is no catalogue yet."""
    from jobs.daily.catalogue import KIND, Catalogue
    from jobs.daily.opening import catalogue_path
    from uic import artefact

    path = catalogue_path(settings, job_dir)
    if artefact.kind_of(path) != KIND:
        return []
    catalogue = Catalogue(path, make=False)
    entries, unreadable = catalogue.contents()
    rows: list[dict[str, Any]] = [
        {
            "kind": "daily",
            "day": entry.day.isoformat(),
            "name": entry.id,
            "path": str(catalogue.savepoint(entry)),
            "bytes": entry.bytes,
            "memories": entry.memories,
            "time": _time(entry.taken_ms / 1000),
            "state": ", ".join([entry.state, *(["pinned"] if entry.pins else [])]),
        }
        for entry in entries
    ]
    nothing = {"kind": "daily", "day": "", "bytes": None, "memories": None, "time": ""}
    return rows + [{**nothing, "name": path.name, "path": str(path), "state": why} for path, why in unreadable.items()]


def _time(time_s: float) -> str:
    return datetime.fromtimestamp(time_s).astimezone().isoformat(timespec="seconds")


def _read(path: Path, form: Any) -> "Inspection":  # a BlobForm | None
    """Inspect with a bar for as long as it lasts."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from jobs import checkpoints

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(path.name, total=checkpoints.size_of(path))
        return checkpoints.inspect(path, form, advance=lambda size: bar.advance(task, size))


def _form(folder: "JobFolder") -> Any:  # a BlobForm | None
    """What the folder's memories are like; None where the record or its bundle does not tell."""
    from jobs import checkpoints

    record = folder.record()
    form = None if record is None else checkpoints.form_of(Path(record.bundle))
    return form if form is not None and record is not None and form.layout == record.layout else None


def _named(folder: "JobFolder", name: str) -> Path:
    found = [path for path in folder.candidates() if not name or path.name == name]
    if not found:
        there = ", ".join(path.name for path in folder.candidates()[:5]) or "none"
        raise BadInput(f"{folder.path}: no checkpoint {name or 'at all'}; the newest are {there}")
    return found[0]


def _as_json(path: Path, found: "Inspection") -> dict[str, Any]:
    return {
        "path": str(path),
        "is_intact": found.is_intact,
        "memories": found.memories,
        "bytes": found.bytes,
        "bad": [{"file": str(bad.file), "offset": bad.offset, "why": bad.why} for bad in found.bad],
        "missing": found.missing,
        "unseen": found.unseen,
    }


add_daily_commands(checkpoint_app)
