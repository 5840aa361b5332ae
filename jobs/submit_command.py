"""The commands `uic job submit` and `uic job resume`."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.launch import flink_options
from jobs.record import JobRecord
from jobs.settings import Settings
from uic.errors import BadInput

_Bundle = Annotated[Path, typer.Option(help="The exported model to apply; the workers read it at this path.")]
_JobDir = Annotated[
    Path | None,
    typer.Option(help="Checkpoints and the job's record, on a disk that the workers share. Default: stream.job_dir."),
]
_Cluster = Annotated[str | None, typer.Option(help="REST address of the JobManager; default: cluster.url.")]
_Name = Annotated[str, typer.Option(help="The job's name on the cluster.")]
_Plan = Annotated[str | None, typer.Option(help="batched, per-event, or auto; both go on from each other's state.")]
_Parallelism = Annotated[int | None, typer.Option(help="Slots to take; default: stream.parallelism.")]
_Backend = Annotated[str | None, typer.Option(help="Where Flink keeps state: hashmap (memory) or rocksdb (disk).")]
_Interval = Annotated[float | None, typer.Option(help="Seconds between two checkpoints.")]
_Wheel = Annotated[Path | None, typer.Option(help="This project as a wheel; default: built from the checkout.")]
_Restore = Annotated[
    Path | None, typer.Option(help="A savepoint to begin with, such as the one of `uic warm-up`; the job folder must be new.")
]
_AcceptLate = Annotated[bool, typer.Option("--accept-late", help="Apply late events too.")]
_Flink = Annotated[list[str] | None, typer.Option(help="One of Flink's own settings, key=value; may be repeated.")]


def submit_command(
    ctx: typer.Context,
    bundle: _Bundle,
    job_dir: _JobDir = None,
    cluster: _Cluster = None,
    name: _Name = "uic",
    plan: _Plan = None,
    parallelism: _Parallelism = None,
    backend: _Backend = None,
    checkpoint_interval_s: _Interval = None,
    wheel: _Wheel = None,
    restore: _Restore = None,
    accept_late: _AcceptLate = False,
    flink: _Flink = None,
) -> None:
    """Start the job on a Flink cluster: events from Kafka, memories and letters to Kafka. Where to begin: kafka.start.

    Everything is checked first: bundle, jars, cluster, topics. Example: uic job submit --bundle bundles/first --cluster
    http://localhost:8081
    """
    _say(_run(ctx.obj, locals(), resumes=False))


def resume_command(
    ctx: typer.Context,
    bundle: _Bundle,
    job_dir: _JobDir = None,
    cluster: _Cluster = None,
    name: _Name = "uic",
    plan: _Plan = None,
    parallelism: _Parallelism = None,
    backend: _Backend = None,
    checkpoint_interval_s: _Interval = None,
    wheel: _Wheel = None,
    accept_late: _AcceptLate = False,
    flink: _Flink = None,
) -> None:
    """Start the job again from its newest intact checkpoint or savepoint, also after its cluster has died.

    Checkpoints that are incomplete, condemned by the job, or hold a memory with a wrong CRC are passed over, with the reason.
    Another --parallelism or --plan is fine; another --backend only from a savepoint. Example: uic job resume --bundle
    bundles/first
    """
    _say(_run(ctx.obj, locals(), resumes=True))


def _run(settings: Settings, options: dict[str, object], *, resumes: bool) -> JobRecord:
    from jobs.submit import Submission, submit

    stream = settings.stream
    options = {name: value for name, value in options.items() if name != "ctx"}
    flink = {**settings.flink, **flink_options(options.pop("flink") or [])}  # type: ignore[arg-type]  # typer's list of texts
    url = options.pop("cluster") or settings.cluster.url
    defaults = {
        "job_dir": stream.job_dir,
        "plan": stream.plan,
        "parallelism": stream.parallelism,
        "backend": stream.backend,
        "checkpoint_interval_s": stream.checkpoint_interval_s,
    }
    filled = {name: defaults.get(name) if value is None else value for name, value in options.items()}
    if filled["backend"] not in ("hashmap", "rocksdb"):
        raise BadInput(f"backend: expected hashmap or rocksdb, got {filled['backend']}")
    return submit(settings, Submission(url=url, flink=flink, **filled), resumes=resumes)  # type: ignore[arg-type]  # by name


def _say(record: JobRecord) -> None:
    assert record.cluster is not None
    typer.echo(f"job {record.cluster.job_id} runs on {record.cluster.url}; `uic job status` watches it")
