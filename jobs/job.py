"""`uic job run`: every event of a folder applied to its user's memory, by Flink embedded in this machine.

The job itself is unbounded. A bounded run is one that the launcher stops, with a savepoint, once everything is read: so that
`uic job run` with more files later goes on exactly where it was.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from jobs.job_settings import JobSettings
from jobs.launch import flink_options, launch
from uic.errors import UicError

job_app = typer.Typer(help="The streaming job: events in, memories out.", no_args_is_help=True)


@job_app.callback()
def _job() -> None:
    """The streaming job: events in, memories out."""


@job_app.command("run")
def run_command(
    events: Annotated[Path, typer.Option(help="Folder of event files (*.jsonl), read in the order (file name, line).")],
    bundle: Annotated[Path, typer.Option(help="The exported model to apply.")],
    store: Annotated[Path, typer.Option(help="The online store to publish memories to.")],
    job_dir: Annotated[Path, typer.Option(help="Where the job keeps checkpoints, letters and logs; run again to go on.")],
    backend: Annotated[str, typer.Option(help="Where Flink keeps state: hashmap (memory) or rocksdb (disk).")] = "hashmap",
    checkpoint_interval_s: Annotated[float, typer.Option(help="Seconds between two checkpoints.")] = 3.0,
    lateness_s: Annotated[int, typer.Option(help="How much older than its user's last event an event may be.")] = 86_400,
    accept_late: Annotated[bool, typer.Option(help="Apply late events too.")] = False,
    max_ahead_s: Annotated[int, typer.Option(help="How far ahead of the clock an event's time may be.")] = 86_400,
    watch: Annotated[bool, typer.Option(help="Keep waiting for new files and lines until Ctrl-C.")] = False,
    keep_at: Annotated[Path | None, typer.Option(help="JSON lines of user_id and sequence: keep these memories too.")] = None,
    flink: Annotated[list[str] | None, typer.Option(help="One of Flink's own settings, key=value; may be repeated.")] = None,
) -> None:
    """Apply every event to its user's memory. Killed at any moment, it goes on from its last checkpoint when run again."""
    settings = JobSettings(
        events=events,
        bundle=bundle,
        store=store,
        job_dir=job_dir,
        backend=backend,
        checkpoint_interval_s=checkpoint_interval_s,
        lateness_s=lateness_s,
        accept_late=accept_late,
        max_ahead_s=max_ahead_s,
        watch=watch,
        keep_at=keep_at,
        flink=flink_options(flink or []),
    )
    raise typer.Exit(run_job(settings))


def run_job(settings: JobSettings) -> int:
    """Run the job to its end; returns the exit code: 0, or 130 where a signal ended a bounded run before its end."""
    summary = launch(settings)
    typer.echo(summary.text())
    return 0 if settings.watch or summary.is_complete else 130


def main() -> None:
    """`python -m jobs.job run ...`: the job alone, without the rest of the command line."""
    try:
        job_app()
    except UicError as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
