"""One column of somebody's table to the type the dataset needs, with a verdict for every row.

Nothing is raised here for a bad row: each reader gives values and a mask of the rows that cannot be used, and `usable_rows`
then refuses them all in one message, or drops and counts them.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from uic.errors import BadInput
from uic.event import MAX_TEXT_BYTES

TimeUnit = Literal["auto", "s", "ms"]

_INT64 = 1 << 63
_EXACT_FLOAT = 1 << 53
# 10^11 s is the year 5138 and 10^11 ms is 1973: a log of people's behaviour lies on one side. 10^14 ms is 5138 again.
_SECONDS_END = 100_000_000_000
_MILLISECONDS_END = 100_000_000_000_000
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column after reading: `values` holds something harmless wherever `bad` is true."""

    name: str
    expected: str
    raw: pd.Series
    values: NDArray[Any]  # of the type that its reader says
    bad: NDArray[np.bool_]


def texts(raw: pd.Series, name: str) -> Column:
    """Text of 1 to 128 UTF-8 bytes; whole numbers are kept as text."""
    return _by_distinct(raw, name, f"text of 1 to {MAX_TEXT_BYTES} UTF-8 bytes", _as_text, "")


def integers(raw: pd.Series, name: str, *, from_text: bool) -> Column:
    """64-bit integers; `from_text` reads digits too, as a CSV column has them where one of its cells is not a number."""
    expected = "a 64-bit integer"
    if pd.api.types.is_integer_dtype(raw.dtype) or pd.api.types.is_float_dtype(raw.dtype):
        return _numbers(raw, name, expected)
    return _by_distinct(raw, name, expected, lambda value: _as_integer(value, from_text=from_text), 0)


def labels(raw: pd.Series, name: str, *, from_text: bool) -> Column:
    """0 or 1, as number or as true and false."""
    column = integers(raw.astype("Int64") if raw.dtype == bool or raw.dtype == "boolean" else raw, name, from_text=from_text)
    bad = column.bad | ~np.isin(column.values, (0, 1))
    return Column(name=name, expected="0 or 1", raw=raw, values=column.values, bad=bad)


def numbers(raw: pd.Series, name: str) -> Column:
    """Finite float32 numbers: the head features."""
    values = pd.to_numeric(raw.astype(object), errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    bad = ~np.isfinite(narrow)
    return Column(name=name, expected="a finite number", raw=raw, values=np.where(bad, 0, narrow).astype(np.float32), bad=bad)


def times(raw: pd.Series, name: str, *, unit: TimeUnit, latest_ms: int, from_text: bool) -> tuple[Column, str]:
    """Times as epoch milliseconds, and the unit that was found: `s`, `ms` or `datetime` (without a zone: UTC).

    With `auto` the magnitude of the median decides; a single time of the other magnitude is then a bad row.
    """
    expected = f"a time as a number of seconds or milliseconds since 1970, not after {_day(latest_ms)}"
    if pd.api.types.is_datetime64_any_dtype(raw.dtype):
        missing = raw.isna().to_numpy(dtype=bool)
        ms = pd.to_datetime(raw, utc=True).dt.as_unit("ms").to_numpy(dtype="datetime64[ms]").astype(np.int64)
        return _bounded(raw, name, expected, ms, missing, latest_ms), "datetime"

    fractional = pd.api.types.is_float_dtype(raw.dtype)
    if fractional:
        seconds = raw.to_numpy(dtype=np.float64, na_value=np.nan)
        bad = ~np.isfinite(seconds) | (np.abs(seconds) >= _EXACT_FLOAT)
        numbers = np.where(bad, 0, seconds)
    else:
        column = integers(raw, name, from_text=from_text)
        bad = column.bad
        numbers = column.values
    if unit == "auto":
        found = _unit_by_magnitude(numbers[~bad], name)
        limit = _SECONDS_END if found == "s" else _MILLISECONDS_END
        bad = bad | (numbers >= limit) | (numbers < (_SECONDS_END if found == "ms" else 0))
    else:
        found = unit
    factor = 1000 if found == "s" else 1
    bad = bad | (np.abs(numbers) > _INT64 // 2 // factor)
    ms = np.rint(np.where(bad, 0, numbers) * factor).astype(np.int64)
    return _bounded(raw, name, expected, ms, bad, latest_ms), found


def usable_rows(columns: Sequence[Column], *, what: str, drop_invalid: bool) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """The rows that every column can use, and how many bad ones each column has.

    Raises BadInput that names columns, rows, what was expected and what came, unless `drop_invalid` is set.
    """
    rows = len(columns[0].bad)
    bad = np.zeros(rows, dtype=bool)
    for column in columns:
        bad |= column.bad
    counts = {column.name: int(column.bad.sum()) for column in columns if column.bad.any()}
    if counts and not drop_invalid:
        lines = [_complaint(column) for column in columns if column.bad.any()]
        raise BadInput(
            f"{what}: {int(bad.sum())} of {rows} rows cannot be used (rows counted from 0, without a header):\n  "
            + "\n  ".join(lines)
            + "\nmend them, or pass --drop-invalid to leave them out"
        )
    return ~bad, counts


def _complaint(column: Column) -> str:
    shown = np.flatnonzero(column.bad)[:_SHOWN]
    came = "; ".join(f"row {row} has {_show(column.raw.iloc[row])}" for row in shown)
    more = int(column.bad.sum()) - len(shown)
    return f"column {column.name}: expected {column.expected}; {came}" + (f"; and {more} more" if more else "")


def _show(value: object) -> str:
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value)):
        return "nothing (null)"
    value = value.item() if isinstance(value, np.generic) else value
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:50]}... ({len(text)} characters)"


