"""`uic doctor`: everything that the stream stands on, one line each, with how to mend it."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from jobs.doctor.finding import Finding
from jobs.settings import Settings
from uic.errors import BadInput

AREAS = ("java", "packages", "jars", "disk", "bundle", "job", "store", "cluster", "kafka", "topics", "partitioner")
Area = Literal["all", "java", "packages", "jars", "disk", "bundle", "job", "store", "cluster", "kafka", "topics", "partitioner"]
_COLOURS = {"ok": "green", "absent": "dim", "warning": "yellow", "problem": "red"}


def doctor_command(
    ctx: typer.Context,
    bundle: Annotated[
        Path | None, typer.Option(help="The bundle to use; default: the one that the job was started with.")
    ] = None,
    job_dir: Annotated[Path | None, typer.Option(help="The job's folder; default: stream.job_dir.")] = None,
    store: Annotated[Path | None, typer.Option(help="The online store; default: store.path.")] = None,
    cluster: Annotated[str | None, typer.Option(help="REST address of the JobManager; default: cluster.url.")] = None,
    sample: Annotated[int, typer.Option(min=1, help="So many of the latest events are asked where they lie.")] = 1000,
    require: Annotated[
        list[str] | None, typer.Option(help="What must be there: its absence is a problem then; may be repeated, or all.")
    ] = None,
    output: Annotated[Literal["text", "json"], typer.Option(help="For people or for programs.")] = "text",
) -> None:
    """Check Java, packages, jars, disk, bundle, job folder, store, cluster, Kafka, topics, partitioner; say how to mend each.

    What is not there is told and is no problem, unless --require asks for it. Nothing is made or changed. Exit code 1 where
    there is a problem. Example: uic doctor --bundle bundles/first --require cluster --require kafka
    """
    settings: Settings = ctx.obj
    stream = settings.stream.model_copy(update={} if job_dir is None else {"job_dir": job_dir})
    changed = {
        "stream": stream,
        "store": settings.store if store is None else settings.store.model_copy(update={"path": store}),
        "cluster": settings.cluster if cluster is None else settings.cluster.model_copy(update={"url": cluster}),
    }
    required = set(AREAS) if "all" in (require or []) else set(require or [])
    if unknown := required - set(AREAS):
        raise BadInput(f"--require {', '.join(sorted(unknown))}: expected all or some of {', '.join(AREAS)}")
    if required & {"topics", "partitioner"}:
        required.add("kafka")
    findings = []
    show = _say if output == "text" else lambda _: None
    for finding in examine(settings.model_copy(update=changed), bundle, sample=sample):
        if finding.level == "absent" and finding.area in required:
            finding = finding._replace(level="problem")
        findings.append(finding)
        show(finding)
    if output == "json":
        typer.echo(json.dumps([finding._asdict() for finding in findings], indent=2))
    if any(finding.level == "problem" for finding in findings):
        raise typer.Exit(1)


def examine(settings: Settings, bundle: Path | None, *, sample: int) -> Iterator[Finding]:
    """Every check in turn, from what is nearest to what is farthest."""
    from jobs.doctor import artefacts, machine
    from jobs.doctor.cluster import check_cluster
    from jobs.doctor.kafka import check_kafka

    yield from machine.check_java(dict(os.environ))
    yield from machine.check_packages()
    yield from machine.check_jars(settings.stream.jars)
    yield from machine.check_disk(settings.stream.job_dir)
    folder, record, finding = artefacts.read_record(settings.stream.job_dir)
    opened, of_bundle = artefacts.open_bundle(bundle or (None if record is None else Path(record.bundle)))
    yield of_bundle
    yield finding
    if folder is not None and record is not None:
        yield from artefacts.check_state(folder, record, opened)
    yield from artefacts.check_store(settings.store.path, opened)
    on = None if record is None else record.cluster
    yield from check_cluster(settings.cluster.url, settings.stream.parallelism, on)
    yield from check_kafka(settings.kafka, sample, on)


def _say(finding: Finding) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    mend = f"\n{'':21}mend: {finding.mend}" if finding.mend else ""
    text = Text.assemble((f"{finding.level:<9}", _COLOURS[finding.level]), f"{finding.area:<12}{finding.what}{mend}")
    console.print(text)
