"""The job's configuration, for the embedded cluster in one JVM and for a real one, and the job while it runs."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pyflink.common import Configuration
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.java_gateway import get_gateway

from operators import contract

# Most of what a user may set otherwise, with what the plans want by default.
_DEFAULTS = {
    "execution.checkpointing.min-pause": "200 ms",
    "execution.checkpointing.num-retained": "3",
    "execution.checkpointing.timeout": "10 min",
    "python.metric.enabled": "false",
    "pipeline.object-reuse": "true",
    # Memories are random numbers to a compressor; as they are, their CRCs can be checked in the files (jobs/checkpoints.py).
    "state.backend.rocksdb.compression.per.level": "NO_COMPRESSION",
    "state.backend.rocksdb.use-bloom-filter": "true",
}


def embedded_configuration(
    *, checkpoints: Path, temporary: Path, backend: str, interval_s: float, restore_from: Path | None, extra: dict[str, str]
) -> dict[str, str]:
    """Flink's own keys; `extra` is what the user sets and wins over all that is not fixed by the plan."""
    return {
        **_DEFAULTS,
        **_checkpointing(backend, interval_s),
        "execution.buffer-timeout.interval": "20 ms",
        "taskmanager.memory.managed.size": "256m",
        "io.tmp.dirs": str(temporary),
        "rest.port": "0",
        "rest.bind-address": "localhost",
        **extra,
        **_fixed(checkpoints, restore_from, parallelism=1),
        # A failure ends the process and the next start resumes: one way of recovering, the one that is tried all the time.
        "restart-strategy.type": "none",
    }


def cluster_configuration(
    *,
    url: str,
    jars: list[Path],
    checkpoints: Path,
    backend: str,
    interval_s: float,
    parallelism: int,
    restore_from: Path | None,
    extra: dict[str, str],
) -> dict[str, str]:
    """The same for a job on the cluster with this REST address, which gets these jars with it."""
    address = urlsplit(url)
    return {
        **_DEFAULTS,
        **_checkpointing(backend, interval_s),
        "execution.buffer-timeout.interval": "2 ms",
        # A full disk costs checkpoints, not the stream; `uic job status` shows how old the last one is.
        "execution.checkpointing.tolerable-failed-checkpoints": "1000",
        "restart-strategy.type": "exponential-delay",
        "restart-strategy.exponential-delay.initial-backoff": "200 ms",
        "restart-strategy.exponential-delay.max-backoff": "5 s",
        "restart-strategy.exponential-delay.attempts-before-reset-backoff": "30",
        "restart-strategy.exponential-delay.reset-backoff-threshold": "2 min",
        **extra,
        **_fixed(checkpoints, restore_from, parallelism),
        "execution.target": "remote",
        "execution.attached": "false",
        "rest.address": str(address.hostname),
        "rest.port": str(address.port or 80),
        "pipeline.jars": ";".join(path.as_uri() for path in jars),
    }


def _checkpointing(backend: str, interval_s: float) -> dict[str, str]:
    return {
        "state.backend.type": backend,
        "execution.checkpointing.interval": f"{int(interval_s * 1000)} ms",
        "execution.checkpointing.incremental": "true" if backend == "rocksdb" else "false",
        # By default 4 kB, a little more than one memory: a system call for each.
        "execution.checkpointing.write-buffer-size": str(1 << 20),
    }


def _fixed(checkpoints: Path, restore_from: Path | None, parallelism: int) -> dict[str, str]:
    """What belongs to the plan itself: other values would lose or misplace state."""
    chosen = {
        "execution.runtime-mode": "STREAMING",
        "python.execution-mode": "thread",
        "python.executable": sys.executable,
        "python.client.executable": sys.executable,
        "parallelism.default": str(parallelism),
        "pipeline.max-parallelism": str(contract.MAX_PARALLELISM),
        "execution.checkpointing.mode": "EXACTLY_ONCE",
        "execution.checkpointing.dir": checkpoints.as_uri(),
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
    }
    if restore_from is not None:
        chosen["execution.state-recovery.path"] = restore_from.as_uri()
        chosen["execution.state-recovery.claim-mode"] = "NO_CLAIM"
    return chosen


class RunningJob:
    """The job on the embedded cluster."""

    def __init__(self, client: Any) -> None:  # a PyFlink JobClient
        self._client = client._j_job_client
        # Asked for at once: when the job has failed, its cluster is gone and answers nothing any more.
        self._result = self._client.getJobExecutionResult()

    @property
    def job_id(self) -> str:
        return str(self._client.getJobID())

    def is_over(self) -> bool:
        """Whether it has ended, in whatever way."""
        return bool(self._result.isDone())

    def stop_with_savepoint(self, target: Path) -> str:
        """Stop in order and keep all state in a savepoint; not drained, so that it can be continued. Returns where it is."""
        formats = get_gateway().jvm.org.apache.flink.core.execution.SavepointFormatType
        savepoint = str(self._client.stopWithSavepoint(False, target.as_uri(), formats.CANONICAL).get())
        # The savepoint is there before the operators have come to their end.
        self._result.get()
        return savepoint

    def why_it_failed(self) -> str:
        """The innermost of Java's exceptions, in one line."""
        try:
            self._result.get()
        except Exception as error:  # PyFlink turns Java's exceptions into several kinds of its own
            return innermost(str(error))
        return "it ended by itself"


def start(settings: dict[str, str], build: Callable[[StreamExecutionEnvironment], None], name: str = "uic") -> RunningJob:
    """Build the graph and start it on the cluster that the settings name: the embedded one, or a remote one."""
    flink = Configuration()
    for key, value in settings.items():
        flink.set_string(key, value)
    # PyFlink's own way, get_execution_environment, makes an embedded cluster whatever the target is.
    java = get_gateway().jvm.org.apache.flink.streaming.api.environment.StreamExecutionEnvironment
    is_remote = settings.get("execution.target") == "remote"
    make = java if is_remote else java.createLocalEnvironment
    environment = StreamExecutionEnvironment(make(flink._j_configuration))
    build(environment)
    return RunningJob(environment.execute_async(name))


def innermost(stack_trace: str) -> str:
    """The line of a Java stack trace that says what went wrong first.

    >>> innermost("JobExecutionException: failed\\n\\tat a.b(C.java:1)\\nCaused by: java.io.IOException: no\\n\\tat d.e(F:2)")
    'java.io.IOException: no'
    """
    lines = [line.strip() for line in stack_trace.strip().splitlines()]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    return causes[-1] if causes else lines[0]
