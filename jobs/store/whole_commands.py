"""`uic store stats|copy|export|import`: all of an online store counted, or moved to another place."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uic.errors import BadInput
from uic.memory import Numbers

if TYPE_CHECKING:
    from jobs.settings import Settings
    from uic.small import Shrink

_Store = Annotated[Path | None, typer.Option(help="A folder or a redis:// URL; default: store.path of uic.yaml.")]
_Numbers = Annotated[
    Numbers | None, typer.Option(help="Make memories so small on the way: float16 or int8; default: they stay as they are.")
]
_Bundle = Annotated[Path | None, typer.Option(help="With --numbers: the bundle that they were made with.")]


def stats_command(ctx: typer.Context, store: _Store = None) -> None:
    """Count what a store holds: users, bytes of a memory, daily copies apart, and what Redis adds to them.

    Example: uic store stats --store redis://localhost:6379/0
    """
    from rich.console import Console

    from jobs.store.stats import read_stats

    settings: Settings = ctx.obj
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for line in read_stats(store or settings.store.path).lines():
        console.print(line)


def copy_command(
    ctx: typer.Context,
    to: Annotated[Path, typer.Option(help="A store that nobody writes yet, or none: a folder or a redis:// URL.")],
    store: _Store = None,
    numbers: _Numbers = None,
    bundle: _Bundle = None,
) -> None:
    """Copy all of a store to another place, from RocksDB to Redis or back: memories, daily copies, generations.

    The store may be written meanwhile: `uic store follow` into the copy goes on where the copy began. Stopped, run it again.
    What is small stays so: a copy in float32 of memories in int8 is refused.

    Example: uic store copy --store store --to redis://localhost:6379/0 --numbers int8 --bundle bundles/first
    """
    from jobs.store.copy import copy

    settings: Settings = ctx.obj
    typer.echo(f"copied {copy(store or settings.store.path, to, settings.days, _shrink(numbers, bundle)).words()}")


def export_command(
    ctx: typer.Context,
    to: Annotated[Path, typer.Option(help="The file; uic/store/dump.py says what is in it.")],
    store: _Store = None,
    numbers: _Numbers = None,
    bundle: _Bundle = None,
) -> None:
    """Write all of a store into one file.

    Example: uic store export --store store --to memories.uic
    """
    from jobs.store.copy import export

    settings: Settings = ctx.obj
    typer.echo(f"exported {export(store or settings.store.path, to, _shrink(numbers, bundle)).words()}")


def import_command(
    ctx: typer.Context,
    file: Annotated[Path, typer.Option("--from", help="What `uic store export` wrote.")],
    store: _Store = None,
    numbers: _Numbers = None,
    bundle: _Bundle = None,
) -> None:
    """Read such a file into a store that nobody writes yet. A file that was cut off or changed is refused where it is so.

    Example: uic store import --from memories.uic --store redis://localhost:6379/0
    """
    from jobs.store.copy import import_

    settings: Settings = ctx.obj
    done = import_(file, store or settings.store.path, settings.days, _shrink(numbers, bundle))
    typer.echo(f"imported {done.words()}")


def _shrink(numbers: Numbers | None, bundle: Path | None) -> "Shrink | None":
    from uic.bundle import Bundle
    from uic.small import Shrink

    if numbers is None:
        return None
    if bundle is None and numbers != "float32":
        raise BadInput(f"--numbers {numbers}: expected the bundle that the memories were made with (--bundle), got none")
    return Shrink(numbers, None if bundle is None else Bundle.open(bundle).layout)
