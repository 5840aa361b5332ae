"""`uic dlq list`: the events that a job did not apply, with their reasons."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

dlq_app = typer.Typer(help="Events that were not applied: dead letters, late events, duplicates.", no_args_is_help=True)


@dlq_app.callback()
def _dlq() -> None:
    """Events that were not applied: dead letters, late events, duplicates."""


@dlq_app.command("list")
def list_command(
    ctx: typer.Context,
    job_dir: Annotated[Path | None, typer.Option(help="The job's folder; default: stream.job_dir of uic.yaml.")] = None,
    kind: Annotated[Literal["dead", "late", "duplicate"] | None, typer.Option(help="Only these.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only those with this reason, such as bad_json.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many, -1 for all; default: 20, and all with --raw.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Print the original bytes alone, one event a line.")] = False,
) -> None:
    """List the events that were not applied, where they stood, why, and their first bytes.

    Example: uic dlq list --job-dir job --kind dead --limit 5
    """
    import sys

    from uic.letters import LetterBox

    box = LetterBox((job_dir or ctx.obj.stream.job_dir) / "letters.sqlite", writable=False)
    if raw:
        for letter in box.letters(kind, reason, -1 if limit is None else limit):
            sys.stdout.buffer.write(letter.payload.rstrip(b"\r\n") + b"\n")
        return
    # No markup: what was refused may look like it, and [/b] alone would end the list with a traceback.
    console = Console(soft_wrap=True, highlight=False, markup=False)
    counts = box.counts()
    if not counts:
        console.print("no event was left out")
        return
    summary = Table("kind", "reason", "events")
    for (of_kind, of_reason), count in counts.items():
        summary.add_row(of_kind, of_reason, f"{count:,}")
    console.print(summary)
    table = Table("file", "byte", "kind", "user", "why", "event")
    for letter in box.letters(kind, reason, 20 if limit is None else limit):
        text = letter.payload[:80].decode("utf-8", "backslashreplace").rstrip()
        # A terminal obeys control characters; a list only shows them.
        first = "".join(mark if mark.isprintable() else f"\\x{ord(mark):02x}" for mark in text)
        table.add_row(letter.source, str(letter.offset), letter.kind, letter.user_id or "", letter.detail, first)
    console.print(table)
