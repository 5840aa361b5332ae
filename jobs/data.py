"""`uic data ...`: make a dataset out of a known log or of any, and look at one. The paper's two logs are in paper_data.py.

The work is in model/data; here are the command line, the clock, the environment and what is printed.
"""

import datetime
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from jobs.data_shown import Report, by_days, stages
from jobs.data_shown import summarise as summarise
from jobs.paper_data import amazon_command, taobao_command
from uic.errors import BadInput

if TYPE_CHECKING:  # pandas and scikit-learn take seconds to load, and `uic --help` must not
    from model.data.dataset import Dataset
    from model.data.event_log import CleanTable, TableColumns
    from model.data.prepare import PrepareSettings, Source

data_app = typer.Typer(no_args_is_help=True, help="Make datasets for training, and look at them.")
prepare_app = typer.Typer(no_args_is_help=True, help="Make a dataset from a known log, or from one of your own.")
data_app.add_typer(prepare_app, name="prepare")
prepare_app.command("amazon-books")(amazon_command)
prepare_app.command("taobao")(taobao_command)

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
# Half of the ratings share a second with another of their user, who rates 50 films in a sitting: in an hour's window most
# events are the user's own, so that "in the history" alone tells the negatives (AUC 0.15; with a week 0.39).
ML100K_WINDOW_HOURS = 168.0
# A log of unknown pace: an hour passes the leak check on news clicks and on shop visits alike, a day fails it on the latter.
TABLE_WINDOW_HOURS = 1.0

Window = Annotated[
    float, typer.Option(help="Negatives are drawn from all users' events of this many hours before the positive.")
]
Negatives = Annotated[int, typer.Option(help="Negatives for each positive.")]
MinHistory = Annotated[int, typer.Option(help="Leave out samples whose user has fewer earlier events.")]
MinItemCount = Annotated[
    int, typer.Option(help="Items with fewer events in the training part share the out-of-vocabulary row.")
]
TrainShare = Annotated[float, typer.Option(help="Share of the events, oldest first, that is for training.")]
ValidShare = Annotated[float, typer.Option(help="Share that follows, for validation; the rest is the test.")]
Behaviours = Annotated[str | None, typer.Option(help="Accepted behaviours, such as `click,buy`. Default: all in the log.")]
Seed = Annotated[int, typer.Option(help="Seed of the drawn negatives.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an older dataset in the output folder.")]


