"""FUZZ.md: what was run, what it reached, and what came of it."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime

from benchmarks.fuzz.engine import Ran

_HEAD = """# Fuzzing

`python -m benchmarks.fuzz --out benchmarks` draws bytes for every decoder of what comes from outside, and requests for the HTTP
schema. For any bytes a decoder returns a value that encodes back to them, or raises the error that it documents: nothing else,
in bounded time (10 s) and memory (2 GB). Coverage leads: libFuzzer, by atheris, keeps the bytes that reach new code of ours.
Half of the altered ones get a right checksum, or nothing behind it would ever be reached. Requests are drawn by schemathesis
from the published schema, good and bad ones, with the token and without, for the application and for `uic serve` as a process.
"""


def table(rows: Sequence[Ran]) -> list[str]:
    """A line a target; edges are places of our code, corpus the inputs that were kept."""
    lines = [
        "| target | minutes | executions | a second | edges | corpus | peak MB | findings |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in rows:
        rate = each.runs / each.seconds if each.seconds else 0
        reached = (str(each.edges), str(each.corpus), str(each.peak_mb)) if each.edges else ("", "", "")
        cells = (each.name, f"{each.seconds / 60:.1f}", f"{each.runs:,}", f"{rate:,.0f}", *reached, str(len(each.findings)))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def page(rows: Sequence[Ran], *, seed: int, mended: str) -> str:
    """The page. `mended`: what earlier runs have found, which stays on it."""
    minutes = sum(each.seconds for each in rows) / 60
    runs = sum(each.runs for each in rows)
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, {datetime.now(tz=UTC):%F}"
    lines = [
        _HEAD,
        f"## The last run\n\n{minutes:.0f} minutes, {runs:,} executions, seed {seed} ({machine}).\n",
        *table(rows),
        "",
        "## The laws\n",
    ]
    lines += [f"- **{each.name}**: {each.law}." for each in rows]
    lines += ["", "## What it found\n"]
    found = [finding for each in rows for finding in each.findings]
    lines += [
        f"- **{each.name}**: `{each.error}`, at `{each.place}`, for {len(each.data)} bytes: `{each.data[:60]!r}`"
        for each in found
    ]
    if not found:
        lines.append("Nothing that stands open.")
    return "\n".join(lines) + f"\n\n{mended.strip()}\n"


def mended_of(text: str) -> str:
    """What a page says of findings that were mended: it is written by hand."""
    start = text.find(MENDED)
    return MENDED if start < 0 else text[start:]


MENDED = "## Found and mended"
