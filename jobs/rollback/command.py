"""`uic rollback`: back to the memories of an earlier day, and on from there without what spoiled them."""

import time
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.rollback.find_command import find_command
from uic.errors import BadInput

if TYPE_CHECKING:
    from jobs.rollback.proof import Report
    from jobs.rollback.run import Outlook
    from jobs.settings import Settings

rollback_app = typer.Typer()
rollback_app.command("find")(find_command)
_SHOW_EVERY_S = 5.0


@rollback_app.callback(invoke_without_command=True)
def rollback_command(
    ctx: typer.Context,
    to: Annotated[str | None, typer.Option(metavar="DAY", help="The day at whose begin the memories were good.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="The model to go on with; default: the job's.")] = None,
    drop_users: Annotated[Path | None, typer.Option(help="File of users, one a line, whose events are left out.")] = None,
    drop_between: Annotated[
        tuple[str, str] | None, typer.Option(metavar="A B", help="Leave out what the log took in from A to before B.")
    ] = None,
    drop_source: Annotated[list[str] | None, typer.Option(help="Leave out events of this source; may be repeated.")] = None,
    drop_items: Annotated[Path | None, typer.Option(help="File of item ids, one a line, whose events are left out.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print the plan, change nothing.")] = False,
    job_dir: Annotated[Path | None, typer.Option(help="The job's folder; default: stream.job_dir of uic.yaml.")] = None,
    store: Annotated[
        list[Path] | None, typer.Option(help="An online store that follows; may be repeated. Default: store.path.")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(help="REST address of the JobManager; default: where it was submitted.")
    ] = None,
    wheel: Annotated[Path | None, typer.Option(help="This project as a wheel; default: built from the checkout.")] = None,
    sample: Annotated[int, typer.Option(min=0, help="How many users to verify in the end.")] = 100,
    patience_s: Annotated[float, typer.Option(min=1, help="For how long nothing may move before it gives up.")] = 600,
) -> None:
    """Go back to the memories as of the begin of DAY: stop the job, show that day to all readers at once, start again from it.

    The job then applies the log again, from DAY on without what the --drop options name (dead letters, reason quarantined_...).
    Killed at any point, the same command goes on where it was. The state that is left behind is kept in the job's folder. Exit
    code 1 where a memory is not what it must be in the end.

    Example: uic rollback --to 2026-11-22 --drop-users farm.txt --dry-run
    """
    if ctx.invoked_subcommand is not None:
        return
    if to is None:
        raise BadInput("uic rollback: expected --to DAY, such as --to 2026-11-22; `uic rollback --help` tells the rest")
    from jobs.journals import Waiting
    from jobs.rollback.plan import Asked
    from jobs.rollback.run import Run

    settings: Settings = ctx.obj
    words = ["--to", to]
    for name, value in (("--bundle", bundle), ("--drop-users", drop_users), ("--drop-items", drop_items)):
        words += [] if value is None else [name, str(value)]
    words += ["--drop-between", *drop_between] if drop_between is not None else []
    for source in drop_source or []:
        words += ["--drop-source", source]
    words += [] if job_dir is None else ["--job-dir", str(job_dir)]
    for path in store or []:
        words += ["--store", str(path)]
    asked = Asked(
        words=tuple(words),
        day=_day(to),
        bundle=bundle,
        users=frozenset() if drop_users is None else frozenset(_lines("--drop-users", drop_users)),
        items=frozenset() if drop_items is None else frozenset(_items(drop_items)),
        sources=frozenset(drop_source or []),
        between_ms=() if drop_between is None else (_span(*drop_between),),
    )
    shown = _Shown()
    run = Run(
        settings,
        asked,
        job_dir=job_dir or settings.stream.job_dir,
        stores=store or [settings.store.path],
        url=cluster,
        wheel=wheel,
        waiting=Waiting(patience_s=patience_s, say=shown.say, show=shown.show),
    )
    if dry_run:
        _print_outlook(run.explain())
        return
    with run.folder.locked():
        report = run.roll_back(sample)
    _print_report(report)
    if not report.holds:
        raise typer.Exit(1)


class _Shown:
    """Lines on standard error: those that stay, and now and then how far a wait is."""

    def __init__(self) -> None:
        self._next = 0.0

    def say(self, text: str) -> None:
        typer.echo(f"{datetime.now().astimezone().isoformat(timespec='seconds')}  {text}", err=True)

    def show(self, text: str) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _SHOW_EVERY_S
            self.say(f"          {text}")


def _print_outlook(outlook: "Outlook") -> None:
    plan, rules = outlook.plan, outlook.quarantine
    counts = {"users": rules.users, "items": rules.items, "sources": rules.sources, "spans of time": rules.between_ms}
    left_out = [f"{len(found):,} {what}" for what, found in counts.items() if found]
    left_out += [] if rules.before is None else ["what earlier rollbacks left out"]
    rows = [
        ("to", f"{plan.day}, which began at {_time(plan.cut_ms)} ({plan.zone})"),
        ("from", f"daily checkpoint {plan.entry}, {plan.savepoint}"),
        ("again", f"{plan.silent:,} events silently up to the cut, then {outlook.replayed:,}"),
        ("left out", ", ".join(left_out) or "nothing"),
        ("bundle", plan.bundle),
        ("generation", str(plan.generation)),
        ("tainted", f"{outlook.tainted:,} later daily checkpoints"),
    ]
    rows += [("store", f"{path}, {lag:,} snapshots behind") for path, lag in zip(plan.stores, outlook.behind, strict=True)]
    for name, value in rows:
        typer.echo(f"{name:<10} {value}")
    typer.echo("nothing was changed; without --dry-run this is carried out")


def _print_report(report: "Report") -> None:
    left = ", ".join(f"{count:,} {reason}" for reason, count in sorted(report.left.items())) or "none"
    rows = [
        ("day", f"{report.day}, generation {report.generation}, from daily checkpoint {report.entry}"),
        ("before it", f"{report.silent:,} events applied again silently"),
        ("from it on", f"{report.replayed:,} events read again, {report.applied:,} applied or duplicates"),
        ("left out", left),
        ("absent", f"{report.absent:,} users, until they are seen again"),
        ("verified", f"{report.verified:,} users, folded offline: {len(report.differing):,} differ, {report.tied:,} tied"),
        ("undecided", f"{len(report.undecided):,} users, of whom nothing can be said"),
        ("evidence", report.evidence or "none: the job made no savepoint"),
        ("fresh", f"daily checkpoint {report.fresh}"),
    ]
    for name, value in rows:
        typer.echo(f"{name:<10} {value}")
    if report.unverified is not None:
        typer.echo(f"unverified {report.unverified}")
    for user, why in [*report.differing.items(), *report.undecided.items()][:20]:
        typer.echo(f"  user {user!r}: {why}")


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise BadInput(f"--to: expected a day such as 2026-11-22, got {text!r}") from error


def _lines(option: str, path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{option} {path}: cannot be read: {error}") from error


def _items(path: Path) -> list[int]:
    found = []
    for number, line in enumerate(_lines("--drop-items", path), 1):
        try:
            found.append(int(line))
        except ValueError as error:
            raise BadInput(f"--drop-items {path}:{number}: expected an item id, got {line[:40]!r}") from error
    return found


def _span(start: str, end: str) -> tuple[int, int]:
    times = []
    for text in (start, end):
        try:
            when = datetime.fromisoformat(text)
        except ValueError:
            when = None
        if when is None or when.tzinfo is None:
            raise BadInput(f"--drop-between: expected two times with their zone (2026-11-22T10:00:00+08:00), got {text!r}")
        times.append(int(when.timestamp() * 1000))
    if times[0] >= times[1]:
        raise BadInput(f"--drop-between: expected the first time before the second, got {start} and {end}")
    return times[0], times[1]


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000).astimezone().isoformat(sep=" ", timespec="seconds")
