"""Does `uic rollback find` name the day on which a click farm joined, and no day where none did?

    python -m benchmarks.find generated --out results/rollback-find/generated
    python -m benchmarks.find log --log globo_clicks_min50.parquet --out results/rollback-find/globo

A stream is eight days of events: of `uic events generate`, or of a real log, which is never written anywhere else. From the
begin of a day that the seed draws, a farm clicks in the name of some users, on items that mean nothing about them. The stream
is applied in batches as a job does it, the memories go into a RocksDB store, which keeps its daily copies, and `find` scores
samples of the time after from the memories of each kept midnight and of the end. Each seed is tried without a farm and with
each that --farm names. A farm is missed where no day is named or another one; an alarm is false where a day is named without a
farm. Written: README.md, result.json, and for the first seed the picture of the clean stream and of the last farm. Killed, the
same command goes on with what is not in result.json yet.
"""

import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from benchmarks.find_page import page
from benchmarks.find_streams import (
    DAY_MS,
    FARM,
    HOUR_MS,
    KEPT,
    LENGTH,
    Farm,
    Stream,
    apply,
    day_of,
    generated,
    trained_on_generated,
    trained_on_log,
    with_farm,
)
from jobs.rollback.find import Found, find
from jobs.rollback.plot import plot
from uic.bundle import Bundle
from uic.clock import Days
from uic.store.rocksdb import RocksStore

