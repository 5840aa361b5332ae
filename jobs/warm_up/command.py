"""The command `uic warm-up`."""

import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from uic.clock import in_ms
from uic.errors import BadInput

if TYPE_CHECKING:  # pyarrow and ONNX Runtime take a second to load
    from jobs.settings import Settings
    from jobs.warm_up.run import Report

_PLAIN_EVERY_S = 10.0


def warm_up_command(
    ctx: typer.Context,
    history: Annotated[str, typer.Option(help="File, folder or pattern of events, JSONL or Parquet; or a dataset.")],
    until: Annotated[
        str, typer.Option(help="The hand-over T, a time with its zone: history is before it, live events from it on.")
    ],
    bundle: Annotated[Path, typer.Option(help="The exported model to apply.")],
    days: Annotated[int, typer.Option(min=1, help="How far back from T the history goes.")] = 120,
    work: Annotated[Path, typer.Option(help="Folder for what is between, the memories and the report.")] = Path("warm-up"),
    store: Annotated[Path | None, typer.Option(help="Online store to write the memories to.")] = None,
    savepoint: Annotated[
        Path | None, typer.Option(help="Folder for a savepoint that `uic job submit --restore` takes.")
    ] = None,
    idle_after_s: Annotated[int | None, typer.Option(help="As the job has it; default: stream.idle_after_s.")] = None,
    share: Annotated[str, typer.Option(help="Which part of the work to do, as 0/4; 0 writes store and savepoint.")] = "0/1",
    processes: Annotated[int, typer.Option(min=0, help="How many at a time; 0: one a core.")] = 0,
    partitions: Annotated[
        int | None, typer.Option(help="Parts of the users, each of which fits in memory; default: by size.")
    ] = None,
) -> None:
    """Fold recorded events into memories, for the online store and for the savepoint from which the live job starts.

    Killed, the same command goes on where it was. Then start the job with stream.not_before set to T and kafka.start a while
    before it: no event around T is lost or applied twice. Several machines can share the work in a folder of theirs, each with
    its --share. Example: uic warm-up --history history/ --until 2017-11-26T00:00:00+08:00 --bundle bundles/first --store store
    --savepoint savepoints/warm
    """
    from jobs.warm_up.handover import describe
    from jobs.warm_up.load import check_store, load
    from jobs.warm_up.run import WarmUp, warm_up
    from jobs.warm_up.savepoint import check_savepoint, write_savepoint
    from jobs.warm_up.work import WorkFolder
    from uic.bundle import Bundle
    from uic.forgetting import FILE, Forgotten

    settings: Settings = ctx.obj
    stream = settings.stream
    idle_after_s = stream.idle_after_s if idle_after_s is None else idle_after_s
    number, shares = read_share(share)
    started = time.monotonic()
    with _Shown() as shown:
        asked = WarmUp(
            history=history, bundle=bundle, work=work, until_ms=read_time("--until", until), days=days,
            idle_after_ms=None if idle_after_s is None else 1000 * idle_after_s, processes=processes, partitions=partitions,
            share=number, shares=shares, forgotten=stream.job_dir / FILE,
        )  # fmt: skip
        model = Bundle.open(bundle)
        # What would be in the way at the end is found before hours of work.
        if store is not None:
            check_store(store, model, settings.days, settings.store.numbers)
        if savepoint is not None:
            check_savepoint(savepoint, stream.jars)
        report = warm_up(asked, shown)
        if report is None:
            typer.echo(f"share {share} is done")
            return
        users = report.counts.get("users", 0)
        files = [WorkFolder(work).memories(each) for each in range(report.partitions)]
        if store is not None:
            shown.begin(f"writing {store}", users, 0)
            forgotten, numbers = Forgotten(stream.job_dir / FILE), settings.store.numbers
            load(files, store, model, settings.days, numbers=numbers, forgotten=forgotten, is_done=shown.advance)
        if savepoint is not None:
            shown.begin(f"writing {savepoint}", users, 0)
            idle = asked.idle_after_ms
            about = describe(model, until_ms=asked.until_ms, idle_after_ms=idle, users=users)
            write_savepoint(files, savepoint, stream.jars, work, about=about, idle_after_ms=idle, is_done=shown.advance)
    typer.echo(_summary(report, time.monotonic() - started))


def _summary(report: "Report", seconds: float) -> str:
    counts = report.counts
    dead = {name.removeprefix("dead "): count for name, count in counts.items() if name.startswith("dead ")}
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(dead.items()))
    rows = [
        ("applied", f"{counts.get('applied', 0):,}"),
        ("users", f"{counts.get('users', 0):,}, {report.bytes / 1e6:,.1f} MB of memories"),
        ("duplicates", f"{counts.get('duplicate', 0):,}"),
        *([("forgotten", f"{counts['forgotten']:,}")] if counts.get("forgotten") else []),
        ("dead letters", f"{sum(dead.values()):,}" + (f" ({reasons})" if reasons else "")),
        ("outside the window", f"{counts.get('before the window', 0):,} before, {counts.get('after the window', 0):,} after"),
        ("this run", f"{seconds:.1f} s"),
    ]
    return "\n".join(f"{name:<20} {value}" for name, value in rows)


class _Shown:
    """Progress on standard error: a moving line on a terminal, a plain one now and then elsewhere."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
        self._status = self._console.status("starting") if sys.stderr.isatty() else None
        self._what, self._total, self._before, self._done = "", 0, 0, 0
        self._began = self._next_plain = time.monotonic()

    def __enter__(self) -> "_Shown":
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def begin(self, what: str, total: int, done: int) -> None:
        self._what, self._total, self._before, self._done = what, total, done, done
        self._began = time.monotonic()
        self._next_plain = self._began
        self.advance(0)

    def advance(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        rate = (self._done - self._before) / max(now - self._began, 1e-3)
        line = f"{self._what}: {self._done:,} of {self._total:,}, {rate:,.0f} a second"
        if self._status is not None:
            self._status.update(line)
        elif now >= self._next_plain:
            self._next_plain = now + _PLAIN_EVERY_S
            self._console.print(line)


def read_time(name: str, text: str) -> int:
    """Milliseconds since 1970 of a time with its zone; raises BadInput.

    >>> read_time("--until", "1970-01-01T08:00:01+08:00")
    1000
    """
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        raise BadInput(f"{name}: expected a time with its zone (2017-11-26T00:00:00+08:00), got {text!r}")
    return in_ms(when)


def read_share(text: str) -> tuple[int, int]:
    """Which share of how many; raises BadInput.

    >>> read_share("3/4")
    (3, 4)
    """
    number, slash, shares = text.partition("/")
    if not (slash and number.isdecimal() and shares.isdecimal() and int(number) < int(shares)):
        raise BadInput(f"--share: expected a number below how many there are, such as 0/4, got {text!r}")
    return int(number), int(shares)
