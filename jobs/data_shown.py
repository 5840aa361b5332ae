"""What `uic data` prints: stages as they begin, and a dataset in numbers."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:  # pandas takes a second to load, and `uic --help` must not
    from model.data.dataset import Dataset, Stats

Report = Callable[[str], None]


@contextmanager
def stages(console: Console) -> Iterator[Report]:
    """Print every stage with the time it began at.

    The part before ": " names a stage: its first line is printed, later ones only move beside the spinner.
    """
    started, current = time.monotonic(), ""
    with console.status("") as status:

        def report(line: str) -> None:
            nonlocal current
            stage = line.partition(": ")[0]
            if stage != current:
                console.print(f"[dim]{time.monotonic() - started:6.1f} s[/dim]  ", end="", highlight=False)
                console.print(line, markup=False, highlight=False)
                current = stage
            status.update(line.splitlines()[0].replace("[", r"\["))

        yield report


def summarise(console: Console, dataset: "Dataset") -> None:
    """What stats.json says, in tables."""
    stats: Stats = dataset.stats
    console.print(
        f"\n{stats['source']['name']}: {stats['events']} events of {stats['users']} users, {stats['items']} items", end=""
    )
    console.print(
        f", {stats['categories']} categories; history p50/p90/max {'/'.join(map(str, stats['history_length'].values()))}"
    )
    left_out = {name: n for name, n in stats["left_out"].items() if n}
    console.print(f"left out: {', '.join(f'{name} {n}' for name, n in left_out.items()) or 'nothing'}", markup=False)
    table = Table("split", "from (UTC)", "positive", "negative", title="samples", title_justify="left")
    starts = dict(zip(("train", "valid", "test"), ("first_ms", "valid_from_ms", "test_from_ms"), strict=True))
    for split, counts in stats["samples"].items():
        day = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(stats["times"][starts[split]] / 1000))
        day = "any time: other users" if stats.get("split_by") == "user" else day
        table.add_row(split, day, str(counts["positive"]), str(counts["negative"]))
    console.print(table)
    leaks = Table("feature alone", *stats["leak_auc"], title="leak check: AUC", title_justify="left")
    for feature in stats["leak_auc"]["test"]:
        figures = [by_feature[feature] for by_feature in stats["leak_auc"].values()]
        leaks.add_row(feature, *("one label only" if auc is None else f"{auc:.3f}" for auc in figures))
    console.print(leaks)
    if "candidate_ends_history" in stats:
        ends = stats["candidate_ends_history"]
        console.print(
            f"the candidate is the last event of its own history: {ends['positive']:.1%} of the positives, "
            f"{ends['negative']:.1%} of the negatives"
        )
    console.print(
        f"{stats['cold_user_share']:.0%} of the test users have no event in the training part; the median user lives "
        f"{stats['median_lifetime_minutes']:.0f} minutes. Results on this dataset are labelled: {stats['label']}"
    )
    console.print(f"dataset: {dataset.path}")


def beside_the_paper(console: Console, dataset: "Dataset") -> None:
    """The counts of the log and of the dataset beside those of the paper's Table 1."""
    stats: Stats = dataset.stats
    table = Table("", "paper", "log as read", "dataset", title="beside the paper's Table 1", title_justify="left")
    here = stats | {"instances": sum(n for counts in stats["samples"].values() for n in counts.values())}
    for name, paper in stats["paper"].items():
        read = stats["log"].get(name)
        table.add_row(name, f"{paper:,}", "" if read is None else f"{read:,}", f"{here[name]:,}")
    console.print(table)


def by_days(console: Console, datasets: "list[Dataset]") -> None:
    """A row for each day's dataset: how much there is to train and to test on, and how new the test's items are."""
    table = Table("tested on", "train", "valid", "test", "items with a row", "test positives without", "unseen alone: AUC")
    for dataset in datasets:
        stats: Stats = dataset.stats
        counts = [sum(stats["samples"][split].values()) for split in ("train", "valid", "test")]
        alone = stats["leak_auc"]["test"]["item unseen in training"]
        table.add_row(
            dataset.path.name,
            *(f"{count:,}" for count in counts),
            f"{stats['vocabulary']['items']:,}",
            f"{stats['test_positives_without_row']:.1%}",
            "one label only" if alone is None else f"{alone:.3f}",
        )
    console.print(table)
