"""From somebody's table to a clean frame of behaviour events or of labelled impressions.

Clean: the dataset's own column names and types, every row usable. Order and duplicates are left as they came; ordering.py
decides about those.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model.data.columns import Column, TimeUnit, integers, labels, numbers, texts, times, usable_rows
from model.data.dataset import FEATURE_PREFIX
from uic.errors import BadInput

UNKNOWN_CATEGORY = -1
NO_LIMIT_MS = 253_402_300_799_000  # the last second of the year 9999


@dataclass(frozen=True, kw_only=True)
class TableColumns:
    """What the columns of a table are called; None: the table has no such column."""

    user: str = "user_id"
    item: str = "item_id"
    category: str | None = "category_id"
    behaviour: str | None = "behaviour"
    time: str = "time_ms"
    label: str = "label"
    features: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a table is to be read."""

    time_unit: TimeUnit = "auto"
    latest_ms: int = NO_LIMIT_MS
    """A later time is a broken clock or a wrong unit."""
    drop_invalid: bool = False
    from_text: bool = False
    """The table is a CSV file: digits in a text column are numbers."""


@dataclass(frozen=True, kw_only=True)
class CleanTable:
    """A checked frame, the number of rows read and of those left out (by column), and the unit the times were in."""

    frame: pd.DataFrame
    rows_read: int
    invalid: dict[str, int]
    time_unit: str


def clean_events(
    table: pd.DataFrame, columns: TableColumns, reading: Reading, *, behaviour: str | None = None, what: str = "events"
) -> CleanTable:
    """Check every event; `behaviour` is the constant one of a table without such a column."""
    if columns.behaviour is None and behaviour is None:
        raise BadInput(f"{what}: expected a behaviour column, or one constant behaviour for all (--behaviour click)")
    needed = [columns.user, columns.item, columns.time, columns.behaviour, columns.category]
    _require(table, [name for name in needed if name is not None], what)
    user = texts(table[columns.user], columns.user)
    item = integers(table[columns.item], columns.item, from_text=reading.from_text)
    time, unit = _times(table, columns.time, reading)
    checked = [user, item, time]
    fields: dict[str, NDArray[Any]] = {"user": user.values, "item_id": item.values}  # of several types
    category = _category(table, columns.category, reading, checked)
    fields["category_id"] = category
    if columns.behaviour is None:
        fields["behaviour"] = np.full(len(table), behaviour, dtype=object)
    else:
        kind = texts(table[columns.behaviour], columns.behaviour)
        checked.append(kind)
        fields["behaviour"] = kind.values
    fields["time_ms"] = time.values
    return _clean(fields, checked, reading, unit, what)


def clean_impressions(table: pd.DataFrame, columns: TableColumns, reading: Reading, *, what: str = "samples") -> CleanTable:
    """Check every labelled impression: who saw which candidate when, and whether they clicked."""
    needed = [columns.user, columns.item, columns.time, columns.label, columns.category, *columns.features]
    _require(table, [name for name in needed if name is not None], what)
    user = texts(table[columns.user], columns.user)
    item = integers(table[columns.item], columns.item, from_text=reading.from_text)
    time, unit = _times(table, columns.time, reading)
    label = labels(table[columns.label], columns.label, from_text=reading.from_text)
    features = [numbers(table[name], name) for name in columns.features]
    checked = [user, item, time, label, *features]
    category = _category(table, columns.category, reading, checked)
    fields = {
        "user": user.values,
        "item_id": item.values,
        "category_id": category,
        "label": label.values.astype(np.int8),
        "time_ms": time.values,
    }
    fields |= {FEATURE_PREFIX + feature.name: feature.values for feature in features}
    return _clean(fields, checked, reading, unit, what)


def _category(table: pd.DataFrame, name: str | None, reading: Reading, checked: list[Column]) -> NDArray[np.int64]:
    if name is None:
        return np.full(len(table), UNKNOWN_CATEGORY, dtype=np.int64)
    column = integers(table[name], name, from_text=reading.from_text)
    checked.append(column)
    return column.values.astype(np.int64)


def _times(table: pd.DataFrame, name: str, reading: Reading) -> tuple[Column, str]:
    raw = table[name]
    return times(raw, name, unit=reading.time_unit, latest_ms=reading.latest_ms, from_text=reading.from_text)


def _require(table: pd.DataFrame, names: list[str], what: str) -> None:
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise BadInput(f"{what}: expected a column {', '.join(missing)}; the table has {', '.join(map(str, table.columns))}")
    if len(table) == 0:
        raise BadInput(f"{what}: expected at least one row, got none")


def _clean(fields: dict[str, NDArray[Any]], checked: list[Column], reading: Reading, unit: str, what: str) -> CleanTable:
    usable, invalid = usable_rows(checked, what=what, drop_invalid=reading.drop_invalid)
    frame = pd.DataFrame(fields)[usable].reset_index(drop=True)
    if len(frame) == 0:
        raise BadInput(f"{what}: none of {len(usable)} rows can be used ({invalid})")
    return CleanTable(frame=frame, rows_read=len(usable), invalid=invalid, time_unit=unit)
