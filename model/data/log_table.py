"""A behaviour log larger than memory: a table on disk that DuckDB fills, cleans, orders and joins within a bound of memory.

What is held in memory grows with users and items, and with the events of two windows where negatives come from windows
(last_event.py); never with the length of the log.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from uic.errors import BadInput, EnvironmentProblem

RAW_COLUMNS = {
    "line": pa.int64(),
    "user_id": pa.string(),
    "item_id": pa.int64(),
    "category_id": pa.int64(),
    "behaviour": pa.string(),
    "time_ms": pa.int64(),
}
"""What a reader of a raw file gives: every event with its line, which decides where times are equal."""

_TOLD_EVERY_S = 1.0
Arrays = dict[str, Any]  # numpy arrays by column: DuckDB's types differ from query to query


class LogTable:
    """Tables `raw` (as read) and `events` (clean, with each user's positions), and what SQL asks of them."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
        self._connection, self._folder = connection, folder
        self.source = "raw"
        connection.execute(
            """CREATE TABLE raw (
                line BIGINT, user_id VARCHAR, item_id BIGINT, category_id BIGINT, behaviour VARCHAR, time_ms BIGINT)"""
        )

    @contextmanager
    def stage(self, name: str, report: Callable[[str], None]) -> Iterator[None]:
        """Report a stage, and while it lasts every second how far its query is and how much is on disk."""
        over = threading.Event()

        def tell() -> None:
            while not over.wait(_TOLD_EVERY_S):
                done = max(0.0, self._connection.query_progress())  # -1 between queries
                report(f"{name}: {done:.0f} %, {self.disk_bytes / 1e9:.1f} GB on disk for the while")

        report(name)
        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        try:
            yield
        finally:
            over.set()
            teller.join()

    @property
    def disk_bytes(self) -> int:
        """What the tables and whatever memory could not hold take on disk now."""
        sizes = 0
        for folder, _, names in os.walk(self._folder):  # which passes over a folder that has just gone
            for name in names:
                with suppress(FileNotFoundError):  # what was spilled comes and goes
                    sizes += Path(folder, name).stat().st_size
        return sizes

    def load(self, tables: Iterable[Any]) -> None:  # Any: pyarrow ships no types
        """Append what a reader gives to `raw`."""
        for table in tables:
            self.put("incoming", table)
            self._connection.execute("INSERT INTO raw SELECT * FROM incoming")
            self._connection.unregister("incoming")

    def categorise(self, items: NDArray[np.int64], categories: NDArray[np.int64]) -> None:
        """Give these items their categories, where they are known by another file than the events."""
        self.put("categories", pa.table({"item_id": items, "known": categories}))
        self.source = """(SELECT raw.* REPLACE (coalesce(known, category_id) AS category_id)
            FROM raw LEFT JOIN categories USING (item_id))"""

    def put(self, name: str, table: Any) -> None:  # Any: a pyarrow table or a pandas frame
        """Let SQL see a table in memory under this name."""
        self._connection.register(name, table)

    def view(self, name: str, query: str) -> None:
        """Give a query a name."""
        self._connection.execute(f"CREATE TEMP VIEW {name} AS {query}")

    def order(
        self,
        *,
        behaviours: Sequence[str] | None,
        first_ms: int,
        end_ms: int,
        without_item: int | None = None,
        report: Callable[[str], None] = lambda stage: None,
    ) -> dict[str, int]:
        """Make `events` of `raw`: what is accepted, each event once, numbered within its user; say how many were left out.

        They are stored in the order of time, so that a stretch of time is found without a look at the rest.
        """
        accepted = f"time_ms >= {first_ms} AND time_ms < {end_ms}"
        counts = {"outside_the_days": f"NOT ({accepted})"}
        if behaviours is not None:
            listed = ", ".join(f"'{name}'" for name in behaviours)
            counts["other_behaviours"] = f"{accepted} AND behaviour NOT IN ({listed})"
            accepted += f" AND behaviour IN ({listed})"
        if without_item is not None:
            counts["padding_item"] = f"{accepted} AND item_id = {without_item}"
            accepted += f" AND item_id <> {without_item}"
        left_out = self.row(
            "SELECT " + ", ".join(f"count(*) FILTER ({rule}) AS {name}" for name, rule in counts.items()) + " FROM raw"
        )
        # Each by itself: in one query the three would share the bound of memory, and a long log would not fit.
        with self.stage("taking each event once", report):
            self._connection.execute(
                f"""CREATE TABLE once AS
                SELECT user_id, time_ms, item_id, behaviour, min(line) AS line, max(category_id) AS category_id
                FROM {self.source} WHERE {accepted} GROUP BY ALL"""
            )
        with self.stage("numbering the events of every user", report):
            self._connection.execute(
                """CREATE TABLE numbered AS
                SELECT user_id, row_number() OVER (PARTITION BY user_id ORDER BY time_ms, line) - 1 AS position,
                    count(*) OVER (PARTITION BY user_id) AS length, item_id, category_id, behaviour, time_ms
                FROM once"""
            )
            self._connection.execute("DROP TABLE once")
        with self.stage("ordering the events by time", report):
            self._connection.execute("CREATE TABLE events AS SELECT * FROM numbered ORDER BY time_ms, user_id, position")
            self._connection.execute("DROP TABLE numbered")
        kept = self.row("SELECT count(*) AS events FROM events")["events"]
        left_out["duplicates"] = self.row("SELECT count(*) AS rows FROM raw")["rows"] - sum(left_out.values()) - kept
        if not kept and not any(left_out.values()):
            raise BadInput("the log: expected events, got none; is this the right file?")
        if not kept:
            raise BadInput(
                f"the log: expected events within the days and of the behaviours asked for, all were left out: {left_out}"
            )
        return left_out

    def arrays(self, query: str) -> Arrays:
        """The columns of a result that fits in memory."""
        return dict(self._connection.execute(query).fetchnumpy())

    def row(self, query: str) -> dict[str, Any]:  # Any: numbers of several types
        """The one row of a result."""
        result = self._connection.execute(query)
        names = [column[0] for column in result.description or ()]
        (values,) = result.fetchall()
        return dict(zip(names, values, strict=True))

    def batches(self, query: str) -> Iterator[Any]:  # Any: pyarrow ships no types
        """A result that need not fit in memory, in its order."""
        yield from self._connection.sql(query).to_arrow_reader(1 << 18)


@contextmanager
def log_table(folder: Path, *, memory_mb: int) -> Iterator[LogTable]:
    """A new table in `folder`, which must not exist and is for this alone; DuckDB's own errors become ours."""
    if memory_mb < 100:
        raise BadInput(f"--memory-mb: expected at least 100, got {memory_mb}")
    folder.mkdir()
    try:
        with duckdb.connect(folder / "log.duckdb") as connection:
            connection.execute(f"SET memory_limit = '{memory_mb}MB'")
            connection.execute(f"SET temp_directory = {quoted(folder / 'spilled')}")
            # Kept, so that `stage` can tell it, but not printed.
            connection.execute("SET enable_progress_bar = true")
            connection.execute("SET enable_progress_bar_print = false")
            yield LogTable(connection, folder)
    except duckdb.OutOfMemoryException as error:
        raise EnvironmentProblem(f"--memory-mb {memory_mb} is too little for this log ({error}); give more") from None
    except RuntimeError as error:
        if str(error) != "Query interrupted":
            raise
        raise KeyboardInterrupt from None  # Ctrl-C, as DuckDB tells it
    except duckdb.IOException as error:
        raise EnvironmentProblem(f"{folder.parent}: the log cannot be sorted on this disk: {error}") from None


def quoted(path: Path) -> str:
    """A path as SQL writes it.

    >>> quoted(Path("it's"))
    "'it''s'"
    """
    return "'" + str(path).replace("'", "''") + "'"
