"""`uic checkpoint create|show|pin|unpin|delete|verify|schedule`: daily checkpoints, which one can go back to."""

import json
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from uic.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jobs.daily.catalogue import Catalogue
    from jobs.daily.entry import Entry
    from jobs.daily.midnights import Midnights
    from jobs.settings import Settings

_Day = Annotated[str, typer.Argument(metavar="DAY", help="The day, such as 2026-11-22, or an id of `uic checkpoint list`.")]
_JobDir = Annotated[Path | None, typer.Option(help="The job's folder; default: stream.job_dir of uic.yaml.")]
_Url = Annotated[str | None, typer.Option("--cluster", help="REST address of the JobManager; default: where it was submitted.")]
_Output = Annotated[Literal["text", "json"], typer.Option(help="For people or for programs.")]
_BY_HAND = "by hand"


def create_command(
    ctx: typer.Context,
    day: Annotated[str | None, typer.Option(help="The day at whose begin it stands; default: the next one to begin.")] = None,
    job_dir: _JobDir = None,
    cluster: _Url = None,
) -> None:
    """Take a savepoint of the running job and enter it as the daily checkpoint of a day; prints its id and its path.

    It can stand only for a day of which the job has read no event yet: the next one, or one that the job is behind. Once the
    day has begun it is sealed: `uic checkpoint schedule` does both by itself. Example: uic checkpoint create --job-dir job
    """
    from rich.console import Console

    with Console(stderr=True, highlight=False).status("waiting for the savepoint") as shown:
        midnights = _midnights(
            ctx.obj, job_dir, cluster, progress=lambda seconds: shown.update(f"waiting for the savepoint, {seconds:.0f} s")
        )
        entry = midnights.take(None if day is None else _date(day))
    typer.echo(f"{entry.id}  {entry.state} for {entry.day} ({entry.zone}), {entry.memories:,} memories")
    typer.echo(midnights.catalogue.savepoint(entry))


def show_command(ctx: typer.Context, day: _Day, job_dir: _JobDir = None, output: _Output = "text") -> None:
    """Tell all that is known of a daily checkpoint: offsets at the barrier, the day's cut, bundle, size, pins.

    Example: uic checkpoint show 2026-11-22
    """
    catalogue = _catalogue(ctx.obj, job_dir)
    entry = catalogue.find(day)
    if output == "json":
        typer.echo(
            json.dumps({**entry.to_json(), "state": entry.state, "savepoint": str(catalogue.savepoint(entry))}, indent=2)
        )
        return
    for name, value in _rows(catalogue, entry):
        typer.echo(f"{name:<10} {value}")


def pin_command(
    ctx: typer.Context,
    day: _Day,
    why: Annotated[str, typer.Option(help="Who keeps it, and what for.")] = _BY_HAND,
    job_dir: _JobDir = None,
) -> None:
    """Keep a daily checkpoint for ever, beyond the days kept. Example: uic checkpoint pin 2026-11-22 --why 'before the sale'"""
    catalogue = _catalogue(ctx.obj, job_dir)
    entry = catalogue.pin(catalogue.find(day), why)
    typer.echo(f"{entry.id}: pinned ({'; '.join(entry.pins)})")


def unpin_command(
    ctx: typer.Context,
    day: _Day,
    why: Annotated[str | None, typer.Option(help="Take back this pin only; default: all of them.")] = None,
    job_dir: _JobDir = None,
) -> None:
    """Let a daily checkpoint go when its time comes. Example: uic checkpoint unpin 2026-11-22"""
    catalogue = _catalogue(ctx.obj, job_dir)
    entry = catalogue.find(day)
    if why is not None and why not in entry.pins:
        raise BadInput(f"{entry.id}: no pin {why!r}; there are {', '.join(map(repr, entry.pins)) or 'none'}")
    entry = catalogue.unpin(entry, why)
    typer.echo(f"{entry.id}: pinned still ({'; '.join(entry.pins)})" if entry.pins else f"{entry.id}: not pinned")


def delete_command(ctx: typer.Context, day: _Day, job_dir: _JobDir = None) -> None:
    """Remove a daily checkpoint with its files; refused where it is pinned or the last one.

    Example: uic checkpoint delete 2026-11-22
    """
    catalogue = _catalogue(ctx.obj, job_dir)
    entry = catalogue.find(day)
    catalogue.remove(entry)
    typer.echo(f"{entry.id}: removed, {entry.bytes / 1e6:,.1f} MB")


