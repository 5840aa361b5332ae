"""Events that were not applied, kept with their reason: dead letters, late events and duplicates of the embedded default.

One SQLite file. An entry is known by where the event stood (file name and byte offset), so a replay after a crash writes
the same entry again and counts nothing twice. Other processes may read while the job writes.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from uic.errors import BadInput, EnvironmentProblem

KINDS = ("dead", "late", "duplicate")


class Letter(NamedTuple):
    """One event that was not applied. `payload` holds the original bytes."""

    source: str
    offset: int
    kind: str
    reason: str
    detail: str
    user_id: str | None
    payload: bytes


class LetterBox:
    """The kept letters of one job.

    >>> box = LetterBox(Path(":memory:"))
    >>> for _ in range(2):
    ...     box.put("dead", reason="bad_json", detail="...", source="a.jsonl", offset=0, payload=b"{")
    >>> box.counts()
    {('dead', 'bad_json'): 1}
    """

    def __init__(self, path: Path, *, writable: bool = True) -> None:
        if not writable and not path.is_file():
            raise BadInput(f"{path}: expected the letters of a job, but there is no such file; has the job run?")
        self._path = path
        target = str(path) if writable else f"{path.absolute().as_uri()}?mode=ro"
        # The reader and the update operator are two threads of one process; SQLite itself takes turns between them.
        self._db = sqlite3.connect(target, uri=not writable, isolation_level=None, timeout=60, check_same_thread=False)
        try:
            if writable:
                # WAL: readers never block the job; NORMAL: an entry survives the death of the process.
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=NORMAL")
                self._db.execute(
                    "CREATE TABLE IF NOT EXISTS letters (source TEXT, position INTEGER, kind TEXT NOT NULL, "
                    "reason TEXT NOT NULL, detail TEXT NOT NULL, user_id TEXT, payload BLOB NOT NULL, "
                    "PRIMARY KEY (source, position)) WITHOUT ROWID"
                )
            self._db.execute("SELECT source, position, kind FROM letters LIMIT 1")
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise BadInput(f"{path}: expected the letters of a job: {error}") from error

    def put(
        self, kind: str, *, reason: str, detail: str, source: str, offset: int, payload: bytes, user_id: str | None = None
    ) -> None:
        """Keep one event; the same place in the input overwrites its entry. On return it survives the death of the process."""
        assert kind in KINDS, kind
        try:
            self._db.execute(
                "INSERT OR REPLACE INTO letters VALUES (?, ?, ?, ?, ?, ?, ?)",
                (source, offset, kind, reason, detail, user_id, payload),
            )
        except sqlite3.OperationalError as error:
            raise EnvironmentProblem(f"{self._path}: an event that was not applied could not be kept: {error}") from error

    def letters(self, kind: str | None = None, reason: str | None = None, limit: int = -1) -> Iterator[Letter]:
        """The kept events in input order, all or of one kind or reason."""
        rows = self._db.execute(
            "SELECT source, position, kind, reason, detail, user_id, payload FROM letters "
            "WHERE (?1 IS NULL OR kind = ?1) AND (?2 IS NULL OR reason = ?2) ORDER BY source, position LIMIT ?3",
            (kind, reason, limit),
        )
        for row in rows:
            yield Letter(*row)

    def counts(self) -> dict[tuple[str, str], int]:
        """How many letters there are of each (kind, reason)."""
        rows = self._db.execute("SELECT kind, reason, count(*) FROM letters GROUP BY kind, reason ORDER BY kind, reason")
        return {(kind, reason): count for kind, reason, count in rows}

    def close(self) -> None:
        self._db.close()