LEAST = 0.005
FARMS = ["0.4:10", "0.6:30"]
app = typer.Typer(help=__doc__, rich_markup_mode=None)
_Seeds = Annotated[int, typer.Option(help="How many streams, each without a farm and with each one.")]
_Farms = Annotated[list[str], typer.Option("--farm", help="SHARE:CLICKS: so many clicks a day for such a share of the users.")]
_Out = Annotated[Path, typer.Option(help="Folder for the results.")]
_Work = Annotated[Path | None, typer.Option(help="Where the trained bundle may stay: it is made once only then.")]
_Epochs = Annotated[int, typer.Option(help="Of training.")]


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What was found in one stream.

    joins        the day on which the farm joined, None without one; `of_events`: its share of the events from then on
    samples      how many were scored, of how many `users`
    change       of the AUC by the events of that day, and `at_most`, what all draws but the tolerated ones stayed below
    seconds      that `find` itself took
    """

    seed: int
    farm: Farm | None
    joins: str | None
    of_events: float
    named: str | None
    samples: int
    users: int
    aucs: list[float]
    change: float | None
    at_most: float | None
    seconds: float


@app.command("generated")
def generated_command(
    out: _Out,
    seeds: _Seeds = 5,
    farm: _Farms = FARMS,
    users: Annotated[int, typer.Option(help="Users of each stream.")] = 500,
    daily: Annotated[int, typer.Option(help="Events of each of them a day.")] = 10,
    epochs: _Epochs = 4,
    work: _Work = None,
) -> None:
    """Streams of `uic events generate`, each of another seed, and a bundle that was trained on one more."""
    with _folder(work) as folder:
        report = _Report(out)
        bundle = trained_on_generated(folder, users, daily, epochs)
        about = (
            f"Streams of `uic events generate`: {users} users with {daily} events a day each, whose interests last 40 days. "
            "Samples: the events of the day after, each beside one that somebody else had just then. The bundle is trained on "
            f"a stream of a seed of its own, for {epochs} epochs."
        )
        report.about("Which day? Farms of clicks in generated streams", about, bundle)
        for seed in range(1, seeds + 1):
            if left := report.left(seed, farm):
                report.add(_all(bundle, generated(users, daily, seed, folder), seed, left, out))


@app.command("log")
def log_command(
    out: _Out,
    log: Annotated[Path, typer.Option(help="A click log: user_id, item_id, category_id, behavior, timestamp in ms.")],
    first: Annotated[
        str, typer.Option(help="The first of the eight days (UTC); what came before is applied too.")
    ] = "2017-10-05",
    hours: Annotated[int, typer.Option(help="The samples are of so many hours after the eight days.")] = 24,
    seeds: _Seeds = 5,
    farm: _Farms = FARMS,
    users: Annotated[int, typer.Option(help="So many of those with samples are drawn for each stream.")] = 2_000,
    epochs: _Epochs = 3,
    work: _Work = None,
) -> None:
    """A real log, of which each seed draws other users. The bundle is trained on the log up to the samples, without a farm."""
    begin = date.fromisoformat(first)
    end_ms = Days("UTC").begins_ms(begin) + LENGTH * DAY_MS
    with _folder(work) as folder:
        report = _Report(out)
        bundle, dataset = trained_on_log(folder, log, begin + timedelta(days=LENGTH), epochs)
        events = pd.read_parquet(dataset / "events.parquet").sort_values("time_ms", kind="stable")
        samples = pd.read_parquet(dataset / "samples.parquet")
        samples = samples[(samples["time_ms"] >= end_ms) & (samples["time_ms"] < end_ms + hours * HOUR_MS)]
        events = events[events["time_ms"] < end_ms]
        about = (
            f"{log.name}, eight days from {first} on, of {users:,} users for each seed. Samples: their clicks of the {hours} "
            "hours after, each beside an item that others clicked within the hour before. The bundle is trained on the log up "
            f"to there, for {epochs} epochs; the farm is in nothing that it was trained on."
        )
        report.about("Which day? Farms of clicks in a real log", about, bundle)
        for seed in range(1, seeds + 1):
            names = np.sort(samples["user"].unique())
            chosen = set(np.random.default_rng(seed).choice(names, min(users, len(names)), replace=False))
            their_events, their_samples = (each[each["user"].isin(chosen)] for each in (events, samples))
            stream = Stream(first=begin, events=their_events, samples=their_samples)
            report.add(_all(bundle, stream, seed, report.left(seed, farm), out))


def _all(bundle: Bundle, stream: Stream, seed: int, left: Sequence[Farm | None], out: Path) -> Iterator[Tried]:
    """The stream without a farm and with each that is left to be tried; they join on the day that this seed draws."""
    joins_ms = int(np.random.default_rng([seed, 7]).choice(stream.begins_ms))
    for farm in left:
        draw = np.random.default_rng([seed, 8, 0 if farm is None else farm.clicks])
        events = stream.events.assign(source="app") if farm is None else with_farm(stream, joins_ms, farm, draw)
        started = time.perf_counter()
        found, seconds = _found(bundle, stream, events)
        if seed == 1:  # the last farm's stays
            plot(found, out / ("clean.png" if farm is None else "farm.png"))
        since = events[events["time_ms"] >= joins_ms]
        joins = day_of(joins_ms).isoformat()
        step = found.steps[[place.day for place in found.places].index(joins)]
        yield Tried(
            seed=seed,
            farm=farm,
            joins=None if farm is None else joins,
            of_events=round(float((since["source"] == FARM).mean()), 3),
            named=found.broken,
            samples=found.samples,
            users=stream.samples["user"].nunique(),
            aucs=[round(place.auc.auc, 4) for place in found.places],
            change=None if farm is None else round(step.change, 4),
            at_most=None if farm is None else round(step.at_most, 4),
            seconds=round(seconds, 1),
        )
        typer.echo(
            f"seed {seed}, {farm or 'clean'}: {found.broken or 'nothing'} named, {time.perf_counter() - started:.0f} s",
            err=True,
        )


def _found(bundle: Bundle, stream: Stream, events: pd.DataFrame) -> tuple[Found, float]:
    """What `find` says when these events have been applied, and how long it took."""
    shares: dict[str, dict[str, float]] = {}
    for day, of_day in events.groupby(events["time_ms"] // DAY_MS):
        counts = Counter(of_day["source"])
        shares[day_of(int(str(day)) * DAY_MS).isoformat()] = {name: count / len(of_day) for name, count in counts.items()}
    with tempfile.TemporaryDirectory() as folder:
        store = RocksStore.create_or_open(Path(folder) / "store", bundle.identity, zone="UTC", kept=KEPT)
        try:
            apply(bundle, events, store)
            started = time.perf_counter()
            found = find(stream.samples.reset_index(drop=True), bundle, store, least=LEAST, sources=shares)
            return found, time.perf_counter() - started
        finally:
            store.close()


@contextmanager
def _folder(work: Path | None) -> Iterator[Path]:
    """The folder to work in, which stays only where it was asked for."""
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
        yield work
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


class _Report:
    """result.json and README.md, written anew after each try; of an earlier run of the same command they are gone on with."""

    def __init__(self, out: Path) -> None:
        self._out = out
        out.mkdir(parents=True, exist_ok=True)
        self._found: dict[str, Any] = {}
        self._since = time.perf_counter()

    def about(self, title: str, text: str, bundle: Bundle) -> None:
        best = bundle.manifest.training.get("best", {})
        self._found = {
            "title": title,
            "about": text,
            "command": _command(sys.argv[1:]),
            "machine": f"{os.cpu_count()} cores of an {_cpu()}, Python {platform.python_version()}",
            "day": datetime.now(UTC).date().isoformat(),
            "validation_auc": best.get("valid", {}).get("auc") if isinstance(best, dict) else None,
        }
        path = self._out / "result.json"
        earlier = json.loads(path.read_text()) if path.exists() else {}
        is_same = all(earlier.get(name) == value for name, value in self._found.items())
        self._found |= {"seconds": earlier["seconds"] if is_same else 0, "tries": earlier["tries"] if is_same else []}

    def left(self, seed: int, farms: Sequence[str]) -> list[Farm | None]:
        """What is not tried yet of this seed, None for the stream without a farm."""
        done = [(each["seed"], each["farm"]) for each in self._found["tries"]]
        every = [None, *map(Farm.read, farms)]
        return [farm for farm in every if (seed, None if farm is None else asdict(farm)) not in done]

    def add(self, tries: Iterator[Tried]) -> None:
        for each in tries:
            self._found["tries"].append(asdict(each))
            self._found["seconds"] += round(time.perf_counter() - self._since)
            self._since = time.perf_counter()
            (self._out / "result.json").write_text(json.dumps(self._found, indent=1) + "\n")
            (self._out / "README.md").write_text(page(self._found))


def _command(words: list[str]) -> str:
    """What was typed, without the folder for what is between, and without where files lie here.

    >>> _command(["log", "--work", "between", "--log", "/data/a log.parquet", "--out", "results/globo"])
    "python -m benchmarks.find log --log 'a log.parquet' --out results/globo"
    """
    kept = [word for before, word in pairwise(["", *words]) if "--work" not in (before, word)]
    return shlex.join(
        ["python", "-m", "benchmarks.find", *(Path(word).name if word.startswith("/") else word for word in kept)]
    )


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.machine())


if __name__ == "__main__":
    app()
