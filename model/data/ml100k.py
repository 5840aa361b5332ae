"""MovieLens 100K: its two file formats, and the proof that what came is MovieLens 100K.

GroupLens' own layout is `u.data` (tab separated: user, item, rating, seconds) and `u.item` (Latin-1, `|` separated, 19 genre
flags at the end). RecBole's is `ml-100k.inter` and `ml-100k.item` (tab separated, typed headers, genres as words). Both give
the same `MovieLens`, checked against the same digests. Where the files come from is in ml100k_source.py.
"""

import hashlib
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from model.data.dataset import Names
from uic.errors import BadInput

TERMS = """MovieLens 100K, GroupLens Research, University of Minnesota. Terms in short (in full: \
https://files.grouplens.org/datasets/movielens/ml-100k-README.txt):
for research; cite Harper and Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4), 2015,
https://doi.org/10.1145/2827872; do not pass the data on without permission; no commercial use without permission;
do not suggest that the University or GroupLens endorses you."""

BEHAVIOUR = "rate"
GENRES = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]
"""Bit i of a category is GENRES[i], the order of the flags in u.item."""

# SHA-256 over the ratings as sorted lines "user\titem\trating\tseconds\n", and over the films as sorted "item\tgenre mask\n".
RATINGS_DIGEST = "3c61dc9b90a365d2ac50bdee9df8024ddf0eea4b1a15678d9934a77e75fe0ede"
FILMS_DIGEST = "224cb85b66dbc127c6fc89df1d5161501f0c8ee4e8ad649d3a98dc32679fc12f"
# The same rating lines in the order of u.data: a user often rates several films in one second, and the order decides there.
ORDER_DIGEST = "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490"

Files = Mapping[str, bytes]
"""File content by base name."""


@dataclass(frozen=True, kw_only=True)
class MovieLens:
    """The ratings in the order of u.data, and of each film its genre mask and title."""

    ratings: pd.DataFrame
    genre_masks: dict[int, int]
    titles: dict[int, str]

    def events(self) -> pd.DataFrame:
        """The ratings as a table of behaviour events: user_id, item_id, category_id, behaviour, time (in seconds)."""
        return pd.DataFrame(
            {
                "user_id": self.ratings["user"],
                "item_id": self.ratings["item"],
                "category_id": self.ratings["item"].map(self.genre_masks).astype("int64"),
                "behaviour": BEHAVIOUR,
                "time": self.ratings["seconds"],
            }
        )

    def names(self) -> Names:
        """Genre sets such as `Comedy|Romance`, and film titles."""
        masks = sorted(set(self.genre_masks.values()))
        return Names(categories={mask: genre_names(mask) for mask in masks}, items=self.titles)


def genre_names(mask: int) -> str:
    """The genres of a mask in words.

    >>> genre_names(1 << 5 | 1 << 14)
    'Comedy|Romance'
    """
    return "|".join(genre for bit, genre in enumerate(GENRES) if mask >> bit & 1)


def read_files(path: Path) -> Files:
    """The files of either layout in a folder or a zip (a wheel is one too); raises BadInput where there are none."""
    wanted = {"u.data", "u.item", "ml-100k.inter", "ml-100k.item"}
    try:
        if path.is_dir():
            return {name: found[0].read_bytes() for name in wanted if (found := sorted(path.rglob(name)))}
        with zipfile.ZipFile(path) as archive:
            members = {Path(name).name: name for name in archive.namelist() if Path(name).name in wanted}
            return {name: archive.read(member) for name, member in members.items()}
    except FileNotFoundError:
        raise BadInput(f"{path}: expected a folder or a zip with MovieLens 100K, but there is nothing") from None
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as error:  # RuntimeError: encrypted
        raise BadInput(f"{path}: expected a zip with MovieLens 100K, got {error}") from None


def parse(files: Files, where: str) -> MovieLens:
    """Read either layout, whatever its content; raises BadInput naming file and line."""
    if {"u.data", "u.item"} <= files.keys():
        return _parse_grouplens(files, where)
    if {"ml-100k.inter", "ml-100k.item"} <= files.keys():
        return _parse_recbole(files, where)
    raise BadInput(
        f"{where}: expected u.data and u.item (GroupLens) or ml-100k.inter and ml-100k.item (RecBole), "
        f"found {', '.join(sorted(files)) or 'none of them'}"
    )


