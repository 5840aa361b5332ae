"""`uic golden check`: the official preset against vectors of the authors' code."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

golden_app = typer.Typer(help="Golden vectors of the authors' code.", no_args_is_help=True)


@golden_app.callback()
def _golden() -> None:
    """Golden vectors of the authors' code."""


@golden_app.command("check")
def check_command(
    files: Annotated[list[Path], typer.Argument(help="Golden files (.npz): cells and whole models, any sizes and ablation.")],
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="One line a file.")] = False,
) -> None:
    """Compute everything that golden files hold and print the worst difference per tensor, losses and gradients included.

    Ends with exit code 1 if any is above 1e-5. Example: uic golden check tests/model/golden/*.npz
    """
    from model.golden import TOLERANCE, check

    console = Console(soft_wrap=True, highlight=False)
    failed = []
    for path in files:
        differences = check(path)
        wrong = [each for each in differences if not each.is_within]
        if not quiet:
            table = Table("tensor", "worst difference", title=path.name, title_justify="left")
            for each in differences:
                table.add_row(each.tensor, f"{each.worst:.2e}" + ("" if each.is_within else "  TOO LARGE"))
            console.print(table)
        worst = max(each.worst for each in differences)
        verdict = f"FAILED: {len(wrong)} tensors above {TOLERANCE:g}" if wrong else "ok"
        console.print(f"{path.name}: {len(differences)} tensors, worst difference {worst:.2e}: {verdict}")
        if wrong:
            failed.append(path.name)
    if failed:
        raise typer.Exit(1)
