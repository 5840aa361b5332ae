"""Does `uic rollback find` name the day on which a click farm joined, and no day where none did?

    python -m benchmarks.find generated --out benchmarks/find      streams of `uic events generate`; trains a small bundle first
    python -m benchmarks.find log --bundle B --dataset D --first DAY --out FOLDER     a real log, as `uic data prepare` wrote it

A stream is eight days of events. From the begin of a day that is drawn, a farm clicks in the name of some users, on items
that mean nothing about them. The stream is applied in batches as a job does it, the memories go into a RocksDB store, which
keeps its daily copies, and `find` scores samples of the time after from the memories of each kept midnight and of the end. Each
seed is tried with the farm and without it. A farm is missed where no day is named or another one; an alarm is false where a day
is named without a farm. Written: table.md, result.json, and for the first seed the picture of either kind.
"""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from jobs.rollback.find import Found, find, write
from uic.batch import Arrival, BatchUpdater
from uic.bundle import Bundle
from uic.clock import Days
from uic.event import BehaviourEvent, to_json
from uic.runtime import OnnxStep
from uic.store.rocksdb import RocksStore
from uic.update import Rules

DAY_MS = 86_400_000
LENGTH, KEPT = 8, 7
LEAST = 0.005
FIRST = date(2026, 11, 1)
FARM = "farm"
_BATCH = 2_000
app = typer.Typer(help=__doc__, rich_markup_mode=None)
_Seeds = Annotated[int, typer.Option(help="How many streams, each with a farm and without.")]
_Share = Annotated[float, typer.Option(help="Share of the users in whose name the farm clicks.")]
_Clicks = Annotated[int, typer.Option(help="How often it does for each of them a day.")]
_Out = Annotated[Path, typer.Option(help="Folder for the results.")]


@dataclass(frozen=True, kw_only=True)
class Stream:
    """`events`: those of the users in the order of the log, until eight days from `first` on; `samples`: labelled, of after."""

    first: date
    events: pd.DataFrame
    samples: pd.DataFrame

    @property
    def begins_ms(self) -> list[int]:
        """The begins of the days on which a farm may join: those that are kept in the end."""
        first_ms = Days("UTC").begins_ms(self.first)
        return [first_ms + count * DAY_MS for count in range(1, KEPT + 1)]


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What was found in one stream. `farm`: the day on which it joined; `share`: its share of the events from then on."""

    seed: int
    farm: str | None
    share: float
    named: str | None
    aucs: list[float]

    @property
    def is_right(self) -> bool:
        return self.named == self.farm


@app.command("generated")
def generated_command(
    out: _Out,
    seeds: _Seeds = 10,
    share: _Share = 0.4,
    clicks: _Clicks = 10,
    users: Annotated[int, typer.Option(help="Users of each stream.")] = 500,
    daily: Annotated[int, typer.Option(help="Events of each of them a day.")] = 10,
    work: Annotated[Path | None, typer.Option(help="Where the bundle may stay: it is trained once only then.")] = None,
) -> None:
    """Streams of `uic events generate`, each of another seed, and a bundle that was trained on one more."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = _trained(work or Path(folder), users, daily)
        found = [
            tried
            for seed in range(1, seeds + 1)
            for tried in _both(bundle, _generated(users, daily, seed, Path(folder)), seed, share, clicks, out)
        ]
    _report(
        found, out, f"{users} users of {daily} events a day, generated; of {share:.0%} the farm made {clicks} clicks more a day"
    )


