"""`uic data prepare amazon-books` and `taobao`: the two logs of the paper, by the paper's protocol.

The work is in model/data (amazon.py, taobao.py, last_event.py); here are the command line and what is printed.
"""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from jobs.data_shown import Report, beside_the_paper, stages, summarise
from uic.errors import BadInput

if TYPE_CHECKING:  # pandas and DuckDB take seconds to load, and `uic --help` must not
    from model.data.dataset import Dataset, Names
    from model.data.last_event import LastEventSettings
    from model.data.log_table import LogTable

HOUR_MS = 3_600_000


class Legacy(StrEnum):
    """What the authors' scripts do to Taobao's log and the paper does not say; each makes the figures incomparable or leaks."""

    TARGET_IN_HISTORY = "target-in-history"
    ITEM_ZERO_IS_PADDING = "item-zero-is-padding"
    ALL_BEHAVIOURS = "all-behaviours"
    UNIFORM_NEGATIVES = "uniform-negatives"
    ANY_TIME = "any-time"


Length = Annotated[int, typer.Option(help="Events kept before the target, the newest; 0: the whole history.")]
MinHistory = Annotated[int, typer.Option(help="Leave out users with fewer events before their last.")]
MinItemCount = Annotated[
    int, typer.Option(help="Items with fewer events in the training part share the out-of-vocabulary row.")
]
ValidShare = Annotated[float, typer.Option(help="Share of the users for validation, which the authors' scripts do without.")]
TestShare = Annotated[float, typer.Option(help="Share of the users for the test.")]
DropInvalid = Annotated[bool, typer.Option("--drop-invalid", help="Leave out unusable lines and count them.")]
MemoryMb = Annotated[
    int,
    typer.Option(
        help="What the log may take of memory while it is sorted; the rest is beside --out, up to three times the log."
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of negatives, coins and parts.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an older dataset in the output folder.")]


def amazon_command(
    reviews: Annotated[
        Path | None, typer.Option(help="reviews_Books_5.json, as it is or as .gz. Without: how to obtain it.")
    ] = None,
    metadata: Annotated[Path | None, typer.Option(help="meta_Books.json, as it is or as .gz.")] = None,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("data/amazon-books"),
    window_hours: Annotated[
        float | None,
        typer.Option(
            help="Draw negatives from so many hours before the positive. Default: from all reviews, as the authors do."
        ),
    ] = None,
    length: Length = 100,
    min_history: MinHistory = 20,
    min_item_count: MinItemCount = 2,
    valid_share: ValidShare = 0.1,
    test_share: TestShare = 0.1,
    drop_invalid: DropInvalid = False,
    memory_mb: MemoryMb = 2000,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Amazon Books by the paper's protocol: who reviewed T books is asked about the T-th, and about another one.

    A review is a behaviour event. The history is the last 100 reviews before the T-th; the negative is the item of a random
    review. Parts are parts of the users.

    Example: uic data prepare amazon-books --reviews reviews_Books_5.json.gz --metadata meta_Books.json.gz
    """
    from model.data.amazon import HOW_TO_OBTAIN
    from model.data.last_event import LastEventSettings

    if reviews is None or metadata is None:
        raise BadInput(f"expected --reviews PATH and --metadata PATH\n{HOW_TO_OBTAIN}")
    settings = LastEventSettings(
        length=length or None, min_history=min_history, samples_per_user=2, split="user", valid_share=valid_share,
        test_share=test_share, window_ms=_window_ms(window_hours), min_item_count=min_item_count, seed=seed,
    )  # fmt: skip
    console = Console()
    with stages(console) as report:
        dataset = prepare_amazon(
            reviews, metadata, out, settings, drop_invalid=drop_invalid, memory_mb=memory_mb, overwrite=overwrite, report=report
        )
    summarise(console, dataset)
    beside_the_paper(console, dataset)


def taobao_command(
    source: Annotated[
        Path | None, typer.Option(help="UserBehavior.csv, or its .zip or .gz. Without: how to obtain it.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("data/taobao"),
    legacy: Annotated[
        list[Legacy] | None,
        typer.Option(help="What the authors' scripts do beside the paper; repeatable. Leaks are shown, not refused."),
    ] = None,
    window_hours: Annotated[
        float, typer.Option(help="Negatives are drawn from all users' events of so many hours before.")
    ] = 1.0,
    length: Length = 200,
    min_history: MinHistory = 1,
    min_item_count: MinItemCount = 2,
    valid_share: ValidShare = 0.1,
    test_share: TestShare = 0.3,
    drop_invalid: DropInvalid = False,
    memory_mb: MemoryMb = 2000,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Taobao's UserBehavior by the paper's protocol: who clicked T times is asked about the T-th click, or another item.

    A coin decides which of the two. The history is the last 200 clicks before the T-th. The users who click last are the test.
    Legacy: target-in-history (the candidate ends its own history), item-zero-is-padding (the smallest item id vanishes),
    all-behaviours (carts, favourites and purchases too), uniform-negatives (every item alike), any-time (broken clocks too).
    Meanwhile up to three times the unpacked log is on the disk of --out (benchmarks/LARGE_LOG.md).

    Example: uic data prepare taobao --source UserBehavior.csv.zip --out data/taobao
    """
    from model.data import taobao
    from model.data.last_event import LastEventSettings

    if source is None:
        raise BadInput(f"expected --source PATH\n{taobao.HOW_TO_OBTAIN}")
    asked = set(legacy or ())
    clock = {} if Legacy.ANY_TIME in asked else {"first_ms": taobao.FIRST_MS, "end_ms": taobao.END_MS}
    settings = LastEventSettings(
        length=length or None, min_history=min_history, samples_per_user=1, split="time", valid_share=valid_share,
        test_share=test_share, window_ms=_window_ms(window_hours), min_item_count=min_item_count, seed=seed,
        behaviours=taobao.BEHAVIOURS if Legacy.ALL_BEHAVIOURS in asked else (taobao.CLICK,),
        uniform_negatives=Legacy.UNIFORM_NEGATIVES in asked,
        target_in_history=Legacy.TARGET_IN_HISTORY in asked,
        padding_item=Legacy.ITEM_ZERO_IS_PADDING in asked,
        **clock,
    )  # fmt: skip
    console = Console()
    with stages(console) as report:
        dataset = prepare_taobao(
            source, out, settings, drop_invalid=drop_invalid, memory_mb=memory_mb, overwrite=overwrite, report=report
        )
    summarise(console, dataset)
    if asked:
        refused = "leaks were not refused" if settings.is_legacy else "leaks would have been refused"
        console.print(f"legacy: {', '.join(sorted(asked))}; {refused}. What is measured on this dataset must say so.")
    beside_the_paper(console, dataset)


def prepare_amazon(
    reviews: Path,
    metadata: Path,
    out: Path,
    settings: "LastEventSettings",
    *,
    drop_invalid: bool = False,
    memory_mb: int = 2000,
    overwrite: bool = False,
    report: Report = lambda stage: None,
) -> "Dataset":
    """Make a dataset in `out` of Amazon's reviews and metadata."""
    from model.data import amazon
    from model.data.dataset import Names, file_digest
    from model.data.last_event import prepare
    from model.data.prepare import Source

    _existing(reviews, metadata, how_to_obtain=amazon.HOW_TO_OBTAIN)

    def fill(log: "LogTable") -> "tuple[dict[str, int], Names]":
        tables, bad = amazon.read_reviews(reviews, drop_invalid=drop_invalid, report=report)
        log.load(tables)
        wanted = set(log.arrays("SELECT DISTINCT item_id FROM raw")["item_id"].tolist())
        categories, bad_metadata = amazon.read_categories(metadata, wanted, drop_invalid=drop_invalid, report=report)
        log.categorise(categories.items, categories.numbers)
        invalid = {"reviews": bad.count, "metadata": bad_metadata.count}
        return {name: n for name, n in invalid.items() if n}, Names(categories=categories.names, items={})

    report(f"taking the checksums of {reviews.name} and {metadata.name}")
    digest = f"{file_digest(reviews)}+{file_digest(metadata)}"
    source = Source(name="amazon-books", digest=digest, terms=amazon.HOW_TO_OBTAIN, origin=f"{reviews.name}, {metadata.name}")
    return prepare(
        fill, out, settings, source=source, paper=amazon.TABLE_1, memory_mb=memory_mb, replace=overwrite, report=report
    )


def prepare_taobao(
    source: Path,
    out: Path,
    settings: "LastEventSettings",
    *,
    drop_invalid: bool = False,
    memory_mb: int = 2000,
    overwrite: bool = False,
    report: Report = lambda stage: None,
) -> "Dataset":
    """Make a dataset in `out` of Taobao's UserBehavior.csv."""
    from model.data import taobao
    from model.data.dataset import file_digest
    from model.data.last_event import prepare
    from model.data.prepare import Source

    _existing(source, how_to_obtain=taobao.HOW_TO_OBTAIN)

    def fill(log: "LogTable") -> tuple[dict[str, int], None]:
        tables, bad = taobao.read(source, drop_invalid=drop_invalid, report=report)
        log.load(tables)
        return {"lines": bad.count} if bad.count else {}, None

    report(f"taking the checksum of {source.name}")
    named = Source(name="taobao", digest=file_digest(source), terms=taobao.HOW_TO_OBTAIN, origin=source.name)
    return prepare(
        fill, out, settings, source=named, paper=taobao.TABLE_1, memory_mb=memory_mb, replace=overwrite, report=report
    )


def _existing(*paths: Path, how_to_obtain: str) -> None:
    for path in paths:
        if not path.is_file():
            raise BadInput(
                f"{path}: expected a file, but there is {'a folder' if path.is_dir() else 'nothing'}\n{how_to_obtain}"
            )


def _window_ms(hours: float | None) -> int | None:
    if hours is None:
        return None
    if not 0 < hours < 1e6:
        raise BadInput(f"--window-hours: expected a number above 0, got {hours}")
    return max(1, round(hours * HOUR_MS))
