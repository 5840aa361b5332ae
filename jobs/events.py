"""`uic events make|generate|produce`; here is `make`: a dataset's events as the JSON-lines files that the update job reads."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from jobs.generate import KIND, PER_FILE, generate_command
from jobs.send import produce_command
from uic.artefact import new_directory
from uic.errors import BadInput

if TYPE_CHECKING:  # pandas and pyarrow take seconds to load, and `uic --help` must not
    from model.data.dataset import Dataset

events_app = typer.Typer(no_args_is_help=True, help="Events for the update job: files, and into Kafka.")
events_app.command("generate")(generate_command)
events_app.command("produce")(produce_command)


@events_app.callback()
def _group() -> None:
    """Events for the update job: files, and into Kafka."""


@events_app.command("make")
def make_command(
    data: Annotated[Path, typer.Option(help="A dataset that `uic data prepare` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    per_file: Annotated[int, typer.Option(help="Events in each file.")] = PER_FILE,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace older event files in the output folder.")] = False,
) -> None:
    """Write all events of a dataset in the order of the log, one JSON object a line.

    Example: uic events make --data data/ml-100k --out data/ml-100k-events
    """
    from model.data.dataset import Dataset

    console = Console()
    with console.status("writing events"):
        count, files = write_events(Dataset.open(data), out, per_file=per_file, replace=overwrite)
    console.print(f"{count} events in {files} files: {out}")


def write_events(dataset: "Dataset", out: Path, *, per_file: int = PER_FILE, replace: bool = False) -> tuple[int, int]:
    """Write `events-00000.jsonl` and so on into `out`; returns how many events and files.

    Files and lines follow time; at one time, user and position. So the lines of one user are in the order of `position`.
    """
    if per_file < 1:
        raise BadInput(f"--per-file: expected at least 1, got {per_file}")
    with new_directory(out, KIND, replace=replace) as partial:
        # A stable sort of rows that are sorted by (user, position), where time never runs backwards within a user.
        events = dataset.events().sort_values("time_ms", kind="stable")
        texts = {text: json.dumps(text, ensure_ascii=False) for name in ("user", "behaviour") for text in events[name].unique()}
        columns = ("user", "item_id", "category_id", "behaviour", "time_ms")
        rows = zip(*(events[name].tolist() for name in columns), strict=True)
        lines = [
            f'{{"user_id":{texts[user]},"item_id":{item},"category_id":{category},"behaviour":{texts[kind]},"time_ms":{time}}}\n'
            for user, item, category, kind, time in rows
        ]
        starts = range(0, len(lines), per_file)
        width = max(5, len(str(len(starts) - 1)))  # names must sort like numbers
        for number, start in enumerate(starts):
            with (partial / f"events-{number:0{width}d}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(lines[start : start + per_file])
    return len(lines), len(starts)
