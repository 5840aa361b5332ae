"""What a Flink cluster says about itself and its jobs, in our words; read from the answers of its REST interface."""

from dataclasses import dataclass
from typing import Any

# States in which a job does nothing any more and never will.
ENDED = frozenset({"FINISHED", "CANCELED", "FAILED"})


@dataclass(frozen=True, kw_only=True)
class Overview:
    """The cluster as a whole."""

    flink_version: str
    taskmanagers: int
    slots_total: int
    slots_available: int

    @classmethod
    def read(cls, content: dict[str, Any]) -> "Overview":
        return cls(
            flink_version=content["flink-version"],
            taskmanagers=content["taskmanagers"],
            slots_total=content["slots-total"],
            slots_available=content["slots-available"],
        )


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job in a list. `changed_ms`: since when it has been in this state, as far as Flink tells."""

    id: str
    name: str
    state: str
    started_ms: int
    changed_ms: int
    running_tasks: int
    total_tasks: int

    @property
    def is_over(self) -> bool:
        return self.state in ENDED

    @classmethod
    def read(cls, content: dict[str, Any]) -> "Job":
        return cls(
            id=content["jid"],
            name=content["name"],
            state=content["state"],
            started_ms=content["start-time"],
            changed_ms=content["last-modification"],
            running_tasks=content["tasks"]["running"],
            total_tasks=content["tasks"]["total"],
        )


@dataclass(frozen=True, kw_only=True)
class Vertex:
    """A step of a job's graph: what one task does, with all its subtasks."""

    id: str
    name: str
    state: str
    parallelism: int


@dataclass(frozen=True, kw_only=True)
class JobDetails:
    """One job and the steps of its graph. `since_ms`: since when it has been in its state."""

    id: str
    name: str
    state: str
    started_ms: int
    since_ms: int
    vertices: tuple[Vertex, ...]

    @property
    def is_over(self) -> bool:
        return self.state in ENDED

    def vertex(self, words: str) -> Vertex | None:
        """The first step whose name contains these words; names of chained operators are joined by Flink."""
        return next((vertex for vertex in self.vertices if words in vertex.name), None)

    @classmethod
    def read(cls, content: dict[str, Any]) -> "JobDetails":
        state = content["state"]
        return cls(
            id=content["jid"],
            name=content["name"],
            state=state,
            started_ms=content["start-time"],
            since_ms=content["timestamps"].get(state) or content["start-time"],
            vertices=tuple(
                Vertex(id=each["id"], name=each["name"], state=each["status"], parallelism=each["parallelism"])
                for each in content["vertices"]
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A completed checkpoint or savepoint. `bytes`: what was written for it; `state_bytes`: all that it consists of."""

    number: int
    completed_ms: int
    duration_ms: int
    bytes: int
    state_bytes: int
    path: str
    is_savepoint: bool

    @classmethod
    def read(cls, content: dict[str, Any] | None) -> "Checkpoint | None":
        if content is None or content.get("external_path") is None:
            return None
        return cls(
            number=content["id"],
            completed_ms=content["latest_ack_timestamp"],
            duration_ms=content["end_to_end_duration"],
            bytes=content["checkpointed_size"],
            state_bytes=content["state_size"],
            path=content["external_path"].removeprefix("file:"),
            is_savepoint=content["is_savepoint"],
        )


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """How a job's checkpoints go. `last`: the newest that can be gone on from; `restored_from`: where the job last went on."""

    completed: int
    failed: int
    in_progress: int
    last: Checkpoint | None
    restored_from: str | None
    last_failure: str | None

    @classmethod
    def read(cls, content: dict[str, Any]) -> "Checkpoints":
        latest = content["latest"]
        found = [Checkpoint.read(latest["completed"]), Checkpoint.read(latest["savepoint"])]
        restored, failed = latest["restored"], latest["failed"]
        return cls(
            completed=content["counts"]["completed"],
            failed=content["counts"]["failed"],
            in_progress=content["counts"]["in_progress"],
            last=max((each for each in found if each is not None), key=lambda each: each.number, default=None),
            restored_from=None if restored is None else (restored["external_path"] or "").removeprefix("file:") or None,
            last_failure=None if failed is None else failed.get("failure_message"),
        )


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a job failed last. `cause` is the innermost of the exceptions, `python` the traceback of ours, if there is one."""

    time_ms: int
    task: str | None
    cause: str
    python: str | None

    @classmethod
    def read(cls, content: dict[str, Any]) -> "Failure | None":
        entries = content.get("exceptionHistory", {}).get("entries", [])
        if not entries:
            return None
        entry = entries[0]
        trace = entry["stacktrace"]
        return cls(
            time_ms=entry["timestamp"], task=entry.get("taskName"), cause=innermost(trace), python=python_traceback(trace)
        )


def innermost(stack_trace: str) -> str:
    """The line of a Java stack trace that says what went wrong first, with the last line of Python's in it.

    >>> innermost("JobException: no restart\\n\\tat a.b(C.java:1)\\nCaused by: java.io.IOException: no\\n\\tat d.e(F:2)")
    'java.io.IOException: no'
    """
    python = python_traceback(stack_trace)
    if python is not None:
        return python.splitlines()[-1]
    lines = [line.strip() for line in stack_trace.strip().splitlines()]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    return causes[-1] if causes else (lines or [""])[0]


def python_traceback(stack_trace: str) -> str | None:
    r"""The last of Python's tracebacks within a Java stack trace, None where there is none.

    >>> python_traceback('E: no:\nTraceback (most recent call last):\n  File "a.py", line 1\nValueError: x\n\tat b.c(D.java:1)')
    'Traceback (most recent call last):\n  File "a.py", line 1\nValueError: x'
    """
    _, begins, rest = stack_trace.rpartition("Traceback (most recent call last):")
    if not begins:
        return None
    lines = [begins]
    for line in rest.splitlines()[1:]:
        if line.startswith(("\tat ", "Caused by: ", "\t... ")) or not line.strip():
            break
        lines.append(line)
    return "\n".join(lines)
