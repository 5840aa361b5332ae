"""The five topics: made as the stream needs them, described, and checked before anything relies on them; `uic topics`."""

import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from jobs.kafka import client_config
from jobs.settings import KafkaSettings
from uic.errors import BadInput
from uic.event import MAX_EVENT_BYTES

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

topics_app = typer.Typer(
    help="The topics in Kafka: events and control messages in; snapshots, late events and dead letters out.",
    no_args_is_help=True,
)

WAIT_S = 6.0
# An event that is a little too large still gets in, and its dead letter, which has headers, gets out.
EVENT_BYTES = MAX_EVENT_BYTES + (64 << 10)
LETTER_BYTES = 2 * MAX_EVENT_BYTES


class TopicFacts(NamedTuple):
    """What a topic is like."""

    partitions: int
    timestamp_type: str
    cleanup_policy: str


def wanted(kafka: KafkaSettings) -> dict[str, dict[str, str]]:
    """Each topic of ours and the settings it is made with; the log's clock stamps all of them."""
    stamped = {"message.timestamp.type": "LogAppendTime"}
    letters = {**stamped, "cleanup.policy": "delete", "max.message.bytes": str(LETTER_BYTES)}
    return {
        kafka.events: {
            **stamped,
            "cleanup.policy": "delete",
            "max.message.bytes": str(EVENT_BYTES),
            "retention.ms": str(kafka.retention_h * 3_600_000),
        },
        # Small segments: only closed ones are compacted. A reader may be a day behind before it misses that a user left.
        kafka.snapshots: {
            **stamped,
            "cleanup.policy": "compact",
            "segment.bytes": str(64 << 20),
            "segment.ms": "3600000",
            "min.cleanable.dirty.ratio": "0.2",
            "delete.retention.ms": "86400000",
        },
        kafka.late: letters,
        kafka.dead: letters,
        # Kept for ever, but for what is taken back by its key: a job that starts reads all of it. One partition, one order.
        kafka.control: {**stamped, "cleanup.policy": "compact"},
    }


def partitions_of(kafka: KafkaSettings, name: str) -> int:
    """How many partitions this topic of ours must have."""
    return 1 if name == kafka.control else kafka.partitions


def create(kafka: KafkaSettings) -> list[str]:
    """Make the topics that are missing; returns their names. Those that exist stay as they are."""
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.cimpl import NewTopic

    admin = connect(kafka)
    there = admin.list_topics(timeout=WAIT_S).topics
    missing = [
        NewTopic(name, num_partitions=partitions_of(kafka, name), replication_factor=kafka.replication, config=config)
        for name, config in wanted(kafka).items()
        if name not in there
    ]
    made = []
    for name, future in (admin.create_topics(missing, operation_timeout=WAIT_S) if missing else {}).items():
        try:
            future.result()
            made.append(name)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise BadInput(f"topic {name}: {kafka.bootstrap} would not make it: {error.args[0].str()}") from error
    return made


def describe(kafka: KafkaSettings) -> dict[str, TopicFacts]:
    """Those of our topics that exist, by name; raises BadInput where the broker cannot be spoken to."""
    return _describe(connect(kafka), kafka)


def check(kafka: KafkaSettings, names: Collection[str] | None = None) -> dict[str, TopicFacts]:
    """What `describe` says, after every topic (or only `names`) was found as the stream needs it; raises BadInput otherwise."""
    names = wanted(kafka) if names is None else names
    facts = {name: each for name, each in describe(kafka).items() if name in names}
    missing = [name for name in names if name not in facts]
    wrong = [f"{', '.join(missing)}: no such topic; `uic topics create` makes it"] if missing else []
    wrong += [
        f"{name}: kafka.partitions asks for {kafka.partitions} partitions, the topic has {each.partitions}; "
        "set kafka.partitions to that, or use a new topic"
        for name, each in facts.items()
        if name != kafka.control and each.partitions != kafka.partitions
    ]
    control = facts.get(kafka.control)
    if control is not None and control.partitions != 1:
        wrong.append(f"{kafka.control}: control messages need one order, so 1 partition, the topic has {control.partitions}")
    events = facts.get(kafka.events)
    if events is not None and events.timestamp_type != "LogAppendTime":
        wrong.append(
            f"{kafka.events}: message.timestamp.type is {events.timestamp_type}, and log time needs LogAppendTime: "
            f"kafka-configs --alter --entity-type topics --entity-name {kafka.events} "
            "--add-config message.timestamp.type=LogAppendTime"
        )
    snapshots = facts.get(kafka.snapshots)
    if snapshots is not None and "compact" not in snapshots.cleanup_policy:
        wrong.append(
            f"{kafka.snapshots}: cleanup.policy is {snapshots.cleanup_policy}, expected compact: memories would be lost"
        )
    if wrong:
        raise BadInput(f"Kafka at {kafka.bootstrap}: " + "; ".join(wrong))
    return facts


