"""Fuzz every decoder of what comes from outside, and the HTTP schema, for an hour in total.

    python -m benchmarks.fuzz --out benchmarks                    an hour, and the page benchmarks/FUZZ.md
    python -m benchmarks.fuzz --minutes 10 --only memory,event    two targets, five minutes each
    python -m benchmarks.fuzz --corpus target/fuzz                go on from what an earlier run has reached

What breaks a law is a finding: it is told on the page, its bytes are in the folder `findings` of the corpus, and it belongs
into a test (tests/fuzz/). The exit code is 1 then.
"""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.fuzz.engine import Ran, fuzz
from benchmarks.fuzz.every import TARGETS
from benchmarks.fuzz.page import mended_of, page, table
from uic.errors import BadInput, UicError

NAMES = (*TARGETS, "http")


def names(only: str | None) -> list[str]:
    """The targets asked for, all where none are named; raises BadInput for one that there is not.

    >>> names("event,http")
    ['event', 'http']
    """
    asked = list(NAMES) if only is None else only.split(",")
    if unknown := [name for name in asked if name not in NAMES]:
        raise BadInput(f"--only: expected some of {', '.join(NAMES)}, got {', '.join(unknown)}")
    return asked


def main(
    minutes: Annotated[float, typer.Option(help="In total; each target has an equal part.", min=0.1)] = 60,
    only: Annotated[str | None, typer.Option(help=f"Some of {', '.join(NAMES)}; default: all.")] = None,
    seed: Annotated[int, typer.Option(help="Where drawing begins.", min=1)] = 1,
    corpus: Annotated[Path | None, typer.Option(help="Folder of what was reached so far; default: a new one.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for FUZZ.md; default: none is written.")] = None,
) -> None:
    """Fuzz, tell how far it came, and write the page."""
    try:
        asked = names(only)
        with tempfile.TemporaryDirectory(prefix="uic-fuzz-") as scratch:
            rows = [_run(name, minutes * 60 / len(asked), seed, corpus or Path(scratch), Path(scratch)) for name in asked]
    except UicError as error:
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        raise typer.Exit(2) from error
    for line in table(rows):
        typer.echo(line)
    found = [finding for each in rows for finding in each.findings]
    for finding in found:
        typer.echo(f"{finding.target}: {finding.error} at {finding.place}: {finding.data[:200]!r}")
    if out is not None:
        path = out / "FUZZ.md"
        path.write_text(page(rows, seed=seed, mended=mended_of(path.read_text() if path.exists() else "")))
    raise typer.Exit(1 if found else 0)


def _run(name: str, seconds: float, seed: int, corpus: Path, scratch: Path) -> Ran:
    if name == "http":
        from benchmarks.fuzz.http import fuzz_http

        return fuzz_http(seconds, seed=seed, work=scratch / "http", tell=typer.echo)
    return fuzz(TARGETS[name], seconds, seed=seed, corpus=corpus, tell=typer.echo)


if __name__ == "__main__":
    typer.run(main)
