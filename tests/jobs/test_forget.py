"""`uic user forget` where no job runs or none can be asked: what is erased, what is said, and that it can be run again."""

import json
import sys
import time
from datetime import date, timedelta
from pathlib import Path

import pytest
from command import Uic
from consumed import consumed

sys.path.append(str(Path(__file__).parents[1] / "scenarios"))

import toy

from jobs import forget_topics, topics
from jobs.daily.catalogue import Catalogue
from jobs.daily.entry import example
from jobs.folder import JobFolder
from jobs.produce import produce
from jobs.record import ClusterRecord, JobRecord
from jobs.settings import KafkaSettings
from operators import control
from uic.bundle import Bundle
from uic.forgetting import FILE, FOREVER_MS, Forgotten
from uic.memory import UserMemory
from uic.partition import partition_of
from uic.store.rocksdb import RocksStore

DAY_MS = 86_400_000
AHEAD_MS = time.time_ns() // 1_000_000 + DAY_MS // 2  # an event's own time may be ahead of the clock


class Place:
    """A job's folder and its store, with two users who have daily and kept copies."""

    def __init__(self, root: Path) -> None:
        self.bundle = Bundle.open(toy.make_bundle(root / "toy"))
        self.store = root / "store"
        self.job = root / "job"
        self.folder = JobFolder(self.job)
        writer = RocksStore.create_or_open(self.store, self.bundle.identity)
        for user in ("u1", "u2"):
            for sequence, log_time_ms in enumerate((AHEAD_MS - DAY_MS, AHEAD_MS), 1):
                writer.write(user, self.memory(sequence, log_time_ms))
                writer.write_kept(user, self.memory(sequence, log_time_ms))
        writer.close()

    def memory(self, sequence: int, log_time_ms: int) -> bytes:
        initial = self.bundle.initial
        memory = UserMemory(
            state_F=initial.state_F, fingerprints=initial.fingerprints, sequence=sequence, log_time_ms=log_time_ms
        )
        return self.bundle.codec.encode(memory)

    def ran(self, cluster: ClusterRecord | None = None) -> None:
        identity = self.bundle.identity._asdict()
        self.folder.write(
            JobRecord(
                run=1, **identity, bundle_version=1, bundle=str(self.bundle.path), events="events", store=str(self.store),
                backend="hashmap", cluster=cluster,
            )
        )  # fmt: skip

    def holds(self, user: str) -> list[bool]:
        """Whether there is a latest memory, one as of today, one that was kept."""
        store = RocksStore.open_to_read(self.store)
        try:
            day = store.days_kept()[-1]
            found = [store.read(user), store.read(user, as_of=day), store.read_kept(user, 1)]
        finally:
            store.close()
        return [blob is not None for blob in found]

    @property
    def forgotten(self) -> Forgotten:
        return Forgotten(self.job / FILE)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_nothing_stays_in_the_store_and_the_job_is_told_how_far_back_nothing_counts(place: Place, uic: Uic) -> None:
    place.ran()
    assert place.holds("u1") == [True] * 3
    for user in ("u1", "u1", "nobody"):  # again, and a user whom nobody knows
        ended = uic("user", "forget", user, "--job-dir", place.job)
        assert ended.code == 0, ended.err
        assert "letters.sqlite" in ended.out
    assert place.holds("u1") == [False] * 3
    assert place.holds("u2") == [True] * 3
    assert place.forgotten.is_gone("u1", AHEAD_MS)
    assert not place.forgotten.is_gone("u1", AHEAD_MS + DAY_MS)
    assert place.forgotten.until_ms("u2") is None


def test_later_events_can_be_dropped_and_let_in_again(place: Place, uic: Uic) -> None:
    place.ran()
    assert uic("user", "forget", "u1", "--later-events", "drop", "--job-dir", place.job).code == 0
    assert place.forgotten.until_ms("u1") == FOREVER_MS
    assert uic("user", "forget", "u1", "--job-dir", place.job).code == 0
    assert not place.forgotten.is_gone("u1", AHEAD_MS)


def test_while_an_embedded_job_runs_it_is_noted_and_the_rest_is_left_to_do(place: Place, uic: Uic) -> None:
    place.ran()
    with place.folder.locked(1, print):
        ended = uic("user", "forget", "u1", "--job-dir", place.job, "--output", "json")
    assert ended.code == 1
    said = json.loads(ended.out)
    assert not said["is_done"]
    assert "stop it, then run this command again" in said["to_do"][0]
    assert place.forgotten.until_ms("u1") == FOREVER_MS  # the safe way, until it is known better
    assert place.holds("u1") == [True] * 3
    assert uic("user", "forget", "u1", "--job-dir", place.job).code == 0
    assert place.forgotten.until_ms("u1") == AHEAD_MS
    assert place.holds("u1") == [False] * 3