@app.command("log")
def log_command(
    out: _Out,
    bundle: Annotated[Path, typer.Option(help="A bundle that was trained on what comes before the stream.")],
    dataset: Annotated[Path, typer.Option(help="The log and its samples, as `uic data prepare` wrote them.")],
    first: Annotated[str, typer.Option(help="The first of the eight days; what came before is applied too.")],
    seeds: _Seeds = 5,
    share: _Share = 0.4,
    clicks: _Clicks = 10,
    users: Annotated[int, typer.Option(help="So many users are drawn for each stream.")] = 2_000,
) -> None:
    """A real log, of which each seed draws other users; its own samples of the two days after the stream are scored."""
    opened, begin = Bundle.open(bundle), date.fromisoformat(first)
    begin_ms = Days("UTC").begins_ms(begin)
    end_ms = begin_ms + LENGTH * DAY_MS
    events = pd.read_parquet(dataset / "events.parquet").sort_values("time_ms", kind="stable")
    samples = pd.read_parquet(dataset / "samples.parquet")
    samples = samples[(samples["time_ms"] >= end_ms) & (samples["time_ms"] < end_ms + 2 * DAY_MS)]
    events = events[events["time_ms"] < end_ms]
    found: list[Tried] = []
    for seed in range(1, seeds + 1):
        names = np.sort(samples["user"].unique())
        chosen = set(np.random.default_rng(seed).choice(names, min(users, len(names)), replace=False))
        stream = Stream(first=begin, events=events[events["user"].isin(chosen)], samples=samples[samples["user"].isin(chosen)])
        found += _both(opened, stream, seed, share, clicks, out)
    _report(found, out, f"{users} users of a real log; of {share:.0%} the farm made {clicks} clicks a day")


def _both(bundle: Bundle, stream: Stream, seed: int, share: float, clicks: int, out: Path) -> Iterator[Tried]:
    """The stream without a farm, and with one that joins on a day of this seed's."""
    draw = np.random.default_rng([seed, 7])
    joins_ms = int(draw.choice(stream.begins_ms))
    for begin_ms in (None, joins_ms):
        events = stream.events if begin_ms is None else _with_farm(stream, begin_ms, share, clicks, draw)
        found = _found(bundle, stream, events)
        if seed == 1:
            write(found, out / ("clean" if begin_ms is None else FARM))
        since = events[events["time_ms"] >= (begin_ms or 0)]
        tried = Tried(
            seed=seed,
            farm=None if begin_ms is None else _day(begin_ms).isoformat(),
            share=float((since["source"] == FARM).mean()) if "source" in since else 0.0,
            named=found.broken,
            aucs=[round(place.auc.auc, 4) for place in found.places],
        )
        typer.echo(json.dumps(asdict(tried)))
        yield tried


