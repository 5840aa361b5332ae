"""`uic doctor`: what is wrong is found and named, with how to mend it. (test_cluster_commands.py asks it of a real cluster.)"""

import http.server
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import Uic
from confluent_kafka import Producer
from confluent_kafka.cimpl import NewTopic

sys.path.append(str(Path(__file__).parents[1] / "scenarios"))

import toy

from jobs import topics
from jobs.doctor import artefacts, machine
from jobs.doctor.cluster import check_cluster
from jobs.doctor.finding import Finding
from jobs.doctor.kafka import check_kafka, check_partitioner
from jobs.folder import ClusterRecord, JobFolder, JobRecord
from jobs.kafka import client_config
from jobs.settings import KafkaSettings
from operators.condemned import condemn
from uic.bundle import Bundle
from uic.codec import Codec
from uic.partition import partition_of
from uic.store.rocksdb import RocksStore

FLINK = "2.3.0"
GOOD = {"classloader.parent-first-patterns.additional": "pemja.", "execution.checkpointing.num-retained": "3"}


def levels(findings: list[Finding]) -> list[str]:
    return [finding.level for finding in findings]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return toy.make_bundle(tmp_path / "bundle")


def record(bundle: Path, **changed: Any) -> JobRecord:
    identity = Bundle.open(bundle).identity
    fields = {"run": 1, "bundle_version": 1, "bundle": str(bundle), "events": "e", "store": "s", "backend": "hashmap"}
    return JobRecord(**{**fields, **identity._asdict(), **changed})


# This machine


def test_this_machine_is_as_it_should_be() -> None:
    assert "problem" not in levels([*machine.check_java(dict(os.environ)), *machine.check_packages()])


def test_another_version_than_the_locks_is_named(tmp_path: Path) -> None:
    (tmp_path / "uv.lock").write_text('[[package]]\nname = "numpy"\nversion = "1.0"\n')
    (found,) = machine.check_packages(tmp_path)
    assert found.level == "warning"
    assert "locked 1.0" in found.what


def checkout(root: Path, *, connector: str = "1.0", is_stale: bool = False) -> Path:
    """A checkout with jars and the sources they are built from; returns the folder of the jars."""
    jars, sources = root / "jars", root / "operators" / "java" / "src"
    for folder in (jars, sources, root / "infra"):
        folder.mkdir(parents=True)
    for name in ("uic-flink.jar", "flink-connector-kafka-1.0.jar", "kafka-clients-2.0.jar"):
        (jars / name).touch()
    (sources / "BatchedUpdate.java").touch()
    built_ns = (jars / "uic-flink.jar").stat().st_mtime_ns
    changed_ns = built_ns + 10**9 if is_stale else built_ns - 10**9
    os.utime(sources / "BatchedUpdate.java", ns=(changed_ns, changed_ns))
    pom = f"<connector.version>{connector}</connector.version><kafka.version>2.0</kafka.version>"
    (root / "infra" / "pom.xml").write_text(pom)
    return jars


def test_jars_that_fit_are_fine(tmp_path: Path) -> None:
    (found,) = machine.check_jars(checkout(tmp_path), tmp_path)
    assert found == Finding("jars", "ok", f"3 in {tmp_path / 'jars'}: Kafka connector 1.0, client 2.0")


def test_a_jar_older_than_its_sources_is_named_with_them(tmp_path: Path) -> None:
    (found,) = machine.check_jars(checkout(tmp_path, is_stale=True), tmp_path)
    assert (found.level, found.mend) == ("warning", "`make jars` builds it anew")
    assert "uic-flink.jar is older than BatchedUpdate.java" in found.what


def test_another_version_of_a_jar_than_the_poms_is_a_problem(tmp_path: Path) -> None:
    (found,) = machine.check_jars(checkout(tmp_path, connector="5.0"), tmp_path)
    assert found == Finding("jars", "problem", "flink-connector-kafka: 1.0, the pom says 5.0", "`make jars` fetches them anew")


