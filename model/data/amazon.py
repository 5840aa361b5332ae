"""Amazon's reviews and metadata of 2014 (J. McAuley): one object a line, as JSON or, in the old files, as a Python literal.

A review is a behaviour event whatever its rating; an item's category is the last name of its first path. Here are the formats
and where to get them. What becomes of the events is in last_event.py.
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model.data.event_log import UNKNOWN_CATEGORY
from model.data.log_table import RAW_COLUMNS
from model.data.raw_file import BadLines, blocks, opened
from uic.errors import BadInput

BEHAVIOUR = "review"
HOW_TO_OBTAIN = """Amazon's product data of 2014, Books: fetch reviews_Books_5.json.gz (the 5-core, 8,898,041 reviews) and
meta_Books.json.gz from http://snap.stanford.edu/data/amazon/productGraph/categoryFiles/ (described at
https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html) and pass them with --reviews PATH and --metadata PATH, packed or
not. For research; cite R. He and J. McAuley, WWW 2016, and J. McAuley et al., SIGIR 2015."""
TABLE_1 = {"users": 75_053, "items": 358_367, "categories": 1_583, "instances": 150_016}
"""The paper's Table 1. Two samples of each user are 150,106; the authors' scripts drop the tails of the batches."""


class Review(msgspec.Struct):
    """What we read of a line of reviews."""

    reviewerID: str
    asin: str
    unixReviewTime: int


class Metadata(msgspec.Struct):
    """What we read of a line of metadata."""

    asin: str
    categories: list[list[str]] = []


Line = TypeVar("Line", Review, Metadata)
_ASIN = re.compile(r"[0-9A-Z]{10}")
# How each line of the old metadata begins: what nobody reviewed need not be read, and a literal is slow to read.
_OLD_START = re.compile(rb"\{'asin': '([0-9A-Z]{10})'")


def item_id(asin: str) -> int:
    """An ASIN as a number, the same in every file: its ten characters are digits to the base of 36.

    >>> item_id("0001713353"), item_id("B000FA64PK")
    (2601869223, 1117160447427416)
    """
    if not _ASIN.fullmatch(asin):
        raise ValueError(f"asin {asin!r}")
    return int(asin, 36)


def asin(item: int) -> str:
    """The ASIN of an item.

    >>> asin(item_id("B000FA64PK"))
    'B000FA64PK'
    """
    digits = ""
    while item:
        item, digit = divmod(item, 36)
        digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"[digit] + digits
    return digits.zfill(10)


def read_reviews(
    path: Path, *, drop_invalid: bool = False, report: Callable[[str], None] = lambda line: None
) -> tuple[Iterator[Any], BadLines]:  # Any: pyarrow ships no types
    """Tables of RAW_COLUMNS in the order of the file, their category unknown, and the tally of bad lines."""
    bad = BadLines(path, "reviews with reviewerID, asin and unixReviewTime, one object a line", drop_invalid=drop_invalid)
    return _tables(path, bad, report), bad


def _tables(path: Path, bad: BadLines, report: Callable[[str], None]) -> Iterator[Any]:  # Any: pyarrow ships no types
    for first, lines in _numbered(path, "reviews", report):
        rows, wrong = [], []
        for number, line in enumerate(lines, start=first):
            try:
                review = parsed(line, Review)
                user, seconds = review.reviewerID, review.unixReviewTime
                if not (1 <= len(user) <= 128 and user.isascii() and 0 <= seconds < 10**11):
                    raise ValueError
                rows.append((number, user, item_id(review.asin), UNKNOWN_CATEGORY, BEHAVIOUR, seconds * 1000))
            except ValueError:
                wrong.append((number, line.decode(errors="replace")))
        bad.add(wrong)
        columns = list(zip(*rows, strict=True)) or [()] * len(RAW_COLUMNS)
        yield pa.table(
            [pa.array(values, kind) for values, kind in zip(columns, RAW_COLUMNS.values(), strict=True)], list(RAW_COLUMNS)
        )


class Categories:
    """The category of each item, as a number, and what the numbers are called."""

    def __init__(self, of_item: dict[int, str]) -> None:
        self.names = dict(enumerate(sorted(set(of_item.values()))))
        numbers = {name: number for number, name in self.names.items()}
        self.items: NDArray[np.int64] = np.fromiter(of_item, dtype=np.int64, count=len(of_item))
        self.numbers = np.fromiter((numbers[name] for name in of_item.values()), dtype=np.int64, count=len(of_item))


def read_categories(
    path: Path, wanted: set[int], *, drop_invalid: bool = False, report: Callable[[str], None] = lambda line: None
) -> tuple[Categories, BadLines]:
    """The categories of the wanted items; an item that has none in the file is not in the answer."""
    bad = BadLines(path, "metadata with asin and categories, one object a line", drop_invalid=drop_invalid)
    of_item: dict[int, str] = {}
    for first, lines in _numbered(path, "metadata", report):
        wrong = []
        for number, line in enumerate(lines, start=first):
            old = _OLD_START.match(line)
            if old and int(old[1], 36) not in wanted:
                continue
            try:
                metadata = parsed(line, Metadata)
                item = item_id(metadata.asin)
            except ValueError:
                wrong.append((number, line.decode(errors="replace")))
                continue
            if item in wanted and metadata.categories and metadata.categories[0]:
                of_item[item] = metadata.categories[0][-1]
        bad.add(wrong)
    if not of_item:
        raise BadInput(
            f"{path}: expected `categories` such as [['Books', 'Fiction']] of the items reviewed, got none for any of "
            f"{len(wanted)} items; are these the metadata of 2014, and of the same products?"
        )
    return Categories(of_item), bad


def parsed(line: bytes, kind: type[Line]) -> Line:
    """One line, JSON or Python literal; raises ValueError.

    >>> parsed(b"{'asin': '0001713353', 'categories': [['Books', \\"Children's\\"]]}", Metadata).categories
    [['Books', "Children's"]]
    """
    try:
        return msgspec.json.decode(line, type=kind)
    except msgspec.DecodeError:  # which is a ValueError; a ValidationError is one too
        if not line.startswith(b"{'"):
            raise
    try:
        return msgspec.convert(ast.literal_eval(line.decode()), kind)
    except (SyntaxError, MemoryError, RecursionError, TypeError) as error:
        raise ValueError(str(error)) from None


def _numbered(path: Path, what: str, report: Callable[[str], None]) -> Iterator[tuple[int, list[bytes]]]:
    """Blocks of lines, each with the number of its first."""
    first = 1
    with opened(path) as stream:
        for block in blocks(stream):
            lines = block.removesuffix(b"\n").split(b"\n")
            yield first, lines
            first += len(lines)
            report(f"reading {what}: {(first - 1) / 1e6:.1f} million lines of {path.name}")