def verify_command(
    ctx: typer.Context,
    day: _Day,
    job_dir: _JobDir = None,
    restores: Annotated[bool, typer.Option("--restore/--no-restore", help="Restore it into a throw-away job as well.")] = True,
    work: Annotated[Path | None, typer.Option(help="Where that job may put its files; default: the system's.")] = None,
    output: _Output = "text",
) -> None:
    """Read a daily checkpoint anew: each file's digest, each memory's CRC, its offsets; then restore it into a job of its own.

    That job runs in this machine's embedded Flink, without sources and sinks; nothing else is touched. Exit code 1 where
    anything is wrong. Example: uic checkpoint verify 2026-11-22
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    from jobs.daily.verify import verify

    catalogue = _catalogue(ctx.obj, job_dir)
    entry = catalogue.find(day)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(entry.id, total=2 * entry.bytes)
        found = verify(
            catalogue,
            entry,
            restores=restores,
            work=work,
            say=lambda text: bar.update(task, description=text),
            advance=lambda size: bar.advance(task, size),
        )
    if output == "json":
        typer.echo(
            json.dumps({"id": entry.id, "day": entry.day.isoformat(), **asdict(found), "is_good": found.is_good}, indent=2)
        )
    else:
        typer.echo(f"{entry.id}, {entry.state} for {entry.day}: {found.files} files, {found.bytes / 1e6:,.1f} MB")
        if found.memories is not None:
            typer.echo(f"{found.memories:,} memories, {'each as it was written' if found.is_good else 'see below'}")
        if found.users is not None:
            typer.echo(f"{found.users:,} users read by a job restored from it")
        for text in found.wrong:
            typer.echo(f"  wrong: {text}")
    if not found.is_good:
        raise typer.Exit(1)


def schedule_command(
    ctx: typer.Context,
    job_dir: _JobDir = None,
    cluster: _Url = None,
    once: Annotated[bool, typer.Option("--once", help="Do what is due now and end: for a CronJob, every few minutes.")] = False,
    metrics_port: Annotated[
        int | None, typer.Option(help="Prometheus port; 0: any free one. Default: daily.metrics_port.")
    ] = None,
) -> None:
    """Take a daily checkpoint `days.lead_s` before each day begins, seal it after, keep `days.kept` days, watch over the log.

    What fails is tried again, until a lead time after the day has begun. With --once: exit code 1 where anything is wrong.
    Example: uic checkpoint schedule --job-dir job --metrics-port 9260
    """
    from jobs.daily.metrics import DailyMetrics
    from jobs.daily.schedule import Keeper, serve, until_signal

    settings: Settings = ctx.obj
    midnights = _midnights(settings, job_dir, cluster, says=True)
    metrics = DailyMetrics()
    if once:
        problems = Keeper(midnights, metrics).tend()
        raise typer.Exit(1 if problems else 0)
    port = settings.daily.metrics_port if metrics_port is None else metrics_port
    if port is not None:
        midnights.say(f"metrics on {settings.daily.metrics_host}:{metrics.serve(settings.daily.metrics_host, port)}")
    wait, is_ending, sleep = until_signal()
    keeper = Keeper(midnights, metrics, sleep=sleep, is_ending=is_ending)
    serve(keeper, settings.days.zone, lead_ms=midnights.lead_ms, margin_ms=midnights.margin_ms, wait=wait)


def add_daily_commands(app: typer.Typer) -> None:
    """Put them into the group `uic checkpoint`."""
    for name, command in (
        ("create", create_command),
        ("show", show_command),
        ("pin", pin_command),
        ("unpin", unpin_command),
        ("delete", delete_command),
        ("verify", verify_command),
        ("schedule", schedule_command),
    ):
        app.command(name)(command)


def _rows(catalogue: "Catalogue", entry: "Entry") -> list[tuple[str, object]]:
    cut = "not known before the day has begun" if entry.cut is None else _numbers(entry.cut)
    by_clock = f" (partitions {', '.join(map(str, entry.cut_by_clock))}: no event yet)" if entry.cut_by_clock else ""
    return [
        ("id", entry.id),
        ("day", f"{entry.day}, which begins at {_time(entry.begins_ms)} ({entry.zone})"),
        ("state", entry.state + (f": {entry.tainted}" if entry.tainted is not None else "")),
        ("pins", "; ".join(entry.pins) or "none"),
        ("offsets", f"{_numbers(entry.offsets)} of {entry.topic}"),
        ("cut", cut + by_clock),
        ("bundle", f"{entry.bundle}, version {entry.bundle_version}, lineage {entry.lineage}, layout {entry.layout}"),
        ("generation", entry.generation),
        ("memories", f"{entry.memories:,}"),
        ("size", f"{entry.bytes / 1e6:,.1f} MB in {len(entry.files)} files"),
        ("taken", f"{_time(entry.taken_ms)}, of job {entry.job_id} (run {entry.run})"),
        ("savepoint", catalogue.savepoint(entry)),
    ]


def _midnights(
    settings: "Settings",
    job_dir: Path | None,
    url: str | None,
    *,
    says: bool = False,
    progress: "Callable[[float], None]" = lambda _: None,
) -> "Midnights":
    from jobs.daily.opening import open_midnights

    def say(text: str) -> None:
        typer.echo(f"{datetime.now().astimezone().isoformat(timespec='seconds')}  {text}", err=True)

    return open_midnights(settings, job_dir, url=url, say=say if says else lambda _: None, progress=progress)


def _catalogue(settings: "Settings", job_dir: Path | None) -> "Catalogue":
    from jobs.daily.opening import open_catalogue

    return open_catalogue(settings, job_dir)


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise BadInput(f"--day: expected a day such as 2026-11-22, got {text!r}") from error


def _numbers(offsets: "Mapping[int, int]") -> str:
    return ", ".join(f"{partition}: {offset:,}" for partition, offset in offsets.items())


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000).astimezone().isoformat(sep=" ", timespec="seconds")
