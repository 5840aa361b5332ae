"""`uic score` and `uic user show`: what is remembered of one user, and what it says about candidates."""

import datetime
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from jobs.forget import forget_command
from uic.errors import BadInput
from uic.event import MAX_TEXT_BYTES

if TYPE_CHECKING:
    from uic.bundle import Bundle
    from uic.memory import UserMemory
    from uic.store.contract import ReadableStore

_ID = re.compile(r"-?[0-9]+")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

user_app = typer.Typer(help="What is remembered of a user.", no_args_is_help=True)

BundleOption = Annotated[Path, typer.Option(help="The bundle that the memories were made with.")]
StoreOption = Annotated[Path | None, typer.Option(help="The online store; default: store.path of uic.yaml.")]
AsOfOption = Annotated[str | None, typer.Option(help="The memory as it was when this day began, such as 2026-11-20.")]


@user_app.callback()
def _user() -> None:
    """What is remembered of a user."""


user_app.command("forget")(forget_command)


def score_command(
    ctx: typer.Context,
    user: Annotated[str, typer.Option(help="The user.")],
    items: Annotated[str, typer.Option(help="Candidates: item ids, or item:category, separated by commas.")],
    bundle: BundleOption,
    store: StoreOption = None,
    as_of: AsOfOption = None,
) -> None:
    """Score candidates from a user's memory, as it is or as it was when a day began.

    Example: uic score --user 196 --items 242,302:9 --bundle bundles/first --as-of 2026-11-20
    """
    from serving.scorer import Scorer

    check_user(user)
    day = parse_day(as_of)
    opened, memories = open_pair(bundle, store or ctx.obj.store.path)
    try:
        item_ids, category_ids = parse_candidates(items)
        blob = memories.read(user, as_of=day)
        memory = opened.initial if blob is None else opened.published.decode(blob)
        probability_N = Scorer(opened, memories).score_memory(memory, item_ids, category_ids)
    finally:
        memories.close()
    console = Console(soft_wrap=True, highlight=False, markup=False)
    when = _when_words(day, memories.zone)
    if blob is None:
        console.print(f"user {user!r} {_absent(day)} in the store{when}: scored from the initial memory")
    else:
        console.print(f"user {user!r}: memory after {memory.sequence} events{when}")
    unknown = opened.items.rows(item_ids) == 1
    table = Table("item", "category", "P(click)", "")
    for item, category, probability, new in zip(item_ids, category_ids, probability_N, unknown, strict=True):
        table.add_row(str(item), str(category), f"{probability:.4f}", "item unknown to the bundle" if new else "")
    console.print(table)


def open_pair(bundle: Path, store: Path) -> tuple["Bundle", "ReadableStore"]:
    """A bundle and a store that belong together; raises StoreMismatch where they do not."""
    from uic.bundle import Bundle
    from uic.store.opening import check_identity
    from uic.store.sharded import open_to_read

    opened = Bundle.open(bundle)
    memories = open_to_read(store)
    try:
        check_identity(memories.identity, opened.identity, store)
    except Exception:
        memories.close()
        raise
    return opened, memories


def check_user(user: str) -> None:
    """Raise BadInput for what no event could have as its user_id."""
    try:
        size = len(user.encode())
    except UnicodeEncodeError:
        size = 0
    if not 1 <= size <= MAX_TEXT_BYTES:
        raise BadInput(f"user: expected 1 to {MAX_TEXT_BYTES} bytes of UTF-8, got {user!a}")


def parse_day(text: str | None) -> datetime.date | None:
    """`2026-11-20` to the day."""
    if text is None:
        return None
    try:
        if not _DAY.fullmatch(text):
            raise ValueError(text)
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise BadInput(f"--as-of: expected a day such as 2026-11-20, got {text!r}") from None


def _when_words(day: datetime.date | None, zone: str) -> str:
    return "" if day is None else f", as of the beginning of {day} ({zone})"


def _absent(day: datetime.date | None) -> str:
    return "is not" if day is None else "was not"


