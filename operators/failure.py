"""How an operator tells the launcher why it failed: one small file, instead of sixty frames of Java around it."""

import json
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from uic.artefact import write_atomically
from uic.errors import UicError

FILE = "failure.json"


class Failure(NamedTuple):
    """The exception that ended the job. `is_ours`: it was raised on purpose, its message says all."""

    kind: str
    message: str
    is_ours: bool


def report(job_dir: Path, error: BaseException) -> None:
    """Leave the reason where the launcher looks; the error itself goes on and fails the task."""
    content = Failure(type(error).__name__, str(error), isinstance(error, UicError))
    # A full disk may be the very reason; Flink's log has it too.
    with suppress(OSError):
        write_atomically(job_dir / FILE, json.dumps(content._asdict()))


def read_report(job_dir: Path) -> Failure | None:
    """What an operator of this run reported, if any."""
    try:
        return Failure(**json.loads((job_dir / FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None
