"""What `uic job submit` and `resume` refuse before anything is started, and the way out that they name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import toy
from pydantic import SecretStr

from jobs import topics
from jobs.dev.node import free_port
from jobs.dev.stack import DevStack
from jobs.folder import JobFolder
from jobs.record import ClusterRecord, JobRecord
from jobs.settings import KafkaSettings, Settings
from jobs.submit import Submission, submit
from uic.bundle import Bundle
from uic.errors import UicError


@pytest.fixture(scope="module")
def kafka(stack: DevStack) -> KafkaSettings:
    """Topics that are as they should be."""
    names = {name: f"refused-{name}" for name in ("events", "snapshots", "late", "dead", "group")}
    settings = stack.kafka_settings().model_copy(update=names)
    topics.create(settings)
    return settings


@pytest.fixture
def submission(stack: DevStack, tmp_path: Path, toy_bundle: Path) -> Submission:
    return Submission(
        bundle=toy_bundle,
        job_dir=tmp_path / "job",
        url=stack.url,
        name="refused",
        plan="batched",
        parallelism=1,
        backend="hashmap",
        checkpoint_interval_s=1,
    )


def refusal(kafka: KafkaSettings, submission: Submission, *, resumes: bool = False) -> str:
    with pytest.raises(UicError) as refused:
        submit(Settings(kafka=kafka), submission, resumes=resumes)
    return str(refused.value)


def test_an_unreachable_cluster(kafka: KafkaSettings, submission: Submission) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    assert nobody in refusal(kafka, replace(submission, url=nobody))


def test_too_few_slots(kafka: KafkaSettings, submission: Submission) -> None:
    said = refusal(kafka, replace(submission, parallelism=4))
    assert "3 slots are free, the job wants 4" in said
    assert "--parallelism" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"events": "nowhere"}, ["nowhere", "uic topics create"]),
        ({"partitions": 6}, ["4", "6"]),
        ({"password": SecretStr("wrong")}, ["password"]),
        ({"start": "yesterday"}, ["kafka.start", "yesterday", "earliest"]),
        ({"start": "2017-11-26T00:00:00"}, ["kafka.start", "with its zone"]),
    ],
)
def test_kafka_is_not_as_the_settings_say(
    kafka: KafkaSettings, submission: Submission, change: dict[str, Any], words: list[str]
) -> None:
    said = refusal(kafka.model_copy(update=change), submission)
    assert all(word in said for word in words), said


def test_an_unreachable_broker(kafka: KafkaSettings, submission: Submission) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    assert nobody in refusal(kafka.model_copy(update={"bootstrap": nobody}), submission)


def test_a_folder_in_which_no_job_was_ever_started(kafka: KafkaSettings, submission: Submission) -> None:
    assert "uic job submit" in refusal(kafka, submission, resumes=True)


def record_of(submission: Submission, kafka: KafkaSettings, **changes: Any) -> JobRecord:
    """What the folder says after a job has run in it, and a checkpoint of it."""
    identity = Bundle.open(submission.bundle).identity
    cluster = ClusterRecord(
        url=submission.url,
        job_id="0" * 32,
        name="refused",
        plan="batched",
        parallelism=1,
        bootstrap=kafka.bootstrap,
        topic=kafka.events,
        partitions=changes.pop("partitions", kafka.partitions),
        wheel="x.whl",
    )
    facts = {"layout": identity.layout, "lineage": identity.lineage, **changes}
    record = JobRecord(
        run=1, bundle_version=1, bundle="b", events=kafka.events, store="s", backend="hashmap", cluster=cluster, **facts
    )
    folder = JobFolder(submission.job_dir)
    folder.write(record)
    checkpoint = folder.checkpoints_of(1) / ("0" * 32) / "chk-1"
    checkpoint.mkdir(parents=True)
    (checkpoint / "_metadata").write_bytes(bytes.fromhex("4960672d"))
    return record


def test_a_folder_that_holds_state_is_resumed_and_not_begun_anew(kafka: KafkaSettings, submission: Submission) -> None:
    record_of(submission, kafka)
    assert "uic job resume" in refusal(kafka, submission)


def test_a_topic_whose_partition_count_changed(kafka: KafkaSettings, submission: Submission) -> None:
    record_of(submission, kafka, partitions=3)
    said = refusal(kafka, submission, resumes=True)
    assert "it had 3 partitions when the job was started, now it has 4" in said


@pytest.mark.parametrize("name", ["layout", "lineage"])
def test_a_bundle_that_the_saved_state_does_not_fit(
    kafka: KafkaSettings, submission: Submission, tmp_path: Path, name: str
) -> None:
    record_of(submission, kafka)
    other = {"layout": {"slots": 5}, "lineage": {"lineage": "another"}}[name]
    bundle = toy.make_bundle(tmp_path / "other", **other)  # type: ignore[arg-type]  # one argument by name
    said = refusal(kafka, replace(submission, bundle=bundle), resumes=True)
    assert f"was made by a bundle of {name}" in said
    assert "--job-dir" in said


def test_a_checkpoint_of_another_backend(kafka: KafkaSettings, submission: Submission) -> None:
    record_of(submission, kafka)
    said = refusal(kafka, replace(submission, backend="rocksdb"), resumes=True)
    assert "hashmap" in said


def test_a_wheel_that_is_none(kafka: KafkaSettings, submission: Submission, tmp_path: Path) -> None:
    assert "uv build --wheel" in refusal(kafka, replace(submission, wheel=tmp_path / "none.whl"))
