"""`uic job list|status|stop|cancel`: the jobs on a Flink cluster."""

import json
import time
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from uic.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobs.cluster.rest import Cluster
    from jobs.cluster.status import Status
    from jobs.folder import JobFolder
    from jobs.settings import KafkaSettings

_JobDir = Annotated[Path | None, typer.Option(help="The job's folder; default: stream.job_dir of uic.yaml.")]
_Url = Annotated[str | None, typer.Option("--cluster", help="REST address of the JobManager; default: where it was submitted.")]
_Output = Annotated[Literal["text", "json"], typer.Option(help="For people or for programs.")]
_EVERY_S = 2.0


def list_command(
    ctx: typer.Context,
    cluster: Annotated[str | None, typer.Option(help="REST address of the JobManager; default: cluster.url.")] = None,
    output: _Output = "text",
) -> None:
    """List all jobs that the cluster remembers, the latest first.

    Example: uic job list --cluster http://localhost:8081
    """
    from rich.console import Console
    from rich.table import Table

    from jobs.cluster.rest import Cluster

    jobs = Cluster(cluster or ctx.obj.cluster.url).jobs()
    if output == "json":
        typer.echo(json.dumps([asdict(job) for job in jobs], indent=2))
        return
    table = Table("name")
    for name in ("id", "state", "since", "tasks"):
        table.add_column(name, no_wrap=True)
    for job in jobs:
        table.add_row(job.name, job.id, job.state, _time(job.changed_ms), f"{job.running_tasks} of {job.total_tasks}")
    Console(highlight=False, markup=False, soft_wrap=True).print(table if jobs else "no job on this cluster")


def status_command(
    ctx: typer.Context,
    job_dir: _JobDir = None,
    cluster: _Url = None,
    watch: Annotated[bool, typer.Option("--watch", help="Again every two seconds until Ctrl-C.")] = False,
    output: _Output = "text",
) -> None:
    """Tell how a submitted job is: state, restarts, last checkpoint, lag, rate, last failure.

    Exit code 0 where it runs and nothing is to be mended, 1 otherwise. Example: uic job status --job-dir job --watch
    """
    from rich.console import Console
    from rich.live import Live

    from jobs.cluster.status import status

    folder = _folder(ctx, job_dir)
    console = Console(highlight=False, soft_wrap=True)
    found = status(folder, ctx.obj.kafka, cluster)
    if watch and console.is_terminal and output == "text":
        from jobs.cluster.show import table

        with suppress(KeyboardInterrupt), Live(table(found), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(_EVERY_S)
                found = status(folder, ctx.obj.kafka, cluster)
                live.update(table(found), refresh=True)
    else:
        with suppress(KeyboardInterrupt):
            _print(found, output, console)
            while watch:
                time.sleep(_EVERY_S)
                found = status(folder, ctx.obj.kafka, cluster)
                _print(found, output, console)
    if not found.is_well:
        raise typer.Exit(1)


def stop_command(
    ctx: typer.Context,
    job_dir: _JobDir = None,
    cluster: _Url = None,
    caught_up: Annotated[
        bool, typer.Option("--caught-up", help="First wait until a checkpoint covers all that is in the events topic now.")
    ] = False,
    timeout_s: Annotated[float, typer.Option(min=1, help="How long the savepoint may take, and the wait before it.")] = 600,
) -> None:
    """Stop a submitted job in order, its whole state in a savepoint in its folder; prints where. `uic job resume` goes on.

    Example: uic job stop --job-dir job
    """
    from rich.console import Console

    folder = _folder(ctx, job_dir)
    with folder.locked(30, lambda text: typer.echo(text, err=True)):
        client, job_id, run = _alive(folder, cluster)
        with Console(stderr=True, highlight=False).status("stopping") as shown:
            if caught_up:
                _await_caught_up(ctx.obj.kafka, client, job_id, timeout_s, shown.update)
            path = client.stop(
                job_id,
                folder.checkpoints_of(run),
                format_type="CANONICAL",  # either backend can go on from it
                timeout_s=timeout_s,
                progress=lambda seconds: shown.update(f"stopping with a savepoint, {seconds:.0f} s"),
            )
    typer.echo(path)


def cancel_command(ctx: typer.Context, job_dir: _JobDir = None, cluster: _Url = None) -> None:
    """End a submitted job at once, without a savepoint. Its checkpoints stay: `uic job resume` goes on from the newest.

    Example: uic job cancel --job-dir job
    """
    folder = _folder(ctx, job_dir)
    with folder.locked(30, lambda text: typer.echo(text, err=True)):
        client, job_id, run = _alive(folder, cluster)
        client.cancel(job_id)
    kept = [path for path in folder.candidates() if folder.run_of(path) == run]
    for path in kept:
        typer.echo(f"kept: {path}")
    if not kept:
        typer.echo("no checkpoint of this run was completed before it was cancelled")


def _await_caught_up(
    kafka: "KafkaSettings", client: "Cluster", job_id: str, timeout_s: float, say: "Callable[[str], None]"
) -> None:
    """Wait until a completed checkpoint covers every event that is in the topic now; raises JobError where it does not come."""
    from jobs.cluster.lag import partitions

    goal = {number: each.end for number, each in partitions(kafka).items() if each.end > each.first}
    give_up_at = time.monotonic() + timeout_s
    while True:
        now = partitions(kafka)
        left = sum(max(0, end - (now[number].committed or now[number].first)) for number, end in goal.items())
        if left == 0:
            return
        if not client.is_alive(job_id):
            raise JobError(f"job {job_id} has ended with {left:,} events not applied; `uic job status` says why")
        if time.monotonic() > give_up_at:
            raise JobError(f"job {job_id}: after {timeout_s:.0f} s no checkpoint covers the last {left:,} events; it runs on")
        say(f"{left:,} events to go before it can stop")
        time.sleep(0.2)


def _folder(ctx: typer.Context, job_dir: Path | None) -> "JobFolder":
    from jobs.folder import JobFolder

    return JobFolder(job_dir or ctx.obj.stream.job_dir, make=False)


def _alive(folder: "JobFolder", url: str | None) -> tuple["Cluster", str, int]:
    """The cluster, the job's id and its run; raises JobError where the job has ended already."""
    from jobs.cluster.rest import Cluster
    from jobs.cluster.status import cluster_record

    record, on = cluster_record(folder)
    client = Cluster(url or on.url)
    job = client.job(on.job_id)
    if job.is_over:
        raise JobError(f"{client.url}: job {on.job_id} has ended already, it is {job.state} since {_time(job.since_ms)}")
    return client, on.job_id, record.run


def _print(found: "Status", output: str, console: "object") -> None:
    from jobs.cluster.show import table

    if output == "json":
        typer.echo(json.dumps(found.to_json()))
    else:
        console.print(table(found))  # type: ignore[attr-defined]  # rich's Console, loaded by the caller


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000).astimezone().isoformat(sep=" ", timespec="seconds")
