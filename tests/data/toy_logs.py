"""Small logs for the tests of the dataset: made from a seed, or by hypothesis."""

import numpy as np
import pandas as pd
from hypothesis import strategies as st

from model.data.event_log import CleanTable
from model.data.prepare import PrepareSettings, Source

START_MS = 1_500_000_000_000
HOUR_MS = 3_600_000
COLUMNS = ["user", "item_id", "category_id", "behaviour", "time_ms"]
SOURCE = Source(name="toy", digest="none")


def events(rows: list[tuple[str, int, int, str, int]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return frame.astype({"user": object, "behaviour": object, "item_id": "int64", "category_id": "int64", "time_ms": "int64"})


def clean(frame: pd.DataFrame) -> CleanTable:
    return CleanTable(frame=frame.reset_index(drop=True), rows_read=len(frame), invalid={}, time_unit="ms")


def steady_log(*, users: int = 30, rows: int = 900, items: int = 40, seed: int = 0) -> pd.DataFrame:
    """Everyone clicks at any time on a stable catalogue: no leak, known users."""
    rng = np.random.default_rng(seed)
    item = rng.integers(items, size=rows)
    return pd.DataFrame(
        {
            "user": [f"u{user}" for user in rng.integers(users, size=rows)],
            "item_id": item + 100,
            "category_id": item % 7,
            "behaviour": rng.choice(["click", "buy"], size=rows).astype(object),
            "time_ms": START_MS + np.sort(rng.integers(100 * HOUR_MS, size=rows)),
        }
    )


def news_log(*, seed: int = 0) -> pd.DataFrame:
    """Every hour brings ten new items and forgets the old ones: a wide window draws negatives of another age."""
    log = steady_log(rows=2000, seed=seed)
    hour = (log["time_ms"] - START_MS) // HOUR_MS
    return log.assign(item_id=hour * 10 + log["item_id"] % 10)


def settings(*, hours: float = 20, **changes: object) -> PrepareSettings:
    return PrepareSettings(window_ms=int(hours * HOUR_MS), **changes)  # type: ignore[arg-type]  # any field, by name


small_logs = st.lists(
    st.tuples(
        st.sampled_from("abc"), st.integers(0, 4), st.integers(-1, 2), st.sampled_from(["pv", "buy"]), st.integers(0, 12)
    ),
    min_size=1,
    max_size=40,
).map(events)
