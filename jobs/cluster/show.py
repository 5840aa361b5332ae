"""The status of a job as a table for people."""

from rich.table import Table
from rich.text import Text

from jobs.cluster.facts import Checkpoint
from jobs.cluster.status import Status, age_s

_COLOURS = {"RUNNING": "green", "FAILED": "red", "CANCELED": "yellow", "FINISHED": "yellow"}


def table(status: Status) -> Table:
    """One line a fact; what is to be mended is red, at the end."""
    on = status.record
    shown = Table(show_header=False, box=None, pad_edge=False)
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")

    def add(name: str, value: str, colour: str = "") -> None:
        shown.add_row(name, Text(value, style=colour))

    add("job", f"{on.name} ({on.job_id}), run {status.run}, {on.plan} plan, parallelism {on.parallelism}, {status.url}")
    state = "not known" if status.state is None else status.state
    since = "" if status.since_ms is None else f" for {duration(age_s(status.since_ms))}"
    add("state", state + since, _COLOURS.get(state, ""))
    add("restarts", _number(status.restarts))
    add("last checkpoint", "none yet" if status.checkpoint is None else _checkpoint(status.checkpoint))
    if status.failed_checkpoints:
        add("failed checkpoints", _number(status.failed_checkpoints), "yellow")
    if status.restored_from is not None:
        add("went on from", status.restored_from)
    add("lag", _events(status.unread, "not read yet (metrics, up to 10 s old)"))
    add("", _events(status.uncovered, "not covered by a checkpoint (committed offsets)"))
    rate = "not known" if status.events_per_s is None else f"{status.events_per_s:,.1f} events/s over the last minute"
    add("rate", rate)
    add("partitions", f"{_number(status.partitions)} in {on.topic}, {on.partitions} when the job was submitted")
    if status.failure is not None:
        add("last failure", f"{duration(age_s(status.failure.time_ms))} ago: {status.failure.cause}", "yellow")
        if status.failure.python is not None:
            add("", status.failure.python)
    for problem in status.problems:
        add("problem", problem, "red")
    return shown


def duration(seconds: float) -> str:
    """A length of time in its two largest units.

    >>> [duration(s) for s in (3.2, 62, 3600 * 30)]
    ['3 s', '1 min 2 s', '1 d 6 h']
    """
    left = int(seconds)
    parts: list[str] = []
    for name, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (name == "s" and not parts):
            parts.append(f"{count} {name}")
    return " ".join(parts[:2])


def _checkpoint(checkpoint: Checkpoint) -> str:
    kind = "savepoint" if checkpoint.is_savepoint else "checkpoint"
    return (
        f"{kind} {checkpoint.number}, {duration(age_s(checkpoint.completed_ms))} old, {checkpoint.state_bytes / 1e6:,.1f} MB, "
        f"of which {checkpoint.bytes / 1e6:,.1f} MB written in {checkpoint.duration_ms / 1000:.1f} s: {checkpoint.path}"
    )


def _number(number: int | None) -> str:
    return "not known" if number is None else f"{number:,}"


def _events(number: int | None, what: str) -> str:
    return f"{'not known, how many' if number is None else f'{number:,}'} events {what}"
