"""The dataset: what `uic data prepare` writes and what training, export and the event files read.

    events.parquet    user, position, item_id, category_id, behaviour, time_ms; sorted by (user, position)
    samples.parquet   user, position, item_id, category_id, label, time_ms, split [, f_<name> ...]; sorted by (user, position)
    vocabulary.npz    item_ids, category_ids: raw ids in the order of their embedding rows (vocabulary.py)
    stats.json        counts, split times, parameters, seed, leak figures, label, digests of the source and of the files
    names.json        optional: what people call the items and categories

`position` is the index of an event in its user's own history, fixed once. The history of a sample is every event of its user
with a smaller position than the sample's. How the rows come about is in prepare.py, not here.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from model.data.vocabulary import Vocabularies
from uic.artefact import check_is, new_directory
from uic.errors import BadInput

KIND = "dataset"
FORMAT = 1
EVENTS_FILE = "events.parquet"
FEATURE_PREFIX = "f_"
SPLITS = ("train", "valid", "test")

Split = Literal["train", "valid", "test"]
Stats = dict[str, Any]  # JSON: its shape is written down in prepare.py, where it is made

EVENT_COLUMNS = {
    "user": pa.string(),
    "position": pa.int64(),
    "item_id": pa.int64(),
    "category_id": pa.int64(),
    "behaviour": pa.string(),
    "time_ms": pa.int64(),
}
SAMPLE_COLUMNS = {
    "user": pa.string(),
    "position": pa.int64(),
    "item_id": pa.int64(),
    "category_id": pa.int64(),
    "label": pa.int8(),
    "time_ms": pa.int64(),
    "split": pa.string(),
}


class Names(NamedTuple):
    """What people call the raw ids; empty where nobody said."""

    categories: dict[int, str]
    items: dict[int, str]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A finished dataset directory; `open` checks it, the accessors read it."""

    path: Path
    stats: Stats
    vocabularies: Vocabularies
    features: tuple[str, ...]
    """Names of the head features, in the order of their columns `f_<name>`."""

    @property
    def digest(self) -> str:
        """SHA-256 of stats.json, which holds the digests of the other files: it names this very dataset."""
        return file_digest(self.path / "stats.json")

    @property
    def label(self) -> str:
        """What every result on this dataset must be called: `cold-user` or `known-user`."""
        return str(self.stats["label"])

    def events(self, *columns: str) -> pd.DataFrame:
        """All events (or only these columns of them), sorted by (user, position)."""
        return _read(self.path / EVENTS_FILE, list(columns) or None)

    def samples(self, split: Split | None = None) -> pd.DataFrame:
        """The samples of one split, or of all, sorted by (user, position), a positive before its negatives."""
        filters = None if split is None else [("split", "==", split)]
        return _read(self.path / "samples.parquet", None, filters)

    def names(self) -> Names:
        """What people call items and categories; empty where the source had no names."""
        path = self.path / "names.json"
        if not path.exists():
            return Names({}, {})
        content = _read_json(path)
        return Names(*({int(raw): str(name) for raw, name in content.get(part, {}).items()} for part in Names._fields))

    @classmethod
    def open(cls, path: Path) -> "Dataset":
        """Check that `path` is a whole dataset; raises BadInput with what was expected and what is there."""
        check_is(path, KIND)
        stats = _read_json(path / "stats.json")
        if stats.get("format") != FORMAT:
            raise BadInput(f"{path / 'stats.json'}: expected format {FORMAT}, got {stats.get('format')!r}; prepare it again")
        _check_schema(path / EVENTS_FILE, EVENT_COLUMNS)
        columns = _check_schema(path / "samples.parquet", SAMPLE_COLUMNS)
        features = tuple(name.removeprefix(FEATURE_PREFIX) for name in columns if name.startswith(FEATURE_PREFIX))
        return cls(path=path, stats=stats, vocabularies=Vocabularies.load(path / "vocabulary.npz"), features=features)

    @classmethod
    def write(
        cls,
        path: Path,
        *,
        events: pd.DataFrame,
        samples: pd.DataFrame,
        vocabularies: Vocabularies,
        stats: Stats,
        names: Names | None = None,
        replace: bool = False,
    ) -> "Dataset":
        """Write a dataset that appears whole or not at all; `replace` allows an older dataset to give way."""
        with new_directory(path, KIND, replace=replace) as partial:
            _write(partial / EVENTS_FILE, events, EVENT_COLUMNS)
            complete(partial, samples=samples, vocabularies=vocabularies, stats=stats, names=names)
        return cls.open(path)