def check(data: MovieLens, where: str) -> MovieLens:
    """Return `data` if it is MovieLens 100K to the last rating; raises BadInput otherwise."""
    lines = _lines(data)
    found = {
        "ratings": (_digest(sorted(lines)), RATINGS_DIGEST),
        "films": (_digest(sorted(f"{item}\t{mask}\n" for item, mask in data.genre_masks.items())), FILMS_DIGEST),
        "order of the ratings": (_digest(lines), ORDER_DIGEST),
    }
    for what, (digest, expected) in found.items():
        if digest != expected:
            raise BadInput(
                f"{where}: this is not MovieLens 100K as GroupLens publishes it: the {what} should have the digest "
                f"{expected[:16]}..., got {digest[:16]}... ({len(lines)} ratings of 100000, {len(data.genre_masks)} films of "
                "1682); for another data set use `uic data prepare table`"
            )
    return data


def _parse_grouplens(files: Files, where: str) -> MovieLens:
    masks, titles = {}, {}
    for number, line in enumerate(_text(files, "u.item", where, "latin-1").split("\n")[:-1], start=1):
        fields = line.split("|")
        flags = fields[-len(GENRES) :]
        if len(fields) != 5 + len(GENRES) or not fields[0].isdecimal() or not set(flags) <= {"0", "1"}:
            raise BadInput(f"{where}: u.item line {number}: expected id|title|...|19 flags of 0 or 1, got {line[:80]!r}")
        masks[int(fields[0])] = sum(1 << bit for bit, flag in enumerate(flags) if flag == "1")
        titles[int(fields[0])] = fields[1]
    return _movie_lens(_ratings(files, where, "u.data", skip=0), masks, titles, where)


def _parse_recbole(files: Files, where: str) -> MovieLens:
    header, *lines = _text(files, "ml-100k.item", where, "utf-8").split("\n")[:-1]
    expected = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
    if header != expected:
        raise BadInput(f"{where}: ml-100k.item: expected the header {expected!r}, got {header[:120]!r}")
    masks, titles = {}, {}
    for number, line in enumerate(lines, start=2):
        fields = line.split("\t")
        if len(fields) != 4 or not fields[0].isdecimal() or not set(fields[3].split(" ")) <= set(GENRES):
            raise BadInput(f"{where}: ml-100k.item line {number}: expected id, title, year, genres, got {line[:80]!r}")
        masks[int(fields[0])] = sum(1 << GENRES.index(genre) for genre in set(fields[3].split(" ")))
        # RecBole takes the year out of the title, and spells the one film without a title "unkonwn".
        titles[int(fields[0])] = "unknown" if fields[1] == "unkonwn" else f"{fields[1]} ({fields[2]})"
    header = _text(files, "ml-100k.inter", where, "utf-8").partition("\n")[0]
    expected = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    if header != expected:
        raise BadInput(f"{where}: ml-100k.inter: expected the header {expected!r}, got {header[:120]!r}")
    return _movie_lens(_ratings(files, where, "ml-100k.inter", skip=1), masks, titles, where)


def _ratings(files: Files, where: str, name: str, *, skip: int) -> pd.DataFrame:
    lines = _text(files, name, where, "utf-8").split("\n")[skip:-1]
    for number, line in enumerate(lines, start=1 + skip):
        if not re.fullmatch(r"[0-9]{1,9}\t[0-9]{1,9}\t[1-5](\.0)?\t[0-9]{1,12}(\.0)?", line):
            raise BadInput(f"{where}: {name} line {number}: expected user, item, rating, seconds, got {line[:80]!r}")
    values = np.array([line.split("\t") for line in lines], dtype=np.float64).reshape(-1, 4).astype(np.int64)
    return pd.DataFrame(values, columns=["user", "item", "rating", "seconds"])


def _text(files: Files, name: str, where: str, encoding: str) -> str:
    try:
        text = files[name].decode(encoding).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise BadInput(f"{where}: {name}: expected {encoding} text, got byte 0x{files[name][error.start]:02x}") from None
    return text if text.endswith("\n") else text + "\n"


def _movie_lens(ratings: pd.DataFrame, masks: dict[int, int], titles: dict[int, str], where: str) -> MovieLens:
    unknown = sorted(set(ratings["item"]) - masks.keys())
    if unknown:
        raise BadInput(f"{where}: expected each rated film among the {len(masks)} described, got {unknown[:5]} too")
    return MovieLens(ratings=ratings, genre_masks=masks, titles=titles)


def _lines(data: MovieLens) -> list[str]:
    return ["\t".join(map(str, row)) + "\n" for row in data.ratings.to_numpy().tolist()]


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("".join(lines).encode()).hexdigest()
