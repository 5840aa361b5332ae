"""The job as a Flink graph: events from a folder or from Kafka, the update operator of either plan, and what leaves it.

files   heartbeat -> reader, keyed by a constant -> update, keyed by user -> nothing: the operator writes the store itself
Kafka   events topic -> update, keyed by user -> snapshots, late events, dead letters; records without a usable key go to the
        dead letters before keying. Every update operator also gets every message of the control topic
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyflink.common import Types
from pyflink.datastream import DataStream, KeyedStream, StreamExecutionEnvironment
from pyflink.java_gateway import get_gateway

from jobs.topics import LETTER_BYTES
from operators import contract
from operators.read import HeartbeatRows, ReadEvents, ReadSettings
from operators.settings import UpdateSettings
from operators.types import RawBytes, key_by_first_field, keyed_row
from operators.update import ControlledUpdateMemory, UpdateMemory, heeded

Java = Any  # what py4j hands out has no types
WHEEL = "uic-wheel"
_NOTHING_MORE_S = 5


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How events are applied: in batches, by the Java operator, or one by one. `python` runs on the workers."""

    is_batched: bool
    python: str
    batch: int
    wait_ms: int
    ships_wheel: bool = False


@dataclass(frozen=True, kw_only=True)
class KafkaTopics:
    """What the graph needs to know of Kafka; `properties` are the Java client's. `start`: earliest, latest, committed or ms.

    `control` None: nothing is promoted while the job runs.
    """

    properties: dict[str, str]
    group: str
    start: str | int
    events: str
    snapshots: str
    late: str
    dead: str
    partitions: int
    control: str | None = None


def files_graph(environment: StreamExecutionEnvironment, read: ReadSettings, update: UpdateSettings, plan: Plan) -> None:
    """The embedded job over a folder of event files."""
    jvm = get_gateway().jvm
    datagen = jvm.org.apache.flink.streaming.api.functions.source.datagen
    # Random numbers have no state, so a restored heartbeat simply beats on.
    beats = datagen.DataGeneratorSource(datagen.RandomGenerator.longGenerator(0, 1), 1, None)
    source = environment._j_stream_execution_environment.addSource(beats, contract.HEARTBEAT, Types.LONG().get_java_type_info())
    rows = DataStream(source).uid(contract.HEARTBEAT).process(HeartbeatRows(), keyed_row())
    events = key_by_first_field(rows.uid(contract.HEARTBEAT_ROWS)).process(ReadEvents(read), keyed_row())
    events.name("read events").uid(contract.READ)
    updates = _update(key_by_first_field(events), update, plan)
    updates.sinkTo(jvm.org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink())


def kafka_graph(environment: StreamExecutionEnvironment, topics: KafkaTopics, update: UpdateSettings, plan: Plan) -> None:
    """The job on a cluster, from Kafka to Kafka."""
    jvm = get_gateway().jvm
    watermarks = jvm.org.apache.flink.api.common.eventtime.WatermarkStrategy
    # Watermarks are for idle users and for the end of a silence. Log time never runs backwards within a partition. A silence
    # must end though a partition has nothing more: what comes there is later. Users are not to leave by such a guess: where
    # they may, the end of a silence waits for every partition.
    silent = update.silent_before_ms > 0
    leaves = update.rules.idle_after_ms is not None
    strategy = watermarks.forMonotonousTimestamps() if leaves or silent else watermarks.noWatermarks()
    if silent and not leaves:
        strategy = strategy.withIdleness(jvm.java.time.Duration.ofSeconds(_NOTHING_MORE_S))
    j_environment = environment._j_stream_execution_environment
    source = j_environment.fromSource(_kafka_source(topics), strategy, "read events").uid(contract.EVENTS)
    # A source without partitions would hold the watermark back for ever.
    source.setParallelism(min(j_environment.getParallelism(), topics.partitions))
    refused = source.filter(jvm.uic.flink.HasKey(False)).name("refused keys")
    refused = refused.map(jvm.uic.flink.OutgoingField(), RawBytes().get_java_type_info())
    refused.sinkTo(_kafka_sink(topics)).name("refused keys").uid(contract.REFUSED)
    rows = DataStream(source.filter(jvm.uic.flink.HasKey(True)).name("events with keys"))
    control = None
    if topics.control is not None:
        # Idle at once: the log's clock is that of the events.
        silence = watermarks.noWatermarks().withIdleness(jvm.java.time.Duration.ofMillis(1))
        control = j_environment.fromSource(_control_source(topics), silence, "control")
        control = control.uid(contract.CONTROL_TOPIC).setParallelism(1)
    updates = _update(key_by_first_field(rows), update, plan, control)
    updates.sinkTo(_kafka_sink(topics)).name("publish").uid(contract.PUBLISH)


