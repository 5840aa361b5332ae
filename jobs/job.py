"""`uic job run`: every event of a folder applied to its user's memory, by Flink embedded in this machine.

The job itself is unbounded. A bounded run is one that the launcher stops, with a savepoint, once everything is read: so that
`uic job run` with more files later goes on exactly where it was.
"""

from pathlib import Path
from typing import Annotated

import typer

from jobs.cluster.commands import cancel_command, list_command, status_command, stop_command
from jobs.job_settings import JobSettings
from jobs.launch import flink_options, launch
from jobs.settings import Settings
from jobs.submit_command import resume_command, submit_command

job_app = typer.Typer(help="The streaming job: events in, memories out.", no_args_is_help=True)


@job_app.callback()
def _job() -> None:
    """The streaming job: events in, memories out."""


job_app.command("submit")(submit_command)
job_app.command("resume")(resume_command)
job_app.command("list")(list_command)
job_app.command("status")(status_command)
job_app.command("stop")(stop_command)
job_app.command("cancel")(cancel_command)


@job_app.command("run")
def run_command(
    ctx: typer.Context,
    events: Annotated[Path, typer.Option(help="Folder of event files (*.jsonl), read in the order (file name, line).")],
    bundle: Annotated[Path, typer.Option(help="The exported model to apply.")],
    store: Annotated[Path | None, typer.Option(help="Publish memories here; default: store.path of uic.yaml.")] = None,
    job_dir: Annotated[
        Path | None, typer.Option(help="Checkpoints, letters and logs; run again to go on. Default: stream.job_dir.")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="Where Flink keeps state: hashmap (memory) or rocksdb (disk).")] = None,
    checkpoint_interval_s: Annotated[float | None, typer.Option(help="Seconds between two checkpoints.")] = None,
    lateness_s: Annotated[int | None, typer.Option(help="How much older than its user's last event an event may be.")] = None,
    accept_late: Annotated[bool, typer.Option("--accept-late", help="Apply late events too.")] = False,
    max_ahead_s: Annotated[int | None, typer.Option(help="How far ahead of the clock an event's time may be.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Keep waiting for new files and lines until Ctrl-C.")] = False,
    plan: Annotated[str | None, typer.Option(help="batched, per-event, or auto: batched where its jar is built.")] = None,
    keep_at: Annotated[Path | None, typer.Option(help="JSON lines of user_id and sequence: keep these memories too.")] = None,
    flink: Annotated[list[str] | None, typer.Option(help="One of Flink's own settings, key=value; may be repeated.")] = None,
) -> None:
    """Apply every event to its user's memory. Killed at any moment, it goes on from its last checkpoint when run again.

    Example: uic job run --events events --bundle bundles/first --store store --job-dir job
    """
    settings: Settings = ctx.obj
    stream = settings.stream
    job = JobSettings(
        events=events,
        bundle=bundle,
        store=store or settings.store.path,
        job_dir=job_dir or stream.job_dir,
        backend=backend or stream.backend,
        checkpoint_interval_s=stream.checkpoint_interval_s if checkpoint_interval_s is None else checkpoint_interval_s,
        lateness_s=stream.lateness_s if lateness_s is None else lateness_s,
        accept_late=accept_late,
        max_ahead_s=stream.max_ahead_s if max_ahead_s is None else max_ahead_s,
        watch=watch,
        keep_at=keep_at,
        plan=plan or stream.plan,
        jars=stream.jars,
        batch=stream.batch,
        batch_wait_ms=stream.batch_wait_ms,
        idle_after_s=stream.idle_after_s,
        zone=settings.days.zone,
        kept_days=settings.days.kept,
        numbers=settings.store.numbers,
        metrics_port=stream.metrics_port,
        metrics_host=stream.metrics_host,
        flink={**settings.flink, **flink_options(flink or [])},
    )
    raise typer.Exit(run_job(job))


def run_job(settings: JobSettings) -> int:
    """Run the job to its end; returns the exit code: 0, or 130 where a signal ended a bounded run before its end."""
    summary = launch(settings)
    typer.echo(summary.text())
    return 0 if settings.watch or summary.is_complete else 130