def _with_farm(stream: Stream, begin_ms: int, share: float, clicks: int, draw: np.random.Generator) -> pd.DataFrame:
    """The events with those of a farm: any item of the log at any time of day, for some users."""
    names = np.sort(stream.events["user"].unique())
    end_ms = stream.begins_ms[-1] + DAY_MS
    users = np.repeat(draw.choice(names, int(share * len(names)), replace=False), clicks * (end_ms - begin_ms) // DAY_MS)
    items = stream.events.drop_duplicates("item_id")[["item_id", "category_id"]]
    farm = items.iloc[draw.integers(len(items), size=len(users))].assign(
        user=users, time_ms=draw.integers(begin_ms, end_ms, size=len(users)), source=FARM
    )
    return pd.concat([stream.events.assign(source="app"), farm]).sort_values("time_ms", kind="stable", ignore_index=True)


def _found(bundle: Bundle, stream: Stream, events: pd.DataFrame) -> Found:
    """What `find` says when these events have been applied."""
    shares: dict[str, dict[str, float]] = {}
    if "source" in events:
        for day, of_day in events.groupby(events["time_ms"] // DAY_MS):
            counts = Counter(of_day["source"])
            shares[_day(int(str(day)) * DAY_MS).isoformat()] = {name: count / len(of_day) for name, count in counts.items()}
    with tempfile.TemporaryDirectory() as folder:
        store = RocksStore.create_or_open(Path(folder) / "store", bundle.identity, zone="UTC", kept=KEPT)
        try:
            _apply(bundle, events, store)
            return find(stream.samples.reset_index(drop=True), bundle, store, least=LEAST, sources=shares)
        finally:
            store.close()


def _apply(bundle: Bundle, events: pd.DataFrame, store: RocksStore) -> None:
    updater = bundle.updater(OnnxStep(bundle), Rules())
    batches = BatchUpdater(updater, accepted=bundle.accepted, max_ahead_ms=DAY_MS, days=Days("UTC"))
    behaviour = min(bundle.accepted)
    blobs: dict[str, bytes] = {}
    for start in range(0, len(events), _BATCH):
        part = events.iloc[start : start + _BATCH]
        users = part["user"].unique().tolist()
        place = {user: at for at, user in enumerate(users)}
        rows = zip(part["user"], part["item_id"].tolist(), part["category_id"].tolist(), part["time_ms"].tolist(), strict=True)
        arrivals = [
            Arrival(
                place[user],
                time_ms,
                False,
                to_json(BehaviourEvent(user_id=user, item_id=item, category_id=category, behaviour=behaviour, time_ms=time_ms)),
            )
            for user, item, category, time_ms in rows
        ]
        done = batches.apply(users, [blobs.get(user) for user in users], arrivals)
        for at, blob in [*done.earlier, *done.blobs.items()]:
            store.write(users[at], blob)
            blobs[users[at]] = blob


def _generated(users: int, daily: int, seed: int, work: Path, days: int = LENGTH + 1) -> Stream:
    """A stream and one day more, whose events are the samples: what a user did, beside what somebody else did just then."""
    folder = work / f"events-{seed}"
    step_ms = DAY_MS // (users * daily)
    spec = [
        f"seed={seed}",
        f"users={users}",
        f"events={users * daily * days}",
        f"step_ms={step_ms}",
        "items=2000",
        "categories=50",
    ]
    spec += [f"start_ms={Days('UTC').begins_ms(FIRST)}", f"interest_ms={40 * DAY_MS}", "event_ids=0", "behaviours=click"]
    _uic("events", "generate", *spec, "--out", folder, "--overwrite")
    lines = [line for path in sorted(folder.glob("*.jsonl")) for line in path.read_bytes().splitlines()]
    table = pd.DataFrame([json.loads(line) for line in lines]).rename(columns={"user_id": "user"})
    end_ms = Days("UTC").begins_ms(FIRST) + LENGTH * DAY_MS
    later = table[table["time_ms"] >= end_ms].reset_index(drop=True)
    others = later.sample(frac=1, random_state=seed).reset_index(drop=True)
    samples = pd.concat(
        [later.assign(label=1), later.assign(item_id=others["item_id"], category_id=others["category_id"], label=0)]
    )
    return Stream(first=FIRST, events=table[table["time_ms"] < end_ms], samples=samples)


def _trained(work: Path, users: int, daily: int) -> Bundle:
    """A small bundle, trained on a stream of a seed of its own."""
    path, log, run = work / "bundle", work / "dataset", work / "run"
    if not log.exists():
        work.mkdir(parents=True, exist_ok=True)
        table = work / "log.parquet"
        _generated(users, daily, 1_000, work, days=12).events.to_parquet(table)
        _uic("data", "prepare", "table", "--events", table, "--user-column", "user", "--behaviour", "click", "--out", log)
    if not path.exists():
        _uic("train", "--data", log, "--out", run, "--epochs", 4)
        # Whether all runtimes agree on this model does not matter here, where one alone makes and reads the memories.
        _uic("export", run, "--out", path, check=False)
    return Bundle.open(path)


def _uic(*words: object, check: bool = True) -> None:
    subprocess.run([sys.executable, "-m", "jobs.cli", *map(str, words)], check=check, stdout=subprocess.DEVNULL)


def _day(time_ms: int) -> date:
    return datetime.fromtimestamp(time_ms / 1000, UTC).date()


def _report(found: list[Tried], out: Path, about: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.json").write_text(
        json.dumps([{**asdict(each), "is_right": each.is_right} for each in found], indent=1) + "\n"
    )
    farms, clean = ([each for each in found if (each.farm is None) is is_clean] for is_clean in (False, True))
    said = (
        f"{about}. Farms: {sum(each.is_right for each in farms)} of {len(farms)} named with their day. "
        f"False alarms: {sum(not each.is_right for each in clean)} of {len(clean)}."
    )
    lines = [
        said,
        "",
        "| seed | farm joins | its share from then on | day named | AUC as of each kept day's begin, and at the end |",
        "|---|---|---|---|---|",
    ]
    for each in found:
        aucs = " ".join(f"{auc:.3f}" for auc in each.aucs)
        lines.append(f"| {each.seed} | {each.farm or 'none'} | {each.share:.0%} | {each.named or 'none'} | {aucs} |")
    (out / "table.md").write_text("\n".join(lines) + "\n")
    typer.echo("\n".join(lines))


if __name__ == "__main__":
    app()