def test_savepoints_that_still_hold_the_user_are_named_with_their_end(place: Place, uic: Uic) -> None:
    place.ran()
    (place.job / "checkpoints" / "run-000001" / "abc" / "chk-7").mkdir(parents=True)
    catalogue = Catalogue(place.job.with_name("job-daily"))
    for name, day, pins in (("free", 15, ()), ("pinned", 16, ("before the sale",))):
        with catalogue.taking() as folder:
            (folder / "savepoint").mkdir()
            catalogue.add(folder, example(id=name, day=date(2023, 11, day), pins=pins))
    out = uic("user", "forget", "u1", "--job-dir", place.job).out
    assert f"daily checkpoint 2023-11-15 (free): until {date(2023, 11, 15) + timedelta(days=7)}" in out
    assert "(pinned): for ever: pinned (before the sale); `uic checkpoint unpin pinned` lets it go" in out
    assert "1 checkpoints and savepoints in" in out
    assert "chk-7" in out


def test_what_a_rollback_has_left_of_everybody_is_named(place: Place, uic: Uic) -> None:
    place.ran()
    ended, begun = (place.job / "rollbacks" / f"generation-{number:06d}" for number in (1, 2))
    (ended / "evidence" / "savepoint-1").mkdir(parents=True)
    begun.mkdir()
    (begun / "sample.json").write_text("{}")
    said = uic("user", "forget", "u1", "--job-dir", place.job).out
    assert f"{ended}/evidence: the state before that rollback, until you remove it" in said
    assert f"{begun}/sample.json: perhaps, until that rollback has ended" in said
    assert f"{begun}/evidence" not in said


@pytest.mark.parametrize(
    ("words", "why"), [(["", "--job-dir", "job"], "1 to 128 bytes"), (["u1", "--job-dir", "nowhere"], "nowhere")]
)
def test_a_user_that_none_can_be_and_a_folder_that_is_none_are_refused(
    place: Place, uic: Uic, words: list[str], why: str
) -> None:
    ended = uic("user", "forget", *words)
    assert ended.code == 2
    assert why in ended.err
    assert uic("user", "forget", "u1", "--job-dir", place.job).code == 2  # no job was ever started there
    assert not (place.job / FILE).exists()


def test_where_the_cluster_is_away_the_user_is_unreadable_and_stays_out_until_it_is_back(
    place: Place, uic_kafka: Uic, kafka: KafkaSettings
) -> None:
    topics.create(kafka)
    on = {"url": "http://127.0.0.1:9", "job_id": "0" * 32, "name": "uic", "plan": "batched", "parallelism": 1, "wheel": "w"}
    place.ran(ClusterRecord(**on, bootstrap=kafka.bootstrap, topic=kafka.events, partitions=3))  # type: ignore[arg-type]  # by name
    ended = uic_kafka("user", "forget", "u1", "--job-dir", place.job, "--store", place.store)
    assert ended.code == 1, ended.err
    assert "it cannot be told whether the job runs" in ended.out
    assert "dead-" in ended.out
    assert place.holds("u1") == [False] * 3
    assert place.forgotten.until_ms("u1") == FOREVER_MS
    (deletion,) = consumed(kafka, kafka.snapshots)
    assert (deletion.key, deletion.value, [name for name, _ in deletion.headers]) == (b"u1", None, ["forget"])


def test_the_log_says_how_far_it_is_and_the_answer_is_found_behind_the_question(kafka: KafkaSettings) -> None:
    topics.create(kafka)
    before_ms = time.time_ns() // 1_000_000
    assert forget_topics.log_end_ms(kafka, "u1") >= before_ms  # what there was may have gone by retention
    produce(kafka, [(b"u1", b"{}"), (b"u1", b"{}")])
    reached_ms = forget_topics.log_end_ms(kafka, "u1")
    assert before_ms - 1000 <= reached_ms <= time.time_ns() // 1_000_000 + 1000
    message = control.Forget(to="a", user="u1", until_ms=reached_ms, token="t1")
    asked = forget_topics.delete(kafka, "u1", "t1")
    assert asked.partition == partition_of(b"u1", kafka.partitions)
    assert forget_topics.wait_for_answer(kafka, message, asked, 0.5) is None  # its own deletion is none
    forget_topics.delete(kafka, "u1", "another 5")
    forget_topics.delete(kafka, "u1", f"t1 {reached_ms + 1}")
    answer = forget_topics.wait_for_answer(kafka, message, asked, 20)
    assert answer == ((asked.partition, asked.offset + 2), reached_ms + 1)
    forget_topics.ask(kafka, message)
    forget_topics.take_back(kafka, message)
    sent, taken_back = consumed(kafka.model_copy(update={"partitions": 1}), kafka.control)
    assert sent.value is not None
    assert control.read_forget(sent.value) == message
    assert (taken_back.key, taken_back.value) == (sent.key, None)
