"""Where memories and letters go: written here and now, or out of the operator as records for Kafka.

Either way before the event or its batch is done, so a completed checkpoint never knows more than the store (or the topic that
`uic store follow` applies to it).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from operators import outgoing
from uic.codec import read_header
from uic.errors import BadInput
from uic.letters import Letter, LetterBox
from uic.store.contract import WritableStore


class LoggedLetter(NamedTuple):
    """A letter and when the log took its event in."""

    letter: Letter
    log_time_ms: int


class Publisher(Protocol):
    """Takes new memories and letters; returns what must leave the operator for that, as outgoing records."""

    def memories(self, memories: Sequence[tuple[str, bytes]]) -> list[bytes]: ...

    def letters(self, letters: Sequence[LoggedLetter]) -> list[bytes]: ...

    def departure(self, user_id: str) -> list[bytes]:
        """A user has left keyed state, being idle, and must leave the store."""
        ...


class Records:
    """Publishes through the operator's output, for a job of this generation."""

    def __init__(self, generation: int) -> None:
        self._generation = generation

    def memories(self, memories: Sequence[tuple[str, bytes]]) -> list[bytes]:
        return [outgoing.snapshot(user_id, blob) for user_id, blob in memories]

    def letters(self, letters: Sequence[LoggedLetter]) -> list[bytes]:
        records = (outgoing.letter(letter, log_time_ms) for letter, log_time_ms in letters)
        return [record for record in records if record is not None]

    def departure(self, user_id: str) -> list[bytes]:
        return [outgoing.departure(user_id, self._generation)]


class Direct:
    """Writes store and letter box itself: for one update operator on one machine. Every write survives the process."""

    def __init__(self, store: WritableStore, box: LetterBox, keep_at: dict[str, frozenset[int]], generation: int) -> None:
        self._store = store
        self._generation = generation
        self._box = box
        self._keep_at = keep_at

    def memories(self, memories: Sequence[tuple[str, bytes]]) -> list[bytes]:
        self._store.write_many(memories)
        for user_id, blob in memories:
            sequences = self._keep_at.get(user_id)
            if sequences is not None and read_header(blob).sequence in sequences:
                self._store.write_kept(user_id, blob)
        return []

    def letters(self, letters: Sequence[LoggedLetter]) -> list[bytes]:
        for letter, _ in letters:
            self._box.put(
                letter.kind,
                reason=letter.reason,
                detail=letter.detail,
                source=letter.source,
                offset=letter.offset,
                payload=letter.payload,
                user_id=letter.user_id,
            )
        return []

    def departure(self, user_id: str) -> list[bytes]:
        self._store.delete(user_id, generation=self._generation)
        return []


def read_keep_at(path: Path) -> dict[str, frozenset[int]]:
    """The sequences at which each user's memory is kept as it stands: JSON lines {"user_id": "u1", "sequence": 12}."""
    wanted: dict[str, set[int]] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                try:
                    entry = json.loads(text)
                    wanted.setdefault(str(entry["user_id"]), set()).add(int(entry["sequence"]))
                except (ValueError, TypeError, KeyError) as error:
                    expected = '{"user_id": "u1", "sequence": 12}'
                    raise BadInput(f"{path}:{number}: expected {expected}, got {text[:80].rstrip()}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: the positions to keep cannot be read: {error}") from error
    return {user: frozenset(sequences) for user, sequences in wanted.items()}