def _update(events: KeyedStream, update: UpdateSettings, plan: Plan, control: Java = None) -> Java:
    """The update operator, with control messages where there are any; a stream of outgoing records."""
    if not plan.is_batched:
        if control is None:
            updates = events.process(UpdateMemory(update), RawBytes())
        else:
            messages = DataStream(control).broadcast(heeded())
            updates = events.connect(messages).process(ControlledUpdateMemory(update), RawBytes())
        return updates.name("update memory").uid(contract.UPDATE)._j_data_stream
    idle_after_ms = update.rules.idle_after_ms
    operators = get_gateway().jvm.uic.flink
    settings = operators.UpdateSettings(
        plan.python,
        _strings([WHEEL] if plan.ships_wheel else []),
        update.to_json(),
        contract.MEMORY,
        plan.batch,
        plan.wait_ms,
        0 if idle_after_ms is None else idle_after_ms,
        update.silent_before_ms,
        update.store is None,
    )
    outgoing = Types.ROW([RawBytes(), RawBytes()]).get_java_type_info()
    keyed = events._j_data_stream
    if control is None:
        return keyed.transform("update memory", outgoing, operators.EventsUpdate(settings)).uid(contract.UPDATE)
    operator = operators.ControlledUpdate(contract.CONTROL, settings)
    stream = keyed.connect(control.broadcast()).transform("update memory", outgoing, operator)
    # Flink takes the key over only where both inputs have one.
    made = stream.getTransformation()
    made.setStateKeySelectors(keyed.getKeySelector(), None)
    made.setStateKeyType(keyed.getKeyType())
    return stream.uid(contract.UPDATE)


def _kafka_source(topics: KafkaTopics) -> Java:
    jvm = get_gateway().jvm
    source = jvm.org.apache.flink.connector.kafka.source
    offsets = source.enumerator.initializer.OffsetsInitializer
    earliest = jvm.org.apache.kafka.clients.consumer.OffsetResetStrategy.EARLIEST
    starts = {"earliest": offsets.earliest, "latest": offsets.latest, "committed": lambda: offsets.committedOffsets(earliest)}
    start = offsets.timestamp(topics.start) if isinstance(topics.start, int) else starts[topics.start]()
    builder = _source_of(topics, topics.events, topics.group, commits=True).setStartingOffsets(start)
    return builder.setDeserializer(jvm.uic.flink.RecordReader()).build()


def _control_source(topics: KafkaTopics) -> Java:
    """From the beginning on: messages name the start of the job that they are meant for, all others are passed over."""
    jvm = get_gateway().jvm
    offsets = jvm.org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer
    builder = _source_of(topics, topics.control, f"{topics.group}-control", commits=False)
    return builder.setStartingOffsets(offsets.earliest()).setDeserializer(jvm.uic.flink.ControlReader()).build()


def _source_of(topics: KafkaTopics, name: str | None, group: str, *, commits: bool) -> Java:
    jvm = get_gateway().jvm
    builder = jvm.org.apache.flink.connector.kafka.source.KafkaSource.builder()
    for key, value in {
        **topics.properties,
        # The partitions are counted when the job starts: a new one would move users, and must be refused instead.
        "partition.discovery.interval.ms": "-1",
        "commit.offsets.on.checkpoint": str(commits).lower(),
    }.items():
        builder = builder.setProperty(key, value)
    names = jvm.java.util.ArrayList()
    names.add(name)
    return builder.setTopics(names).setGroupId(group)


def _kafka_sink(topics: KafkaTopics) -> Java:
    jvm = get_gateway().jvm
    guarantees = jvm.org.apache.flink.connector.base.DeliveryGuarantee
    builder = jvm.org.apache.flink.connector.kafka.sink.KafkaSink.builder()
    for name, value in {
        # What may be in flight; beyond it the operator waits, and Kafka being down becomes backpressure.
        "buffer.memory": str(32 << 20),
        "max.block.ms": "600000",
        "delivery.timeout.ms": "600000",
        "linger.ms": "0",
        "batch.size": str(256 << 10),
        "acks": "all",
        "enable.idempotence": "true",
        # A dead letter is its event and more; one that does not fit would fail the job, and the next start too.
        "max.request.size": str(LETTER_BYTES),
        **topics.properties,
    }.items():
        builder = builder.setProperty(name, value)
    writer = jvm.uic.flink.OutgoingWriter(topics.snapshots, topics.late, topics.dead)
    return builder.setRecordSerializer(writer).setDeliveryGuarantee(guarantees.AT_LEAST_ONCE).build()


def _strings(texts: list[str]) -> Java:
    gateway = get_gateway()
    array = gateway.new_array(gateway.jvm.String, len(texts))
    for place, text in enumerate(texts):
        array[place] = text
    return array


def add_wheel(environment: StreamExecutionEnvironment, wheel: Path, plan: Plan) -> None:
    """Let the project's code travel with the job."""
    # One of both: PyFlink's way sets the list of files anew when the job starts, and ours would be gone.
    if plan.is_batched:
        environment._j_stream_execution_environment.registerCachedFile(wheel.absolute().as_uri(), WHEEL)
    else:
        environment.add_python_file(str(wheel))
