"""What the catalogue says about one daily checkpoint: a savepoint, how far it had read, and what it stands for."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from uic.errors import JobError

FORMAT = 1


class File(NamedTuple):
    """A file of the savepoint as it was when it was taken."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One daily checkpoint. It is *taken* before its day begins, and *sealed* after: then the day's cut is known and fits.

    id            when it was taken, in UTC; names its folder
    day           the day at whose begin (`begins_ms`, in `zone`) its memories stand, but for the events up to the cut
    offsets       the next event of each partition that the job had not read at the savepoint's barrier
    cut           O_D: in each partition the first offset whose log time is `begins_ms` or later; None until sealed
    cut_by_clock  partitions whose cut was their end, since no event had come after the day began (jobs/daily/cut.py)
    generation    the largest among its memories; `memories`: their number; `bytes`: of all files
    taken_ms      when the savepoint was complete, by the clock of who took it
    pins          who wants it kept for ever, and why; tainted: why it must not be gone on with
    """

    id: str
    day: date
    zone: str
    begins_ms: int
    topic: str
    offsets: Mapping[int, int]
    cut: Mapping[int, int] | None = None
    cut_by_clock: tuple[int, ...] = ()
    bundle: str
    bundle_version: int
    lineage: str
    layout: str
    generation: int
    memories: int
    bytes: int
    files: Mapping[str, File]
    taken_ms: int
    job_id: str
    run: int
    pins: tuple[str, ...] = ()
    tainted: str | None = None
    format: int = FORMAT

    @property
    def is_sealed(self) -> bool:
        return self.cut is not None

    @property
    def is_good(self) -> bool:
        """Sealed and not tainted: it stands for its day."""
        return self.is_sealed and self.tainted is None

    @property
    def state(self) -> str:
        """In a word, for people."""
        return "tainted" if self.tainted is not None else "sealed" if self.is_sealed else "taken"

    def fits(self, cut: Mapping[int, int]) -> bool:
        """Whether all it has read is before `cut`: only then can the events up to there be added, and none taken away.

        >>> from jobs.daily.entry import example
        >>> example(offsets={0: 5, 1: 7}).fits({0: 5, 1: 9}), example(offsets={0: 5, 1: 7}).fits({0: 5, 1: 6})
        (True, False)
        """
        return set(self.offsets) <= set(cut) and all(offset <= cut[each] for each, offset in self.offsets.items())

    def to_json(self) -> dict[str, Any]:
        content = {**dataclasses.asdict(self), "day": self.day.isoformat()}
        content["files"] = {name: file._asdict() for name, file in self.files.items()}
        return content

    @classmethod
    def from_json(cls, text: str, name: str) -> "Entry":
        """The entry in `text`; raises JobError, naming `name`, for what is none of this release."""
        try:
            content = json.loads(text)
            if content.get("format") != FORMAT:
                raise JobError(f"{name}: this release reads format {FORMAT}, got {content.get('format')}")
            numbers = {key: _by_partition(content[key]) for key in ("offsets", "cut")}
            return cls(
                **{
                    **content,
                    **numbers,
                    "day": date.fromisoformat(content["day"]),
                    "files": {each: File(**file) for each, file in content["files"].items()},
                    "cut_by_clock": tuple(content["cut_by_clock"]),
                    "pins": tuple(content["pins"]),
                }
            )
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise JobError(f"{name}: not an entry of this release: {error}") from error


def id_of(time_ms: int) -> str:
    """The name of what is taken at this time.

    >>> id_of(1_700_000_000_123)
    '2023-11-14T221320Z'
    """
    return datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%Y-%m-%dT%H%M%SZ")


def example(**changes: Any) -> Entry:
    """An entry of two partitions for examples and tests."""
    plain = Entry(
        id="2023-11-14T235000Z",
        day=date(2023, 11, 15),
        zone="UTC",
        begins_ms=1_700_006_400_000,
        topic="events",
        offsets={0: 5, 1: 7},
        bundle="bundles/first",
        bundle_version=1,
        lineage="first",
        layout="0" * 16,
        generation=0,
        memories=3,
        bytes=30,
        files={"_metadata": File(30, "0" * 64)},
        taken_ms=1_700_005_800_000,
        job_id="0" * 32,
        run=1,
    )
    return dataclasses.replace(plain, **changes)


def _by_partition(content: dict[str, int] | None) -> dict[int, int] | None:
    return None if content is None else {int(partition): offset for partition, offset in content.items()}
