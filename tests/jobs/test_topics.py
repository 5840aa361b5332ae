"""Topics are made as the stream needs them, and refused with the way out where they are otherwise."""

import time
from typing import Any

import pytest
from command import Uic
from confluent_kafka.admin import AdminClient, NewTopic
from pydantic import SecretStr

from jobs import topics
from jobs.kafka import client_config
from jobs.settings import KafkaSettings
from jobs.topics import TopicFacts
from uic.errors import BadInput


def make(kafka: KafkaSettings, **by_name: dict[str, str]) -> None:
    """The topics as `create` makes them, but for what is said here."""
    wanted = topics.wanted(kafka)
    new = [
        NewTopic(
            name,
            num_partitions=topics.partitions_of(kafka, name),
            replication_factor=1,
            config={**config, **by_name.get(role, {})},
        )
        for role, (name, config) in zip(("events", "snapshots", "late", "dead", "control"), wanted.items(), strict=True)
    ]
    admin = AdminClient(client_config(kafka))
    for future in admin.create_topics(new).values():
        future.result()


def test_topics_are_made_once_and_stand_the_check(kafka: KafkaSettings) -> None:
    assert topics.describe(kafka) == {}
    assert topics.create(kafka) == [kafka.events, kafka.snapshots, kafka.late, kafka.dead, kafka.control]
    assert topics.create(kafka) == []
    log = TopicFacts(partitions=3, timestamp_type="LogAppendTime", cleanup_policy="delete")
    compacted = log._replace(cleanup_policy="compact")
    assert topics.check(kafka) == {
        kafka.events: log,
        kafka.snapshots: compacted,
        kafka.late: log,
        kafka.dead: log,
        kafka.control: compacted._replace(partitions=1),
    }
    assert topics.check(kafka, [kafka.dead]) == {kafka.dead: log}


def test_a_missing_topic_is_refused_with_the_command_that_makes_it(kafka: KafkaSettings) -> None:
    with pytest.raises(BadInput, match=f"{kafka.events}, .*: no such topic; `uic topics create` makes it"):
        topics.check(kafka)


def test_topics_that_do_not_fit_are_refused_all_in_one_message(kafka: KafkaSettings) -> None:
    make(kafka, events={"message.timestamp.type": "CreateTime"}, snapshots={"cleanup.policy": "delete"})
    with pytest.raises(BadInput) as refused:
        topics.check(kafka.model_copy(update={"partitions": 5}))
    for said in (
        f"{kafka.dead}: kafka.partitions asks for 5 partitions, the topic has 3",
        f"{kafka.events}: message.timestamp.type is CreateTime, and log time needs LogAppendTime",
        f"{kafka.snapshots}: cleanup.policy is delete, expected compact",
    ):
        assert said in str(refused.value)


def test_a_broker_that_is_not_there_is_named_with_the_cause() -> None:
    nowhere = KafkaSettings(bootstrap="127.0.0.1:1")
    with pytest.raises(BadInput, match=r"kafka.bootstrap 127.0.0.1:1: no broker answered within 0.2 s: .*Connection refused"):
        topics.connect(nowhere, wait_s=0.2)


@pytest.mark.parametrize("changes", [{"password": SecretStr("wrong")}, {"username": "nobody"}])
def test_wrong_credentials_are_refused_at_once(broker: KafkaSettings, changes: dict[str, Any]) -> None:
    started = time.monotonic()
    with pytest.raises(BadInput, match=r"does not let us in: .*uthentication.*UIC__KAFKA__PASSWORD"):
        topics.check(broker.model_copy(update=changes))
    assert time.monotonic() - started < topics.WAIT_S


def test_the_command_makes_and_lists_topics(uic_kafka: Uic, kafka: KafkaSettings) -> None:
    assert "missing" in uic_kafka("topics", "list").out
    made = uic_kafka("topics", "create")
    assert (made.code, made.out) == (
        0,
        f"made: {kafka.events}, {kafka.snapshots}, {kafka.late}, {kafka.dead}, {kafka.control}\n",
    )
    assert uic_kafka("topics", "create").out == "all topics were there already\n"
    rows = [line.replace("│", " ").split() for line in uic_kafka("topics", "list").out.splitlines()]
    assert [kafka.snapshots, "3", "LogAppendTime", "compact"] in rows