def _by_distinct(raw: pd.Series, name: str, expected: str, read: Callable[[object], Any], default: Any) -> Column:
    # Each distinct value is read once: a log has far fewer users than rows.
    try:
        codes, distinct = pd.factorize(raw)
    except TypeError:
        raise BadInput(f"column {name}: expected {expected}, got {_show(raw.iloc[0])}") from None
    read_values = [read(value) for value in distinct]
    unusable = np.array([value is None for value in read_values] + [True])
    table = np.array([default if value is None else value for value in read_values] + [default])
    if isinstance(default, str):
        table = table.astype(object)
    return Column(name=name, expected=expected, raw=raw, values=table[codes], bad=unusable[codes])


def _as_text(value: object) -> str | None:
    if isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_FLOAT:
        value = int(value)
    if isinstance(value, int | np.integer):
        value = str(int(value))
    if not isinstance(value, str):
        return None
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return None
    return value if 1 <= size <= MAX_TEXT_BYTES else None


def _as_integer(value: object, *, from_text: bool) -> int | None:
    if from_text and isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,19}", value.strip()):
        value = int(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_FLOAT:
        value = int(value)
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer) or not -_INT64 <= value < _INT64:
        return None
    return int(value)


def _numbers(raw: pd.Series, name: str, expected: str) -> Column:
    if pd.api.types.is_float_dtype(raw.dtype):
        # A column of integers with gaps arrives as float: whole values are taken while a float holds them exactly.
        numbers = raw.to_numpy(dtype=np.float64, na_value=np.nan)
        bad = ~np.isfinite(numbers) | (np.abs(numbers) >= _EXACT_FLOAT) | (np.floor(numbers) != numbers)
        return Column(name=name, expected=expected, raw=raw, values=np.where(bad, 0, numbers).astype(np.int64), bad=bad)
    bad = raw.isna().to_numpy(dtype=bool)
    if pd.api.types.is_unsigned_integer_dtype(raw.dtype):
        unsigned = raw.to_numpy(dtype=np.uint64, na_value=0)
        bad = bad | (unsigned >= _INT64)
        return Column(name=name, expected=expected, raw=raw, values=np.where(bad, 0, unsigned).astype(np.int64), bad=bad)
    return Column(name=name, expected=expected, raw=raw, values=raw.to_numpy(dtype=np.int64, na_value=0), bad=bad)


def _unit_by_magnitude(numbers: NDArray[Any], name: str) -> Literal["s", "ms"]:
    median = float(np.median(numbers)) if len(numbers) else 0.0
    if median >= _MILLISECONDS_END:
        raise BadInput(
            f"column {name}: expected seconds or milliseconds since 1970, but the median is {median:.0f}, "
            "which looks like microseconds or nanoseconds; divide it first"
        )
    return "ms" if median >= _SECONDS_END else "s"


def _bounded(raw: pd.Series, name: str, expected: str, ms: NDArray[np.int64], bad: NDArray[np.bool_], latest_ms: int) -> Column:
    bad = bad | (ms < 0) | (ms > latest_ms)
    return Column(name=name, expected=expected, raw=raw, values=np.where(bad, 0, ms), bad=bad)


def _day(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, tz=UTC).strftime("%Y-%m-%d")
