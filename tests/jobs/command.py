"""The command line as a function of its words, for the tests of jobs/."""

from collections.abc import Callable
from typing import NamedTuple


class Ended(NamedTuple):
    """How a command ended and what it printed."""

    code: int
    bytes: bytes
    err: str

    @property
    def out(self) -> str:
        return self.bytes.decode("utf-8", "backslashreplace")


Uic = Callable[..., Ended]
