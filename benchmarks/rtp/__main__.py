"""How fast scores are served, in one command: `python -m benchmarks.rtp`. Results, a table and a plot go to --out.

Results of parts that are not run again stay in --out and in the table.
"""

import dataclasses
import json
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.rtp import against_feast, compare, report, under_load
from benchmarks.rtp.run import QUICK, Run, Sizes
from uic.errors import BadInput

PARTS: dict[str, Callable[[Run], None]] = {
    "fig7": compare.fig7,
    "length": compare.length,
    "steady": under_load.steady,
    "overload": under_load.overload,
    "rolling": under_load.rolling,
    "soak": under_load.soak,
    "feast": against_feast.feast,
}


def main(
    out: Annotated[Path, typer.Option(help="Folder for result.json, table.md, plot.png.")] = Path("benchmarks/results/rtp"),
    only: Annotated[str | None, typer.Option(help=f"Some parts only, with commas: {', '.join(PARTS)}.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Window of each part (of fig7: of each length and server).")] = None,
    rate: Annotated[float | None, typer.Option(help="Requests a second of steady and soak, with twice as many events.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few users and short histories: shows only that everything runs.")
    ] = False,
    bundle: Annotated[Path | None, typer.Option(help="What is served; default: the default preset, untrained.")] = None,
    work: Annotated[Path | None, typer.Option(help="Folder for bundle and stores; default: a temporary one.")] = None,
) -> None:
    """Measure the server on this machine: `uic serve` as a process, open-loop arrivals from this one, 100 candidates a request.

    Two cores and no other load. Minutes: fig7 8 (DIEN at each history length), length 2, steady 11 (500 requests/s while
    1,000 events/s update the same users), overload 1, rolling 1, soak 6 (an hour, beside other work: --seconds 3600 --rate 50),
    feast 3 (installs Feast into --work with uv).

    Example: python -m benchmarks.rtp --only fig7,length
    """
    parts = tuple(PARTS) if only is None else tuple(only.split(","))
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise BadInput(f"--only: unknown {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    out.mkdir(parents=True, exist_ok=True)
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        sizes = QUICK if quick else Sizes()
        sizes = sizes if rate is None else dataclasses.replace(sizes, rate=rate, updates=2 * rate)
        run = Run(sizes, Path(folder), out, seconds, bundle, _of_other_parts(out, parts))
        run.found["machine"] = {"cores": os.cpu_count(), "cpu": _cpu(), "python": platform.python_version(), "quick": quick}
        try:
            for part, measure in PARTS.items():
                if part in parts:
                    measure(run)
        finally:
            report.write(run.found, out)
    typer.echo((out / "table.md").read_text())


def _of_other_parts(out: Path, parts: tuple[str, ...]) -> dict[str, Any]:  # JSON
    """What earlier runs into this folder have found of parts that are not run now."""
    file = out / "result.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    return {name: rows for name, rows in found.items() if name not in parts}


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    typer.run(main)