def parse_candidates(text: str) -> tuple["np.typing.NDArray[np.int64]", "np.typing.NDArray[np.int64]"]:
    """`242,302:9` to item ids and category ids; a category not given is -1, unknown."""
    items, categories = [], []
    for part in text.split(","):
        item, colon, category = part.strip().partition(":")
        try:
            items.append(_id(item))
            categories.append(_id(category) if colon else np.int64(-1))
        except (ValueError, OverflowError):
            raise BadInput(f"--items: expected 64-bit item ids, or item:category, such as 242,302:9; got {part!r}") from None
    return np.array(items, dtype=np.int64), np.array(categories, dtype=np.int64)


def _id(text: str) -> np.int64:
    # int() alone takes 1_000 and the digits of other scripts too.
    if not _ID.fullmatch(text):
        raise ValueError(text)
    return np.int64(int(text))


@user_app.command("show")
def show_command(
    ctx: typer.Context,
    user: Annotated[str, typer.Argument(help="The user.")],
    bundle: BundleOption,
    store: StoreOption = None,
    nearest: Annotated[int, typer.Option(help="How many categories to name a slot.")] = 3,
    as_of: AsOfOption = None,
) -> None:
    """Show what is remembered of a user, now or when a day began: events, times, how slots are used, categories near to each.

    Example: uic user show 196 --bundle bundles/first --as-of 2026-11-20
    """
    check_user(user)
    day = parse_day(as_of)
    opened, memories = open_pair(bundle, store or ctx.obj.store.path)
    try:
        blob = memories.read(user, as_of=day)
    finally:
        memories.close()
    when = _when_words(day, memories.zone)
    if blob is None:
        raise BadInput(f"user {user!r} {_absent(day)} in the store{when}; a score would be given from the initial memory")
    console = Console(soft_wrap=True, highlight=False, markup=False)
    if day is not None:
        console.print(when.removeprefix(", "))
    _print_memory(console, opened, user, opened.published.decode(blob), len(blob), nearest)


def _print_memory(console: Console, bundle: "Bundle", user: str, memory: "UserMemory", size: int, nearest: int) -> None:
    console.print(f"user {user!r}: {memory.sequence} events applied, {size} bytes in {memory.numbers}")
    console.print(f"last event  {_when(memory.last_time_ms)}")
    console.print(f"taken in    {_when(memory.log_time_ms)}")
    console.print(f"bundle      {memory.bundle_version} ({_when(memory.bundle_version)}), generation {memory.generation}")
    tensors = bundle.layout.split(memory.state_F)
    if "utilization" not in tensors:
        # Another model's memory: only MIMN's slots are written by shares.
        plain = Table("tensor", "shape", "norm")
        for spec in bundle.layout.tensors:
            plain.add_row(spec.name, " x ".join(map(str, spec.shape)), f"{np.linalg.norm(tensors[spec.name]):.2f}")
        console.print(plain)
        return
    written = tensors["utilization"] / max(float(tensors["utilization"].sum()), 1e-6)
    names = bundle.category_names()
    table = Table("slot", "share of writes", "norm", "nearest categories (cosine)")
    for place, (share, slot) in enumerate(zip(written, tensors["slots"], strict=True)):
        near = _nearest_categories(bundle, slot, nearest)
        text = ", ".join(f"{names.get(category, category)} ({cosine:+.2f})" for category, cosine in near)
        table.add_row(str(place), f"{share:6.1%} {'#' * round(20 * share)}", f"{np.linalg.norm(slot):.2f}", text)
    console.print(table)


def _nearest_categories(bundle: "Bundle", slot_D: "np.typing.NDArray[np.float32]", most: int) -> list[tuple[int, float]]:
    """The categories whose embeddings point where the category half of a slot points."""
    table = np.asarray(bundle.embeddings()[1])[2:]
    half = slot_D[-table.shape[1] :]
    norms = np.linalg.norm(table, axis=1) * np.linalg.norm(half) + 1e-8
    cosines = table @ half / norms
    return [(int(bundle.categories.ids[row]), float(cosines[row])) for row in np.argsort(-cosines)[:most]]


def _when(time_ms: int | None) -> str:
    if time_ms is None:
        return "never"
    try:
        return datetime.datetime.fromtimestamp(time_ms / 1000, tz=datetime.UTC).isoformat(sep=" ", timespec="seconds")
    except (OverflowError, ValueError):
        return f"{time_ms} ms since 1970"