def complete(
    directory: Path, *, samples: pd.DataFrame, vocabularies: Vocabularies, stats: Stats, names: Names | None = None
) -> None:
    """Write everything else beside the events that are in `directory` already (a log larger than memory comes in parts)."""
    features = {name: pa.float32() for name in samples.columns if name.startswith(FEATURE_PREFIX)}
    _write(directory / "samples.parquet", samples, SAMPLE_COLUMNS | features)
    vocabularies.save(directory / "vocabulary.npz")
    if names is not None:
        _write_json(directory / "names.json", names._asdict())
    digests = {file.name: file_digest(file) for file in sorted(directory.iterdir())}
    _write_json(directory / "stats.json", {"format": FORMAT, **stats, "files": digests})


def write_events(path: Path, batches: Iterable[Any], *, rows_at_once: int = 1 << 20) -> None:  # Any: pyarrow ships no types
    """Write events batch by batch; the bytes depend on the rows alone, not on how they were cut into batches."""
    schema = pa.schema(list(EVENT_COLUMNS.items()))
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        held = schema.empty_table()
        for batch in batches:
            held = pa.concat_tables([held, pa.Table.from_batches([batch]).cast(schema)])
            while len(held) >= rows_at_once:
                writer.write_table(held.slice(0, rows_at_once).combine_chunks(), row_group_size=rows_at_once)
                held = held.slice(rows_at_once)
        if len(held):
            writer.write_table(held.combine_chunks(), row_group_size=rows_at_once)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_schema(path: Path, expected: Mapping[str, Any]) -> list[str]:  # Any: pyarrow ships no types
    try:
        schema = pq.read_schema(path)
    except FileNotFoundError:
        raise BadInput(f"{path}: expected a Parquet file, but it is missing; prepare the dataset again") from None
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{path}: expected a Parquet file, got {error}") from None
    found = {name: schema.field(name).type for name in schema.names}
    expected = {**expected, **{name: pa.float32() for name in found if name.startswith(FEATURE_PREFIX)}}
    for name, kind in expected.items():
        if name not in found:
            raise BadInput(f"{path}: expected a column {name} [{kind}], got only {', '.join(found)}")
        if found[name] != kind:
            raise BadInput(f"{path}: column {name}: expected {kind}, got {found[name]}")
    return list(found)


def _read(path: Path, columns: list[str] | None, filters: Sequence[tuple[str, str, str]] | None = None) -> pd.DataFrame:
    try:
        frame: pd.DataFrame = pq.read_table(path, columns=columns, filters=filters).to_pandas()
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{path}: the file cannot be read ({error}); prepare the dataset again") from None
    return frame


def _write(path: Path, frame: pd.DataFrame, columns: Mapping[str, Any]) -> None:  # Any: pyarrow ships no types
    arrays = [pa.array(frame[name].to_numpy(), type=kind) for name, kind in columns.items()]
    pq.write_table(pa.table(arrays, names=list(columns)), path, compression="zstd")


def _read_json(path: Path) -> Stats:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: expected a JSON object, got {error}") from None
    if not isinstance(content, dict):
        raise BadInput(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _write_json(path: Path, content: Mapping[str, Any]) -> None:  # Any: JSON
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
