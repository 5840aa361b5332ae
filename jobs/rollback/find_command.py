"""The command `uic rollback find`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uic.errors import UicError

if TYPE_CHECKING:
    from jobs.rollback.find import Found


def find_command(
    ctx: typer.Context,
    samples: Annotated[Path, typer.Option(help="Labelled samples: a samples.parquet, or a dataset with one.")],
    bundle: Annotated[Path, typer.Option(help="The model that scores them; the one the memories were made with.")],
    store: Annotated[Path | None, typer.Option(help="The online store; default: store.path.")] = None,
    least: Annotated[float, typer.Option(min=0, help="The AUC must have fallen by so much.")] = 0.005,
    sources: Annotated[
        bool, typer.Option("--sources/--no-sources", help="Also read the events topic: the share of each source, day by day.")
    ] = True,
    out: Annotated[Path, typer.Option(help="Folder for found.json and found.png.")] = Path("rollback-find"),
) -> None:
    """Score labelled samples from the memories as of each kept day and now; name the first day that broke something, if any.

    A day broke something where the AUC after it is lower than before it in all but a share of 0.05 / days of 2,000 draws of
    users, and by --least at least. Exit code 0 either way. Example: uic rollback find --samples data/ml100k --bundle
    bundles/first
    """
    from jobs.rollback.find import find, read_samples, source_shares, write
    from jobs.score import open_pair
    from uic.clock import Days

    settings = ctx.obj
    opened, memories = open_pair(bundle, store or settings.store.path)
    try:
        table = read_samples(samples, opened)
        shares = {}
        if sources:
            try:
                shares = source_shares(settings.kafka, opened, Days(settings.days.zone), 1000 * settings.stream.max_ahead_s)
            except UicError as error:
                typer.echo(f"the share of each source is not known: {error}", err=True)
        found = find(table, opened, memories, least=least, sources=shares)
    finally:
        memories.close()
    _print(found)
    for path in write(found, out):
        typer.echo(f"written    {path}")


def _print(found: "Found") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in ("as of", "AUC", "95 %", "users", "events", "slots", "norm", "change"):
        table.add_column(name, no_wrap=True)
    table.add_column("sources of the day before")
    for place in found.places:
        auc = place.auc
        shares = ", ".join(f"{source} {share:.0%}" for source, share in list(place.sources.items())[:3])
        table.add_row(
            place.day, f"{auc.auc:.4f}", f"{auc.low:.3f}-{auc.high:.3f}", f"{place.users:,}", f"{place.events:,}",
            f"{place.effective:.2f}", f"{place.norm:.3f}", f"{place.update:.3f}", shares,
        )  # fmt: skip
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(table)
    console.print(f"{found.samples:,} samples, each scored from the memories of every day; of their users:")
    console.print(
        "slots: over how many writes spread, norm: of a slot, change: of the state by each event since the day before"
    )
    if found.broken is None:
        console.print("nothing broke: on no day did the AUC fall by more than chance would have it")
    else:
        step = next(step for step in found.steps if step.is_break)
        console.print(
            f"{found.broken}: something broke on this day, the AUC changed by {step.change:+.4f} (at most "
            f"{step.at_most:+.4f}); `uic rollback --to {found.broken}` goes back to its begin"
        )
    if (shift := found.shift) is not None:
        console.print(
            f"{shift.day}: {shift.source} has {shift.after:.0%} of the day's events, {shift.before:.0%} of the day before's; "
            "`uic rollback --drop-source` leaves a source out"
        )