@prepare_app.command("ml-100k")
def ml100k_command(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("data/ml-100k"),
    source: Annotated[
        Path | None, typer.Option(help="Folder or zip with u.data and u.item. Default: GroupLens' address, else PyPI.")
    ] = None,
    window_hours: Window = ML100K_WINDOW_HOURS,
    negatives: Negatives = 1,
    min_history: MinHistory = 1,
    min_item_count: MinItemCount = 2,
    train_share: TrainShare = 0.8,
    valid_share: ValidShare = 0.1,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """MovieLens 100K: 100,000 ratings as behaviour events, a film's genre set as its category.

    Example: uic data prepare ml-100k --out data/ml-100k
    """
    console = Console()
    with stages(console) as report:
        dataset = prepare_ml100k(
            out,
            _settings(window_hours, negatives, min_history, min_item_count, train_share, valid_share, None, seed),
            source=source,
            overwrite=overwrite,
            report=report,
        )
    summarise(console, dataset)


@prepare_app.command("table")
def table_command(
    events: Annotated[Path, typer.Option(help="The log: a .parquet or .csv file, one event a row.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    samples: Annotated[
        Path | None, typer.Option(help="Labelled impressions (user, candidate, label, time): none are drawn then.")
    ] = None,
    user_column: Annotated[str, typer.Option(help="Users: text or integers.")] = "user_id",
    item_column: Annotated[str, typer.Option(help="Items, or candidates: integers.")] = "item_id",
    category_column: Annotated[
        str | None, typer.Option(help="Categories: integers, -1 for unknown. Default: category_id, if there is one.")
    ] = None,
    behaviour_column: Annotated[
        str | None, typer.Option(help="What the user did. Default: behaviour, unless --behaviour is given.")
    ] = None,
    behaviour: Annotated[str | None, typer.Option(help="One behaviour for all events, for a log without a column.")] = None,
    time_column: Annotated[str, typer.Option(help="Times: seconds or milliseconds since 1970.")] = "time_ms",
    label_column: Annotated[str, typer.Option(help="Labels of the impressions: 0 or 1.")] = "label",
    features: Annotated[
        str | None, typer.Option(help="Columns of the impressions for the CTR head, such as `bid,hour`.")
    ] = None,
    time_unit: Annotated[Literal["auto", "s", "ms"], typer.Option(help="auto: told by the size of the numbers.")] = "auto",
    drop_invalid: Annotated[bool, typer.Option("--drop-invalid", help="Leave out unusable rows and count them.")] = False,
    behaviours: Behaviours = None,
    window_hours: Window = TABLE_WINDOW_HOURS,
    negatives: Negatives = 1,
    min_history: MinHistory = 1,
    min_item_count: MinItemCount = 2,
    train_share: TrainShare = 0.8,
    valid_share: ValidShare = 0.1,
    seed: Seed = 0,
    progressive: Annotated[
        str | None,
        typer.Option(
            help="Test days, FIRST:LAST or FIRST (YYYY-MM-DD, UTC): a dataset for each, trained on what is before it."
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Any log with users, items, categories, behaviours and times; optionally labelled impressions too.

    Where items live for days, as news do, one cut in time tests on items that training never saw. With --progressive there
    is a dataset OUT/DAY for each day: train on one, export, and train on with the next day's (`uic train --init-from BUNDLE
    --since DAY --until NEXT`). Known items keep their rows, and new ones are appended.

    Example: uic data prepare table --events clicks.csv --behaviour-column action --time-column timestamp --out data/clicks
    """
    from model.data.event_log import TableColumns

    if behaviour is not None and behaviour_column is not None:
        raise BadInput(f"expected --behaviour or --behaviour-column, got both ({behaviour}, {behaviour_column})")
    columns = TableColumns(
        user=user_column,
        item=item_column,
        category=category_column,
        behaviour=behaviour_column or (None if behaviour else "behaviour"),
        time=time_column,
        label=label_column,
        features=_words(features) or (),
    )
    console = Console()
    settings = _settings(
        window_hours, negatives, min_history, min_item_count, train_share, valid_share, _words(behaviours), seed
    )
    reading: dict[str, Any] = {  # the arguments of two functions, by name
        "columns": columns, "samples": samples, "behaviour": behaviour, "time_unit": time_unit,
        "drop_invalid": drop_invalid, "overwrite": overwrite,
    }  # fmt: skip
    days = None if progressive is None else _days(progressive)
    with stages(console) as report:
        if days is not None:
            datasets = prepare_days(events, out, settings, days, report=report, **reading)
        else:
            datasets = [prepare_table(events, out, settings, report=report, **reading)]
    if days is None:
        summarise(console, datasets[0])
    else:
        by_days(console, datasets)


@data_app.command("show")
def show_command(
    dataset: Annotated[Path, typer.Argument(help="A folder that `uic data prepare` wrote.")],
    as_json: Annotated[bool, typer.Option("--json", help="Everything that stats.json holds.")] = False,
) -> None:
    """What is in a dataset: counts, split times, leak figures.

    Example: uic data show data/ml-100k
    """
    from model.data.dataset import Dataset

    opened = Dataset.open(dataset)
    if as_json:
        Console().print_json(data=opened.stats)
    else:
        summarise(Console(), opened)


def prepare_ml100k(
    out: Path,
    settings: "PrepareSettings | None" = None,
    *,
    source: Path | None = None,
    overwrite: bool = False,
    report: Report = lambda stage: None,
) -> "Dataset":
    """Fetch MovieLens 100K (or take `source`), show GroupLens' terms, and make a dataset of it in `out`."""
    from model.data import ml100k, ml100k_source
    from model.data.event_log import Reading, TableColumns, clean_events
    from model.data.prepare import PrepareSettings, Source, prepare

    report(ml100k.TERMS)
    data, origin = ml100k_source.load(source, ml100k_source.cache_directory(os.environ), report=report)
    report(f"MovieLens 100K from {origin}")
    log = clean_events(data.events(), TableColumns(time="time"), Reading(time_unit="s"), what="MovieLens 100K")
    return prepare(
        log,
        out,
        settings or PrepareSettings(window_ms=int(ML100K_WINDOW_HOURS * HOUR_MS)),
        source=Source(name="ml-100k", digest=ml100k.RATINGS_DIGEST, terms=ml100k.TERMS),
        names=data.names(),
        replace=overwrite,
        report=report,
    )


def prepare_table(
    events: Path,
    out: Path,
    settings: "PrepareSettings",
    *,
    columns: "TableColumns",
    samples: Path | None = None,
    behaviour: str | None = None,
    time_unit: Literal["auto", "s", "ms"] = "auto",
    drop_invalid: bool = False,
    overwrite: bool = False,
    report: Report = lambda stage: None,
) -> "Dataset":
    """Make a dataset in `out` of a log in a file, and of labelled impressions if there are any."""
    from model.data.prepare import prepare

    log, impressions, source = _read(events, samples, columns, behaviour, time_unit, drop_invalid, report)
    return prepare(log, out, settings, source=source, impressions=impressions, replace=overwrite, report=report)


def prepare_days(
    events: Path,
    out: Path,
    settings: "PrepareSettings",
    days: tuple[datetime.date, datetime.date],
    *,
    columns: "TableColumns",
    samples: Path | None = None,
    behaviour: str | None = None,
    time_unit: Literal["auto", "s", "ms"] = "auto",
    drop_invalid: bool = False,
    overwrite: bool = False,
    report: Report = lambda stage: None,
) -> "list[Dataset]":
    """Make a dataset in `out`/YYYY-MM-DD for each day (UTC) from the first to the last: its test, after all before."""
    from model.data.prepare import prepare

    log, impressions, source = _read(events, samples, columns, behaviour, time_unit, drop_invalid, report)
    last_ms = int((log if impressions is None else impressions).frame["time_ms"].max())
    first_day_ms, last_day_ms = (
        int(datetime.datetime.combine(day, datetime.time(), datetime.UTC).timestamp() * 1000) for day in days
    )
    test_days = range(first_day_ms, min(last_ms, last_day_ms) + 1, DAY_MS)
    if not test_days:
        raise BadInput(f"--progressive: expected days of the log, which ends at {last_ms} (ms), got {days[0]} to {days[1]}")
    made = []
    for day_ms in test_days:
        day = datetime.datetime.fromtimestamp(day_ms / 1000, datetime.UTC).date().isoformat()
        report(f"{day}: ordering events")
        made.append(
            prepare(
                log, out / day, settings, source=source, impressions=impressions, test_day_ms=day_ms, replace=overwrite,
                report=lambda stage, day=day: report(f"{day}: {stage}"),  # type: ignore[misc]  # the default binds this day
            )
        )  # fmt: skip
    return made


def _read(
    events: Path,
    samples: Path | None,
    columns: "TableColumns",
    behaviour: str | None,
    time_unit: Literal["auto", "s", "ms"],
    drop_invalid: bool,
    report: Report,
) -> "tuple[CleanTable, CleanTable | None, Source]":
    from model.data.dataset import file_digest
    from model.data.event_log import Reading, clean_events, clean_impressions
    from model.data.prepare import Source
    from model.data.table_file import column_names, is_csv, read_table

    if columns.features and samples is None:
        raise BadInput(f"--features {','.join(columns.features)}: head features come with impressions, expected --samples too")

    def named(path: Path) -> "TableColumns":
        known = columns.category is None and "category_id" in column_names(path)
        return replace(columns, category="category_id") if known else columns

    def reading(path: Path) -> Reading:
        latest_ms = int(time.time() * 1000) + DAY_MS
        return Reading(time_unit=time_unit, latest_ms=latest_ms, drop_invalid=drop_invalid, from_text=is_csv(path))

    report(f"reading {events.name}")
    names = named(events)
    wanted = [names.user, names.item, names.time, names.behaviour, names.category]
    text = [name for name in (names.user, names.behaviour) if name is not None]
    table = read_table(events, [name for name in wanted if name is not None], text)
    log = clean_events(table, names, reading(events), behaviour=behaviour, what=events.name)
    report(f"{events.name}: {log.rows_read} rows, times in {log.time_unit}")

    impressions, digest = None, file_digest(events)
    if samples is not None:
        report(f"reading {samples.name}")
        names = named(samples)
        wanted = [names.user, names.item, names.time, names.label, names.category, *names.features]
        table = read_table(samples, [name for name in wanted if name is not None], [names.user])
        impressions = clean_impressions(table, names, reading(samples), what=samples.name)
        report(f"{samples.name}: {impressions.rows_read} rows, times in {impressions.time_unit}")
        digest = f"{digest}+{file_digest(samples)}"
    return log, impressions, Source(name=events.name, digest=digest)


def _settings(
    window_hours: float,
    negatives: int,
    min_history: int,
    min_item_count: int,
    train_share: float,
    valid_share: float,
    behaviours: tuple[str, ...] | None,
    seed: int,
) -> "PrepareSettings":
    from model.data.prepare import PrepareSettings

    if not 0 < window_hours < 1e6:
        raise BadInput(f"--window-hours: expected a number above 0, got {window_hours}")
    return PrepareSettings(
        window_ms=max(1, round(window_hours * HOUR_MS)),
        negatives=negatives,
        min_history=min_history,
        min_item_count=min_item_count,
        train_share=train_share,
        valid_share=valid_share,
        behaviours=behaviours,
        seed=seed,
    )


def _days(text: str) -> tuple[datetime.date, datetime.date]:
    first, separator, last = text.partition(":")
    try:
        return datetime.date.fromisoformat(first), datetime.date.fromisoformat(last) if separator else datetime.date.max
    except ValueError:
        raise BadInput(f"--progressive: expected days such as 2017-10-10:2017-10-14 or 2017-10-10, got {text!r}") from None


def _words(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(word.strip() for word in text.split(",") if word.strip())
