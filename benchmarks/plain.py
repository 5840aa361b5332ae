"""The job a newcomer to PyFlink would write: what the stream's plans are compared with.

Process mode, key_by with a lambda, the state pickled, one call of ONNX Runtime an event. It does less than ours: no duplicates,
no late events, no dead letters, no CRC, and nothing is published.
"""

import argparse
import json
import os
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pyflink.common import Types, WatermarkStrategy
from pyflink.common.serialization import SimpleStringSchema
from pyflink.datastream import KeyedProcessFunction, StreamExecutionEnvironment
from pyflink.datastream.connectors.kafka import KafkaOffsetsInitializer, KafkaSource
from pyflink.datastream.state import ValueStateDescriptor

CHECKOUT = Path(__file__).parents[1]


class UpdateMemory(KeyedProcessFunction):  # type: ignore[misc]  # pyflink ships no types
    """The model's step, event by event."""

    def __init__(self, bundle: str) -> None:
        self._path = bundle

    def open(self, runtime_context: Any) -> None:  # a PyFlink context
        from uic.bundle import Bundle
        from uic.runtime import OnnxStep

        self._bundle = Bundle.open(Path(self._path))
        self._step = OnnxStep(self._bundle)
        self._memory = runtime_context.get_state(ValueStateDescriptor("memory", Types.PICKLED_BYTE_ARRAY()))

    def process_element(self, value: str, ctx: Any) -> Iterator[int]:  # a PyFlink context
        event = json.loads(value)
        memory = self._memory.value()
        if memory is None:
            memory = self._bundle.initial.state_F
        item = np.array([self._bundle.items.row(event["item_id"])])
        category = np.array([self._bundle.categories.row(event["category_id"])])
        self._memory.update(self._step(memory.reshape(1, -1), item, category)[0])
        yield event["time_ms"]


def worker_environment() -> dict[str, str]:
    """What a TaskManager needs for process mode: Beam, which our plans keep out, and this checkout."""
    return {"PYTHONPATH": os.pathsep.join([str(CHECKOUT), sysconfig.get_path("purelib")])}


def command(options: Mapping[str, object]) -> list[str]:
    """What submits the job; `options` are those of `main`."""
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "benchmarks.plain", *words]


def build(environment: StreamExecutionEnvironment, bundle: str, bootstrap: str, topic: str) -> None:
    source = (
        KafkaSource.builder()
        .set_bootstrap_servers(bootstrap)
        .set_topics(topic)
        .set_group_id("plain")
        .set_starting_offsets(KafkaOffsetsInitializer.earliest())
        .set_value_only_deserializer(SimpleStringSchema())
        .build()
    )
    events = environment.from_source(source, WatermarkStrategy.no_watermarks(), "events")
    memories = events.key_by(lambda event: json.loads(event)["user_id"]).process(UpdateMemory(bundle), Types.LONG())
    from pyflink.java_gateway import get_gateway

    discarding = get_gateway().jvm.org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink()
    memories.name("update memory")._j_data_stream.sinkTo(discarding)


def main() -> None:
    from jobs import environment
    from jobs.gateway import start_jvm
    from jobs.jars import job_jars
    from jobs.java import find_java

    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("bundle", "bootstrap", "topic", "url", "jars", "folder"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    jars = job_jars(Path(options.jars))
    folder = Path(options.folder)
    flink = environment.cluster_configuration(
        url=options.url,
        jars=jars,
        checkpoints=folder / "checkpoints",
        backend="hashmap",
        interval_s=10,
        parallelism=1,
        restore_from=None,
        extra={},
    )
    java = find_java(dict(os.environ)).executable
    with tempfile.TemporaryFile("w") as lock:
        jvm = start_jvm(java, log_dir=folder / "logs", options="", lock=lock, jars=jars)
        try:
            settings = {**flink, "python.execution-mode": "process"}
            environment.start(settings, lambda flow: build(flow, options.bundle, options.bootstrap, options.topic), "plain")
        finally:
            jvm.stop()


if __name__ == "__main__":
    main()
