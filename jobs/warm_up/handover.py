"""From warm-up to live job: one condition on one clock, so that no event around it is lost or applied twice.

History has the events with time_ms < T, the live job applies those with time_ms >= T (stream.not_before) and reads its topic
from a while before T on (kafka.start), since events reach a log a little after their time. What it reads of before T is late:
counted, in the late output, and never applied, since the history has it. What neither has, an event of before T that came after
the history was recorded, is among them.

A savepoint of a warm-up says in `warm-up.json` what it is; a job that starts from it is held against that.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jobs import checkpoints
from jobs.flink_metadata import why_incomplete
from jobs.settings import Settings
from uic.bundle import Bundle
from uic.clock import in_ms
from uic.errors import BadInput, JobError

FILE = "warm-up.json"


def describe(bundle: Bundle, *, until_ms: int, idle_after_ms: int | None, users: int) -> str:
    """What `warm-up.json` in a savepoint says."""
    about = {**bundle.identity._asdict(), "until_ms": until_ms, "idle_after_ms": idle_after_ms, "users": users}
    return json.dumps(about, indent=1) + "\n"


def check_handover(savepoint: Path, bundle: Bundle, settings: Settings) -> None:
    """Raise unless a fresh job can begin with this savepoint and neither lose nor repeat an event of around the hand-over."""
    if not savepoint.is_dir() or (incomplete := why_incomplete(savepoint)) is not None:
        raise BadInput(f"{savepoint}: expected a savepoint: {incomplete if savepoint.is_dir() else 'there is no such folder'}")
    found = checkpoints.inspect(savepoint, checkpoints.form_of(bundle.path))
    if not found.is_intact:
        raise JobError(f"{savepoint}: this savepoint is damaged: {found.why()}; `uic warm-up` writes it again")
    try:
        about: dict[str, Any] = json.loads((savepoint / FILE).read_text())
    except FileNotFoundError:
        return  # a job's own: it holds the offsets at which it goes on
    for name, new in bundle.identity._asdict().items():
        if about[name] != new:
            raise BadInput(f"{savepoint}: its memories are of {name} {about[name]}, {bundle.path} is of {name} {new}")
    stream, until_ms = settings.stream, about["until_ms"]
    until = datetime.fromtimestamp(until_ms / 1000, UTC).isoformat()
    if stream.not_before is None or in_ms(stream.not_before) != until_ms:
        raise BadInput(
            f"stream.not_before: the warm-up of {savepoint} has applied all events before {until}, so this must be set to that "
            f"time; it is {stream.not_before.isoformat() if stream.not_before else 'not set'}"
        )
    idle_after_ms = None if stream.idle_after_s is None else 1000 * stream.idle_after_s
    if about["idle_after_ms"] != idle_after_ms:
        raise BadInput(
            f"stream.idle_after_s: the warm-up of {savepoint} had {about['idle_after_ms']} ms, the job has {idle_after_ms} ms; "
            "both must have the same"
        )
    check_start(settings.kafka.start, until_ms)


def check_start(start: str, until_ms: int) -> None:
    """Raise BadInput where a job would begin to read after the hand-over, or who knows where."""
    from jobs.submit import read_start

    begin = read_start(start)
    if begin != "earliest" and (isinstance(begin, str) or begin > until_ms):
        until = datetime.fromtimestamp(until_ms / 1000, UTC).isoformat()
        raise BadInput(
            f"kafka.start: after a warm-up until {until} the topic must be read from earliest, or from a while before that "
            f"time; it is {start}"
        )
