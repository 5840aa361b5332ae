"""Which bundle each subtask applies, and what it said to the last control message: one small file a subtask, for `uic bundle`.

Never read back by the job itself: what is active after a failure is broadcast state's to say.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from uic.artefact import write_atomically

FOLDER = "bundle-status"
Answer = Literal["", "ready", "refused", "promoted"]


@dataclass(frozen=True, kw_only=True)
class BundleStatus:
    """`address`: where this start of the job gets its control messages; `answers_ms`: when the one answered was issued."""

    address: str
    run: int
    subtask: int
    version: int
    digest: str
    training_cut_off_ms: int
    answer: Answer = ""
    answers_ms: int = 0
    why: str = ""


def write(job_dir: Path, status: BundleStatus) -> None:
    folder = job_dir / FOLDER
    folder.mkdir(exist_ok=True)
    write_atomically(folder / f"subtask-{status.subtask}.json", json.dumps(asdict(status)))


def read_all(job_dir: Path, run: int) -> dict[int, BundleStatus]:
    """What the subtasks of this run have written, by their number."""
    found = {}
    for path in (job_dir / FOLDER).glob("subtask-*.json"):
        try:
            status = BundleStatus(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            continue
        if status.run == run:
            found[status.subtask] = status
    return found
