"""Reading somebody's Parquet or CSV file as a table, column types kept."""

import csv
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from uic.errors import BadInput


def column_names(path: Path) -> list[str]:
    """The columns of the table, without reading its rows."""
    if is_csv(path):
        with _existing(path).open(newline="", encoding="utf-8-sig") as file:
            try:
                return next(csv.reader(file), [])
            except (UnicodeDecodeError, csv.Error) as error:
                raise BadInput(f"{path}: expected a CSV file in UTF-8, got {error}") from None
    try:
        names: list[str] = pq.read_schema(_existing(path)).names
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{path}: expected a Parquet file, got {error}") from None
    return names


def read_table(path: Path, columns: list[str], text_columns: list[str]) -> pd.DataFrame:
    """These columns of the file; the `text_columns` of a CSV file stay text, so that user `007` is not user `7`."""
    wanted = [name for name in dict.fromkeys(columns) if name in column_names(path)]
    try:
        if is_csv(path):
            return pd.read_csv(
                path,
                usecols=wanted,
                dtype={name: "string" for name in text_columns if name in wanted},
                # Only an empty cell is missing: a user may be called NA or null.
                keep_default_na=False,
                na_values=[""],
                dtype_backend="numpy_nullable",
                low_memory=False,
                encoding="utf-8-sig",
            )
        # Nullable types keep large ids exact where a column has gaps.
        return pd.read_parquet(path, columns=wanted, dtype_backend="numpy_nullable")
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadInput(f"{path}: the table cannot be read: {error}") from None


def is_csv(path: Path) -> bool:
    """Told by the name: `.csv` or `.parquet`; raises BadInput for any other."""
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise BadInput(f"{path}: expected a file ending in .parquet or .csv, got {suffix or 'no ending'}")
    return suffix == ".csv"


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise BadInput(f"{path}: expected a file, but there is {'a folder' if path.is_dir() else 'nothing'}")
    return path