def connect(kafka: KafkaSettings, wait_s: float = WAIT_S) -> "AdminClient":
    """A client that the broker has answered; raises BadInput with the reason, at once where the credentials are wrong."""
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import AdminClient

    said: list[KafkaError] = []
    # librdkafka would print every attempt that fails.
    config: dict[str, Any] = {**client_config(kafka), "error_cb": said.append, "log_level": 0}  # text, numbers, functions
    admin = AdminClient(config)
    give_up_at = time.monotonic() + wait_s
    patience_s = 0.1  # short at first: what is refused is refused soon, and only a look at `said` tells
    while True:
        try:
            admin.list_topics(timeout=min(patience_s, wait_s))
        except KafkaException as error:
            last = error
        else:
            return admin
        admin.poll(0)
        refused = [each for each in said if each.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL)]
        if refused:
            raise BadInput(
                f"kafka.bootstrap {kafka.bootstrap}: the broker does not let us in: {refused[0].str()}; "
                "see kafka.security_protocol, kafka.username and UIC__KAFKA__PASSWORD"
            )
        patience_s = min(2 * patience_s, 2.0)
        if time.monotonic() > give_up_at:
            causes = [each.str() for each in said if each.code() != KafkaError._ALL_BROKERS_DOWN]
            raise BadInput(
                f"kafka.bootstrap {kafka.bootstrap}: no broker answered within {wait_s:g} s: "
                f"{causes[0] if causes else last.args[0].str()}"
            )


def _describe(admin: "AdminClient", kafka: KafkaSettings) -> dict[str, TopicFacts]:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin._config import ConfigResource
    from confluent_kafka.admin._resource import ResourceType

    there = admin.list_topics(timeout=WAIT_S).topics
    names = [name for name in wanted(kafka) if name in there]
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    facts = {}
    for resource, future in (admin.describe_configs(resources, request_timeout=WAIT_S) if resources else {}).items():
        try:
            config: dict[str, Any] = future.result()  # confluent-kafka's entries
        except KafkaException as error:
            raise BadInput(f"topic {resource.name}: {kafka.bootstrap} does not describe it: {error.args[0].str()}") from error
        facts[resource.name] = TopicFacts(
            partitions=len(there[resource.name].partitions),
            timestamp_type=config["message.timestamp.type"].value,
            cleanup_policy=config["cleanup.policy"].value,
        )
    return facts


@topics_app.callback()
def _topics() -> None:
    """The topics in Kafka: events in; snapshots, late events and dead letters out."""


@topics_app.command("create")
def create_command(ctx: typer.Context) -> None:
    """Make the topics of the `kafka` settings that are missing, and check those that are there.

    Example: uic topics create
    """
    kafka: KafkaSettings = ctx.obj.kafka
    made = create(kafka)
    check(kafka)
    typer.echo(f"made: {', '.join(made)}" if made else "all topics were there already")


@topics_app.command("list")
def list_command(ctx: typer.Context) -> None:
    """List the topics of the `kafka` settings, as they are.

    Example: uic topics list
    """
    kafka: KafkaSettings = ctx.obj.kafka
    facts = describe(kafka)
    table = Table("topic", "partitions", "time stamps", "cleanup")
    for name in wanted(kafka):
        if name in facts:
            each = facts[name]
            table.add_row(name, str(each.partitions), each.timestamp_type, each.cleanup_policy)
        else:
            table.add_row(name, "missing", "", "")
    Console(soft_wrap=True, highlight=False, markup=False).print(table)
