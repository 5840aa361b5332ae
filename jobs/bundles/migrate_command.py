"""The command `uic bundle migrate`: from one memory space to another, the old one serving until the switch."""

import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uic.errors import BadInput
from uic.store.place import words

if TYPE_CHECKING:
    from jobs.bundles.migration import Journal, Plan
    from jobs.daily.cut import EventLog
    from jobs.settings import Settings

_SHOW_EVERY_S = 5.0


def migrate_command(
    ctx: typer.Context,
    version: Annotated[int, typer.Argument(help="The bundle to go over to, as `uic bundle list` shows it.")],
    history: Annotated[
        str | None, typer.Option(help="Recorded events up to T: file, folder or pattern, JSONL or Parquet.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, help="How far back from T the history goes.")] = 120,
    until: Annotated[
        str | None, typer.Option(help="The hand-over T, a time with its zone; default: when today began in days.zone.")
    ] = None,
    overlap_s: Annotated[int, typer.Option(min=0, help="How long before T the second job begins to read the topic.")] = 3600,
    into: Annotated[
        Path | None, typer.Option(help="Folder for the second job, its store and settings; default: <job dir>-<version>.")
    ] = None,
    job_dir: Annotated[Path | None, typer.Option(help="The job's folder; default: stream.job_dir of uic.yaml.")] = None,
    store: Annotated[Path | None, typer.Option(help="The store that readers read; default: store.path.")] = None,
    cluster: Annotated[str | None, typer.Option(help="REST address of the JobManager; default: where the job runs.")] = None,
    wheel: Annotated[Path | None, typer.Option(help="This project as a wheel; default: built from the checkout.")] = None,
    sample: Annotated[int, typer.Option(min=1, help="How many users to verify.")] = 100,
    patience_s: Annotated[float, typer.Option(min=1, help="For how long nothing may move before it ends.")] = 600,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print the plan, change nothing.")] = False,
    give_up: Annotated[bool, typer.Option("--give-up", help="The way back, before the switch: end the second job.")] = False,
) -> None:
    """Go over to a bundle of another layout or lineage: a second job beside the first, and readers switched when it is right.

    Warm-up with the new bundle into a store and a savepoint of its own, a second job from there, verification of a sample of
    users against an offline fold, switch of all readers (running `uic serve` too) in one moment, the old job retired. Killed at
    any point, the same command goes on where it was. The second store wants a follower: the command to start is printed.

    Example: uic bundle migrate 1763800000000 --history history/ --dry-run
    """
    from jobs.bundles.migrate import Migration
    from jobs.bundles.migration import Journal, Migrations
    from jobs.bundles.migration_plan import Asked, make_plan
    from jobs.bundles.migration_proof import Proof, prove
    from jobs.daily.cut import KafkaLog
    from jobs.folder import JobFolder
    from jobs.journals import Waiting

    settings: Settings = ctx.obj
    folder = JobFolder(job_dir or settings.stream.job_dir, make=False)
    migrations, shown, log = Migrations(folder.path), _Shown(), KafkaLog(settings.kafka)
    begun = migrations.unfinished()
    if begun is not None and (begun.plan.version != version or dry_run):
        raise BadInput(_unfinished(begun))
    if begun is None and give_up:
        raise BadInput(f"{folder.path}: no migration to bundle {version} is under way")
    asked = Asked(
        version=version, history=history, days=days, until=until, overlap_s=overlap_s, into=into, job_dir=job_dir, store=store
    )
    if begun is None and dry_run:
        _print_plan(make_plan(asked, settings, log), log)
        return

    def proved(journal: Journal, second: "Settings", goal: Mapping[int, int]) -> Proof:
        return prove(journal, second, goal, job_dir=folder.path, most=sample)

    with migrations.locked():
        if begun is None:
            begun = Journal(plan=make_plan(asked, settings, log))
            migrations.write(begun)
        elif not give_up:
            shown.say(f"going on with the migration to bundle {version}; done: {', '.join(begun.done) or 'nothing yet'}")
        migration = Migration(
            begun,
            settings,
            job_dir=folder.path,
            log=log,
            prove=proved,
            waiting=Waiting(patience_s=patience_s, say=shown.say, show=shown.show),
            progress=shown,
            url=cluster,
            wheel=wheel,
        )
        if give_up:
            migration.give_up()
            typer.echo(
                "given up: the second job has ended, readers stay where they are. Stop the follower of "
                f"{words(begun.plan.new_store)}, then {begun.plan.into} and the second job's topics may be removed"
            )
            return
        migration.run()
    plan = begun.plan
    typer.echo(f"bundle {plan.version} has taken over. From now on the settings are those of {plan.config}: put them in the")
    typer.echo(f"place of yours, and set --bundle of readers to {plan.bundle}. Readers that still")
    typer.echo(
        f"open {words(Path(plan.store))} are sent on; its follower may be stopped, and it be removed when nobody opens it."
    )


def _unfinished(journal: "Journal") -> str:
    done = ", ".join(journal.done) or "nothing yet"
    return (
        f"a migration to bundle {journal.plan.version} is unfinished (done: {done}): `{journal.plan.command}` goes on with it, "
        "with --give-up it is given up"
    )


def _print_plan(plan: "Plan", log: "EventLog") -> None:
    from jobs.bundles.migration_plan import when
    from jobs.warm_up import inputs
    from uic.promotion import migration_plan

    tasks = inputs.cut(inputs.find(plan.history))
    live = sum(reach.end - plan.begins[each] for each, reach in log.reach().items())
    rows = [
        ("bundle", f"{plan.from_version} to {plan.version}"),
        ("hand-over", f"{when(plan.until_ms)}; the topic is read from {when(plan.start_ms)} on, {live:,} events up to now"),
        ("history", f"{plan.history}, about {sum(task.events for task in tasks):,} events, {plan.days} days"),
        ("into", plan.into),
        ("store", f"{plan.store} to {plan.new_store}"),
        ("generation", str(plan.generation)),
    ]
    for name, value in rows:
        typer.echo(f"{name:<10} {value}")
    for line in migration_plan(plan.from_version, plan.version):
        typer.echo(line)
    typer.echo("nothing was changed; without --dry-run this is carried out")


class _Shown:
    """Lines on standard error: those that stay, and now and then how far something is."""

    def __init__(self) -> None:
        self._next = 0.0
        self._what, self._total, self._done = "", 0, 0

    def say(self, text: str) -> None:
        typer.echo(f"{datetime.now().astimezone().isoformat(timespec='seconds')}  {text}", err=True)

    def show(self, text: str) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _SHOW_EVERY_S
            self.say(f"          {text}")

    def begin(self, what: str, total: int, done: int) -> None:
        self._what, self._total, self._done = what, total, done

    def advance(self, count: int) -> None:
        self._done += count
        self.show(f"{self._what}: {self._done:,} of {self._total:,}")
