"""A savepoint restored into a throw-away job in this machine's embedded Flink, with its sources and sinks cut off.

The job has the update operator's state under its uid and does nothing but hold it; an empty source feeds it. It is stopped with
a savepoint of its own: so every user's memory was read by Flink and written again, and the two must hold the same memories.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from pyflink.common import Types
from pyflink.datastream import DataStream, KeyedProcessFunction, ProcessFunction, StreamExecutionEnvironment
from pyflink.datastream.state import ValueStateDescriptor
from pyflink.java_gateway import get_gateway

from jobs import checkpoints, environment
from jobs.blobs import BlobForm
from jobs.gateway import start_jvm
from jobs.java import find_java
from operators import contract
from operators.types import RawBytes, key_by_first_field, keyed_row
from uic.errors import EnvironmentProblem, JobError

_RESTORE_S = 1800.0
_POLL_S = 0.3
# What Flink says to a stop that comes before all tasks run.
_NOT_YET = ("not all required tasks are currently running", "not being executed at the moment", "initializing")
# Once as RocksDB's files, once as the savepoint that is written again.
_COPIES = 3


class Restored(NamedTuple):
    """What came back: how many users' memories, and whether they are those that went in."""

    users: int
    is_same: bool
    seconds: float


class Nothing(ProcessFunction):  # type: ignore[misc]  # pyflink ships no types
    """Lets nothing through."""

    def process_element(self, value: Any, ctx: Any) -> Iterable[Any]:
        return ()


class HoldMemory(KeyedProcessFunction):  # type: ignore[misc]  # pyflink ships no types
    """Has the memories in keyed state, as the update operator has, and leaves them as they are."""

    def open(self, runtime_context: Any) -> None:
        self._memory = runtime_context.get_state(ValueStateDescriptor(contract.MEMORY, RawBytes()))

    def process_element(self, value: Any, ctx: Any) -> Iterable[Any]:
        return ()

    def on_timer(self, timestamp: int, ctx: Any) -> Iterable[Any]:
        return ()


def restore(savepoint: Path, form: BlobForm, *, work: Path | None = None, say: Callable[[str], None]) -> Restored:
    """Restore a canonical savepoint in a folder of its own below `work`; raises JobError where Flink does not take it."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="uic-verify-", dir=work) as folder:
        root = Path(folder)
        needed, free = _COPIES * checkpoints.size_of(savepoint), shutil.disk_usage(root).free
        if free < needed:
            raise EnvironmentProblem(
                f"{root.parent}: {free >> 20:,} MB are free on its disk, restoring {savepoint} needs {needed >> 20:,} MB; "
                "--work names a folder on another disk, --no-restore leaves the restore out"
            )
        again = _through_flink(savepoint, root, say)
        before, after = _digest(savepoint, form), _digest(again, form)
        return Restored(after[0], before == after, time.monotonic() - started)


def _through_flink(savepoint: Path, root: Path, say: Callable[[str], None]) -> Path:
    """The savepoint that a job makes which was restored from this one."""
    temporary, taken = root / "tmp", root / "taken"
    for each in (temporary, taken):
        each.mkdir()
    flink = environment.embedded_configuration(
        checkpoints=taken,
        temporary=temporary,
        backend="rocksdb",  # on disk: it need not fit into this machine's memory
        interval_s=86_400.0,
        restore_from=savepoint,
        # What the sources and sinks had kept belongs to nobody here.
        extra={"execution.state-recovery.ignore-unclaimed-state": "true"},
    )
    with (root / "lock").open("a") as lock:
        jvm = start_jvm(find_java(dict(os.environ)).executable, log_dir=root / "logs", options="", lock=lock, jars=[])
        try:
            say("Flink restores it")
            try:
                return _stopped(environment.start(flink, _graph, "verify"), taken)
            except JobError:
                raise
            except Exception as error:  # PyFlink turns Java's exceptions into several kinds of its own
                raise JobError(f"{savepoint}: Flink does not take it: {environment.innermost(str(error))}") from error
        finally:
            jvm.stop()


def _stopped(job: environment.RunningJob, target: Path) -> Path:
    """Stop the job with a savepoint as soon as it runs."""
    give_up_at = time.monotonic() + _RESTORE_S
    while True:
        if job.is_over():
            raise JobError(f"the restored job ended: {job.why_it_failed()}")
        try:
            return Path(job.stop_with_savepoint(target).removeprefix("file:"))
        except Exception as error:  # as above
            is_early = any(words in str(error).lower() for words in _NOT_YET)
            if not is_early or time.monotonic() > give_up_at:
                raise
        time.sleep(_POLL_S)


def _graph(flow: StreamExecutionEnvironment) -> None:
    jvm = get_gateway().jvm
    datagen = jvm.org.apache.flink.streaming.api.functions.source.datagen
    beats = datagen.DataGeneratorSource(datagen.RandomGenerator.longGenerator(0, 1), 1, None)
    source = flow._j_stream_execution_environment.addSource(beats, "nothing", Types.LONG().get_java_type_info())
    empty = DataStream(source).process(Nothing(), keyed_row())
    held = key_by_first_field(empty).process(HoldMemory(), RawBytes()).uid(contract.UPDATE)
    held._j_data_stream.sinkTo(jvm.org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink())


def _digest(savepoint: Path, form: BlobForm) -> tuple[int, int]:
    """How many memories, and a number that is the same for the same memories in any order."""
    count = total = 0
    for memory in checkpoints.memories_of(savepoint, form):
        count += 1
        total += int.from_bytes(blake2b(memory, digest_size=16).digest(), "big")
    return count, total
