"""The per-event plan as a Flink job: its configuration and its graph, for the embedded cluster in one JVM."""

import sys
from pathlib import Path
from typing import Any

from pyflink.common import Configuration, Types
from pyflink.datastream import DataStream, StreamExecutionEnvironment
from pyflink.java_gateway import get_gateway

from operators import contract
from operators.read import HeartbeatRows, ReadEvents, ReadSettings
from operators.types import key_by_first_field, keyed_row
from operators.update import UpdateMemory, UpdateSettings


def configuration(
    *, checkpoints: Path, temporary: Path, backend: str, interval_s: float, restore_from: Path | None, extra: dict[str, str]
) -> dict[str, str]:
    """Flink's own keys; `extra` is what the user sets and wins over all that is not fixed by the plan."""
    chosen = {
        "state.backend.type": backend,
        "execution.checkpointing.interval": f"{int(interval_s * 1000)} ms",
        "execution.checkpointing.min-pause": "200 ms",
        "execution.checkpointing.num-retained": "3",
        "execution.checkpointing.timeout": "10 min",
        "execution.checkpointing.incremental": "true" if backend == "rocksdb" else "false",
        "execution.buffer-timeout.interval": "20 ms",
        "taskmanager.memory.managed.size": "256m",
        "io.tmp.dirs": str(temporary),
        "rest.port": "0",
        "rest.bind-address": "localhost",
        "python.metric.enabled": "false",
        "pipeline.object-reuse": "true",
        **extra,
        # The plan itself: other values would lose or misplace state.
        "execution.runtime-mode": "STREAMING",
        "python.execution-mode": "thread",
        "python.executable": sys.executable,
        "python.client.executable": sys.executable,
        "parallelism.default": "1",
        "pipeline.max-parallelism": str(contract.MAX_PARALLELISM),
        "execution.checkpointing.mode": "EXACTLY_ONCE",
        "execution.checkpointing.dir": checkpoints.as_uri(),
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        # A failure ends the process and the next start resumes: one way of recovering, the one that is tried all the time.
        "restart-strategy.type": "none",
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


def start(settings: dict[str, str], read: ReadSettings, update: UpdateSettings) -> RunningJob:
    """Build the graph and start it on the embedded cluster.

    heartbeat (Java, once a second) -> reader, keyed by a constant -> update operator, keyed by user -> nothing
    """
    flink = Configuration()
    for key, value in settings.items():
        flink.set_string(key, value)
    environment = StreamExecutionEnvironment.get_execution_environment(flink)
    jvm = get_gateway().jvm
    datagen = jvm.org.apache.flink.streaming.api.functions.source.datagen
    # Random numbers have no state, so a restored heartbeat simply beats on.
    beats = datagen.DataGeneratorSource(datagen.RandomGenerator.longGenerator(0, 1), 1, None)
    source = environment._j_stream_execution_environment.addSource(beats, contract.HEARTBEAT, Types.LONG().get_java_type_info())
    rows = DataStream(source).uid(contract.HEARTBEAT).process(HeartbeatRows(), keyed_row())
    events = key_by_first_field(rows.uid(contract.HEARTBEAT_ROWS)).process(ReadEvents(read), keyed_row())
    events.name("read events").uid(contract.READ)
    updates = key_by_first_field(events).process(UpdateMemory(update), Types.BYTE())
    updates.name("update memory").uid(contract.UPDATE)
    updates._j_data_stream.sinkTo(jvm.org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink())
    return RunningJob(environment.execute_async("uic"))


def innermost(stack_trace: str) -> str:
    """The line of a Java stack trace that says what went wrong first.

    >>> innermost("JobExecutionException: failed\\n\\tat a.b(C.java:1)\\nCaused by: java.io.IOException: no\\n\\tat d.e(F:2)")
    'java.io.IOException: no'
    """
    lines = [line.strip() for line in stack_trace.strip().splitlines()]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    return causes[-1] if causes else lines[0]