def test_missing_jars_are_absent(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert levels(list(machine.check_jars(tmp_path / "empty", tmp_path))) == ["absent"]


# Bundle, job folder, store


def test_a_bundle_altered_on_disk_is_a_problem(bundle: Path) -> None:
    with (bundle / "vocabulary.npz").open("ab") as file:
        file.write(b"x")
    opened, found = artefacts.open_bundle(bundle)
    assert opened is None
    assert found.level == "problem"
    assert "vocabulary.npz" in found.what


def test_a_bundle_that_the_saved_state_does_not_fit_is_a_problem(tmp_path: Path, bundle: Path) -> None:
    other, _ = artefacts.open_bundle(toy.make_bundle(tmp_path / "other", slots=5, lineage="else"))
    folder = JobFolder(tmp_path / "job")
    found = list(artefacts.check_state(folder, record(bundle), other))
    assert levels(found)[:2] == ["problem", "problem"]
    assert "was made by a bundle of layout" in found[0].what
    assert "was made by a bundle of lineage toy" in found[1].what


def test_what_a_job_goes_on_from_is_named_with_what_is_passed_over(tmp_path: Path, bundle: Path) -> None:
    folder = JobFolder(tmp_path / "job")
    for number in (3, 4):
        (folder.checkpoints_of(1) / "id" / f"chk-{number}").mkdir(parents=True)
    (folder.checkpoints_of(1) / "id" / "chk-3" / "_metadata").write_bytes(bytes.fromhex("4960672d"))
    condemn(folder.path, "chk-2", "CRC of user u1")
    incomplete, condemned, newest = artefacts.check_state(folder, record(bundle), None)
    assert "chk-4: this checkpoint was not completed" in incomplete.what
    assert condemned.what == "chk-2 is condemned: CRC of user u1"
    assert newest.what.startswith("goes on from checkpoints/run-000001/id/chk-3")


def test_a_store_is_asked_whether_it_fits_the_bundle(tmp_path: Path, bundle: Path) -> None:
    opened = Bundle.open(bundle)
    (absent,) = artefacts.check_store(tmp_path / "store", opened)
    assert absent.level == "absent"
    store = RocksStore.create_or_open(tmp_path / "store", opened.identity)
    store.write("u1", Codec(opened.layout).encode(opened.initial))
    store.close()
    (good,) = artefacts.check_store(tmp_path / "store", opened)
    assert (good.level, "memories that fit the bundle" in good.what) == ("ok", True)
    (bad,) = artefacts.check_store(tmp_path / "store", Bundle.open(toy.make_bundle(tmp_path / "other", slots=5)))
    assert bad.level == "problem"
    assert "the store holds memories of layout" in bad.what


# The cluster


class _Flink(http.server.BaseHTTPRequestHandler):
    """Three answers of a JobManager, in Flink's own form."""

    answers: dict[str, object]

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(self.answers[self.path]).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def flink() -> Iterator[tuple[str, dict[str, object]]]:
    """The address of a cluster and what it answers, which a test may change; as it is, all is well."""
    answers: dict[str, object] = {
        "/overview": {"flink-version": FLINK, "taskmanagers": 2, "slots-total": 2, "slots-available": 2},
        "/jobmanager/config": [{"key": key, "value": value} for key, value in GOOD.items()],
        "/jobmanager/environment": {"classpath": ["/lib/flink-dist-2.3.0.jar", "/lib/flink-python-2.3.0.jar"]},
    }
    handler = type("Handler", (_Flink,), {"answers": answers})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", answers
        server.shutdown()


def test_a_cluster_that_is_as_the_job_needs_it_is_fine(flink: tuple[str, dict[str, object]]) -> None:
    assert set(levels(list(check_cluster(flink[0], 2, None)))) == {"ok"}


@pytest.mark.parametrize(
    ("path", "answer", "level", "words"),
    [
        ("/overview", {"flink-version": "2.2.0"}, "problem", "is Flink 2.2.0, this environment has 2.3.0"),
        ("/overview", {"slots-available": 1}, "warning", "1 of 2 slots are free, the job wants 2"),
        ("/overview", {"slots-total": 8}, "warning", "8 slots in 2 TaskManagers: those of one share one Python"),
        ("/jobmanager/config", {"classloader.parent-first-patterns.additional": "x."}, "problem", "does not name pemja."),
        ("/jobmanager/config", {"execution.checkpointing.num-retained": "1"}, "problem", "num-retained is 1"),
        ("/jobmanager/environment", {"classpath": ["/lib/a.jar"]}, "problem", "no flink-python jar"),
    ],
)
def test_what_a_cluster_lacks_is_named_with_its_mending(
    flink: tuple[str, dict[str, object]], path: str, answer: dict[str, object], level: str, words: str
) -> None:
    url, answers = flink
    if path == "/jobmanager/config":
        answers[path] = [{"key": key, "value": value} for key, value in {**GOOD, **answer}.items()]
    else:
        answers[path] = {**answers[path], **answer}  # type: ignore[dict-item]
    (found,) = [each for each in check_cluster(url, 2, None) if each.level != "ok"]
    assert found.level == level
    assert words in found.what
    assert found.mend


# Kafka


def send(kafka: KafkaSettings, partitioner: str, count: int = 50) -> None:
    producer = Producer({**client_config(kafka), "partitioner": partitioner})
    for number in range(count):
        producer.produce(kafka.events, b"{}", f"user {number}".encode())
    producer.produce(kafka.events, b"{}", None)
    assert producer.flush(30) == 0


def test_topics_and_a_producer_that_is_right_are_fine(kafka: KafkaSettings) -> None:
    topics.create(kafka)
    send(kafka, "murmur2_random")
    broker, of_topics, partitioner = check_kafka(kafka, 1000, None)
    assert levels([broker, of_topics, partitioner]) == ["ok", "ok", "ok"]
    assert "the latest 50 events lie where their users belong, 1 without a key become dead letters" in partitioner.what


def test_a_producer_with_another_partitioner_is_named_by_its_first_event(kafka: KafkaSettings) -> None:
    topics.create(kafka)
    send(kafka, "consistent_random")
    found = check_partitioner(kafka, kafka.partitions, 1000)
    assert (found.level, "murmur2_random" in found.mend) == ("problem", True)
    user, partition, expected = (found.what.split(word)[1].split()[0] for word in ("'user", "partition", "expected"))
    assert partition_of(f"user {user.rstrip(chr(39))}".encode(), kafka.partitions) == int(expected.rstrip(":"))
    assert int(partition) != int(expected.rstrip(":"))


def test_only_the_latest_events_are_asked(kafka: KafkaSettings) -> None:
    topics.create(kafka)
    send(kafka, "consistent_random", 30)
    send(kafka, "murmur2_random", 300)
    assert check_partitioner(kafka, kafka.partitions, 90).level == "ok"
    assert check_partitioner(kafka, kafka.partitions, 1000).level == "problem"


def test_an_empty_topic_has_nothing_to_look_at(kafka: KafkaSettings) -> None:
    topics.create(kafka)
    assert check_partitioner(kafka, kafka.partitions, 10).what.endswith("no event with a key to look at")


def test_topics_that_are_not_as_needed_are_problems(kafka: KafkaSettings) -> None:
    admin = topics.connect(kafka)
    admin.create_topics([NewTopic(kafka.events, num_partitions=2, config={"message.timestamp.type": "CreateTime"})])[
        kafka.events
    ].result()
    on = ClusterRecord(
        url="u", job_id="j", name="n", plan="batched", parallelism=1,
        bootstrap=kafka.bootstrap, topic=kafka.events, partitions=3, wheel="w",
    )  # fmt: skip
    found = [each for each in check_kafka(kafka, 10, on) if each.level == "problem"]
    assert [each.area for each in found] == ["topics", "topics"]
    for words in ("no such topic; `uic topics create` makes it", "the topic has 2", "LogAppendTime"):
        assert words in found[0].what
    assert "had 3 partitions when the job was submitted, now it has 2" in found[1].what


def test_wrong_credentials_are_a_problem_not_an_absence(kafka: KafkaSettings) -> None:
    (found,) = check_kafka(kafka.model_copy(update={"username": "nobody"}), 10, None)
    assert found.level == "problem"
    assert "does not let us in" in found.what


# The command


def test_what_is_not_there_is_no_problem(uic: Uic, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UIC__CLUSTER__URL", "http://127.0.0.1:9")
    monkeypatch.setenv("UIC__KAFKA__BOOTSTRAP", "127.0.0.1:9")
    ended = uic("doctor", "--bundle", bundle)
    assert ended.code == 0, ended.out
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    for words in ("absent   cluster     http://127.0.0.1:9: no Flink cluster answers", "mend: `uic dev up` starts one"):
        assert words in ended.out


def test_what_is_required_and_not_there_is_a_problem(uic_kafka: Uic, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UIC__CLUSTER__URL", "http://127.0.0.1:9")
    ended = uic_kafka("doctor", "--bundle", bundle, "--require", "cluster", "--output", "json")
    assert ended.code == 1
    found = {each["area"]: each["level"] for each in json.loads(ended.out)}
    assert (found["cluster"], found["kafka"], found["store"], found["bundle"]) == ("problem", "ok", "absent", "ok")


def test_an_unknown_area_is_refused_with_the_known_ones(uic: Uic) -> None:
    ended = uic("doctor", "--require", "internet")
    assert ended.code == 2
    assert ended.err.startswith("BadInput: --require internet: expected all or some of java, packages")
