"""Small raw files in the true formats of the paper's two logs."""

import gzip
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from model.data.amazon import asin
from model.data.dataset import Dataset
from model.data.last_event import LastEventSettings, prepare
from model.data.log_table import RAW_COLUMNS, LogTable
from model.data.prepare import Source
from model.data.taobao import FIRST_MS

TaobaoLine = tuple[int, int, int, str, int]
Review = tuple[str, str, int]
DAY_S = 86_400


def taobao_log(*, users: int = 60, rows: int = 1500, items: int = 40, seed: int = 0) -> list[TaobaoLine]:
    """Everyone does everything on a small, stable catalogue, item 0 among it; many events of a user share a second."""
    rng = np.random.default_rng(seed)
    item = rng.integers(items, size=rows)
    behaviour = rng.choice(["pv", "cart", "fav", "buy"], p=[0.8, 0.1, 0.05, 0.05], size=rows)
    seconds = FIRST_MS // 1000 + rng.integers(2000, size=rows) * 380
    user = rng.integers(users, size=rows)
    return [
        (int(u) + 1000, int(i), int(i) % 5, str(b), int(t)) for u, i, b, t in zip(user, item, behaviour, seconds, strict=True)
    ]


def write_taobao(path: Path, log: Sequence[TaobaoLine], end: str = "\n") -> Path:
    path.write_text("".join(",".join(map(str, line)) + end for line in log))
    return path


def amazon_log(*, users: int = 60, items: int = 80, seed: int = 0) -> list[Review]:
    """Everyone reviews 5 to 40 books, several on one day as in the true files, whose clock has days only."""
    rng = np.random.default_rng(seed)
    log = []
    for user in range(users):
        length = int(rng.integers(5, 41))
        books = rng.choice(items, size=length, replace=False)
        days = 15_000 + np.sort(rng.integers(30, size=length))
        log += [(f"A{user:05}", asin(int(book) + 1), int(day) * DAY_S) for book, day in zip(books, days, strict=True)]
    return log


def review_line(review: Review) -> str:
    user, book, seconds = review
    return json.dumps(
        {
            "reviewerID": user,
            "asin": book,
            "reviewerName": 'Bill "Bob"',
            "helpful": [0, 1],
            "reviewText": "It's {so} good: 'asin': '9999999999'",
            "overall": 5.0,
            "summary": "Ünïcödé",
            "unixReviewTime": seconds,
            "reviewTime": "12 16, 2012",
        },
        ensure_ascii=False,
    )


def metadata_line(book: str, path: Sequence[str] | None) -> str:
    """A line of the old metadata: a Python literal, not JSON."""
    known = {} if path is None else {"categories": [list(path), ["Books", "Second path"]]}
    return repr(
        {"asin": book, "salesRank": {"Books": 6334800}, "title": "It's", "related": {"also_bought": ["0000000001"]}, **known}
    )


def write_amazon(folder: Path, log: Sequence[Review], *, pack: Callable[[bytes], bytes] = bytes) -> tuple[Path, Path]:
    """Reviews and metadata; every seventh book has no line of metadata, and one line is of a book nobody reviewed."""
    folder.mkdir(parents=True, exist_ok=True)
    books = sorted({book for _, book, _ in log})
    described = [metadata_line(book, ["Books", f"Subject {number % 6}"]) for number, book in enumerate(books) if number % 7]
    described.append(metadata_line("ZZZZZZZZZZ", ["Books", "Never reviewed"]))
    reviews, metadata = folder / "reviews", folder / "metadata"
    reviews.write_bytes(pack("".join(review_line(review) + "\n" for review in log).encode()))
    metadata.write_bytes(pack("".join(line + "\n" for line in described).encode()))
    return reviews, metadata


def gzipped(path: Path) -> Path:
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return packed


def zipped(path: Path) -> Path:
    packed = path.with_name(path.name + ".zip")
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(path.name, path.read_bytes())
    return packed


def settings(**changes: object) -> LastEventSettings:
    """The protocol of Amazon's log on a small scale."""
    usual = {"length": 100, "min_history": 1, "samples_per_user": 2, "split": "user", "test_share": 0.3, "valid_share": 0.3}
    return LastEventSettings(**(usual | changes))  # type: ignore[arg-type]  # any field, by name


def prepared(
    out: Path, log: pd.DataFrame, chosen: LastEventSettings, *, rows_at_once: int = 10_000, memory_mb: int = 500
) -> Dataset:
    """A dataset of a frame of user_id, item_id, category_id, behaviour, time_ms, by the paper's protocol."""
    table = pa.Table.from_pandas(log.assign(line=np.arange(len(log)))[list(RAW_COLUMNS)], preserve_index=False)

    def fill(to: LogTable) -> tuple[dict[str, int], None]:
        to.load(table.slice(start, rows_at_once) for start in range(0, len(table), rows_at_once))
        return {}, None

    return prepare(fill, out, chosen, source=Source(name="toy", digest="none"), memory_mb=memory_mb, replace=True)


def random_log(seed: int, *, users: int = 30, rows: int = 300, items: int = 8, moments: int = 60) -> pd.DataFrame:
    """Few moments and few items: times tie, events repeat, histories hold their own target, and training sees every item."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "user_id": [f"u{user}" for user in rng.integers(users, size=rows)],
            "item_id": rng.integers(items, size=rows),
            "category_id": rng.integers(-1, 4, size=rows),
            "behaviour": rng.choice(["pv", "buy"], size=rows).astype(object),
            "time_ms": rng.integers(moments, size=rows) * 1000,
        }
    )
