"""What a check of `uic doctor` found."""

from typing import Literal, NamedTuple

from uic.errors import UicError

Level = Literal["ok", "absent", "warning", "problem"]


class Finding(NamedTuple):
    """One line: what was looked at, how it is, and how to mend it. `absent`: there is none, which may be as it should."""

    area: str
    level: Level
    what: str
    mend: str = ""


def ok(area: str, what: str) -> Finding:
    return Finding(area, "ok", what)


def problem(area: str, error: UicError | str, mend: str = "") -> Finding:
    """A problem; the message of an error of ours says how to mend it."""
    return Finding(area, "problem", str(error), mend)
