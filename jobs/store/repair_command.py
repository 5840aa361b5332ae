"""`uic store repair`: a store that lost writes, or everything, equal to its job's state again."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uic.errors import BadInput

if TYPE_CHECKING:
    from jobs.record import JobRecord
    from jobs.settings import Settings


def repair_command(
    ctx: typer.Context,
    bundle: Annotated[Path, typer.Option(help="The bundle that the job uses: it says which memories fit.")],
    store: Annotated[Path | None, typer.Option(help="A folder or a redis:// URL; default: store.path of uic.yaml.")] = None,
    savepoint: Annotated[
        Path | None, typer.Option(help="Repair from this savepoint of the running job instead of from the topic.")
    ] = None,
    job_dir: Annotated[
        Path | None, typer.Option(help="The job's folder, which knows its rollbacks; default: stream.job_dir.")
    ] = None,
) -> None:
    """Bring back what a store has lost, while its job and its followers go on. What is newer in the store stays.

    From the snapshots topic; or, for a job that began with a warm-up or where deletions may be lost too, from a savepoint of
    the running job, which `uic checkpoint create` takes. Of daily copies, what the topic still has comes back.

    Example: uic store repair --bundle bundles/first --store redis://localhost:6379/0
    """
    from contextlib import closing

    from jobs.checkpoints import form_of
    from jobs.store import repair
    from jobs.store.begin import generations_of
    from jobs.store.command import open_stores
    from jobs.store.showing import counting
    from jobs.store.topic import opened
    from uic.bundle import Bundle
    from uic.small import Shrink
    from uic.store.place import words
    from uic.store.sharded import open_to_write

    settings: Settings = ctx.obj
    path = store or settings.store.path
    model = Bundle.open(bundle)
    folder = job_dir or settings.stream.job_dir
    days = settings.days
    shrink = Shrink(settings.store.numbers, model.layout)
    with closing(open_to_write(path, model.identity, zone=days.zone, kept=days.kept, shrink=shrink)) as whole:
        if savepoint is not None:
            repair.check_time(savepoint, getattr(whole, "lost_ms", None))
        known = generations_of(folder)
        if len(known.cuts) > len(whole.lineage.cuts):
            whole.adopt(known)
        broken = repair.remove_broken(whole)
        if savepoint is not None:
            form = form_of(bundle)
            if form is None:
                raise BadInput(f"{bundle}: its initial memory cannot be read")
            record = _record(folder)
            cluster = None if record is None else record.cluster
            done = repair.from_savepoint(whole, savepoint, form, partitions=None if cluster is None else cluster.partitions)
    if savepoint is None:
        with opened(settings.kafka) as topic:
            partitions = topic.source().partitions
            stores = open_stores(path, model, partitions, shards=None, shard=None, days=days, numbers=settings.store.numbers)
            try:
                with counting("snapshots") as show:
                    done = repair.from_topic(stores, topic, model.codec, show)
            finally:
                for each in stores:
                    each.close()
    done.broken = broken
    with closing(open_to_write(path, model.identity, zone=days.zone, kept=days.kept)) as whole:
        if hasattr(whole, "note_repair"):
            whole.note_repair()
    typer.echo(f"{words(path)}: {done.words()}")


def _record(folder: Path) -> "JobRecord | None":
    from jobs.folder import JobFolder

    return JobFolder(folder, make=False).record() if folder.exists() else None
