"""Where a follower begins, by what its store and the topic say."""

import datetime
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import small
from command import Uic
from followed import Memories, content, publish

from jobs.folder import JobFolder, JobRecord
from jobs.rollback.journal import Folder, Journal, Plan
from jobs.settings import KafkaSettings
from jobs.store.begin import warn_of_missed_deletions, where_to_begin
from jobs.store.topic import Reach
from uic.clock import Days
from uic.codec import with_generation
from uic.errors import StoreMismatch
from uic.store.contract import Source, StoreIdentity
from uic.store.rocksdb import RocksStore

SOURCE = Source(cluster_id="c", topic="snapshots", topic_id="t", partitions=2)


@pytest.fixture
def plain(world: small.World, tmp_path: Path) -> Iterator[RocksStore]:
    store = RocksStore.create_or_open(tmp_path / "plain", world.bundle.identity)
    yield store
    store.close()


def begun(store: RocksStore, source: Source, *reach: Reach) -> tuple[dict[int, int], list[str]]:
    said: list[str] = []
    return where_to_begin(store, source, dict(enumerate(reach)), said.append), said


def test_a_store_begins_where_it_is_and_a_new_one_at_the_beginning(plain: RocksStore) -> None:
    assert begun(plain, SOURCE, Reach(0, 9), Reach(4, 9)) == ({0: 0, 1: 4}, [])
    plain.commit(plain.writing(), {0: 9, 1: 5})
    assert begun(plain, SOURCE, Reach(0, 9), Reach(4, 9)) == ({0: 9, 1: 5}, [])


def test_a_partition_that_was_cut_off_is_read_from_its_beginning(plain: RocksStore) -> None:
    plain.follow(SOURCE)
    plain.commit(plain.writing(), {0: 9, 1: 5})
    offsets, said = begun(plain, SOURCE, Reach(2, 8), Reach(4, 9))
    assert offsets == {0: 2, 1: 5}
    assert said == ["snapshots-0 ends at 8, the store is at 9: the topic was cut off; it is read from its beginning"]


@pytest.mark.parametrize("change", [{"cluster_id": "d"}, {"topic_id": "x"}, {"topic": "other"}])
def test_another_topic_is_read_from_its_beginning(plain: RocksStore, change: dict[str, str]) -> None:
    plain.follow(SOURCE)
    plain.commit(plain.writing(), {0: 9, 1: 5})
    offsets, said = begun(plain, SOURCE._replace(**change), Reach(0, 99), Reach(0, 99))  # type: ignore[arg-type]  # all texts
    assert offsets == {0: 0, 1: 0}
    assert len(said) == 1
    assert plain.source == SOURCE._replace(**change)  # type: ignore[arg-type]  # as above
    with pytest.raises(StoreMismatch, match=r"has 3 partitions, the store follows .* with 2"):
        begun(plain, SOURCE._replace(partitions=3), Reach(0, 0))


@pytest.mark.parametrize(("away_h", "end", "lines"), [(23, 9, 0), (25, 9, 1), (25, 5, 0)])
def test_who_was_away_longer_than_deletions_are_kept_is_told(plain: RocksStore, away_h: int, end: int, lines: int) -> None:
    plain.commit(plain.writing(), {0: 5})
    said: list[str] = []
    hour_ms = 3_600_000
    warn_of_missed_deletions(plain, SOURCE, {0: Reach(0, end)}, 24 * hour_ms, away_h * hour_ms, said.append)
    assert len(said) == lines
    assert all("was last read 25 h ago, and Kafka keeps deletions for 24 h" in line for line in said)


def test_runs_of_the_tests_hold_departures_returns_and_repetitions(memories: Memories) -> None:
    published = memories.runs(seed=1, snapshots=3000)
    assert sum(blob is None for _, blob in published) > 100
    assert len(published) > 3000
    assert any(
        first[1] is None and second[1] is not None
        for user in ("u1", "u2")
        for first, second in itertools.pairwise([each for each in published if each[0] == user])
    )


def test_a_store_without_a_source_says_so_in_its_status(uic_kafka: Uic, world: small.World, tmp_path: Path) -> None:
    identity: StoreIdentity = world.bundle.identity
    RocksStore.create_or_open(tmp_path / "store", identity).close()
    ended = uic_kafka("store", "status", "--store", tmp_path / "store")
    assert ended.code == 0
    assert identity.layout in ended.out
    assert "it follows no topic" in ended.out


def test_a_new_store_learns_of_the_rollbacks_before_it_and_shows_nothing_that_they_cut_off(
    follow: Callable[..., str], topic: KafkaSettings, memories: Memories, tmp_path: Path
) -> None:
    tuesday = datetime.date(2026, 11, 17)
    cut_ms = Days().begins_ms(tuesday)
    spoilt, ours = memories(9, cut_ms + 1, number=1.0), with_generation(memories(6, cut_ms), 1)
    publish(topic, [("before", memories(5, cut_ms - 1)), ("spoilt", spoilt), ("since", ours)])
    refused = follow("--job-dir", tmp_path / "nowhere", code=2)
    assert "has memories of generation 1, which a rollback began, and the store is new" in refused
    assert "--job-dir" in refused
    Folder(tmp_path / "job").write(rolled_back(tuesday, cut_ms))
    said = follow("--job-dir", tmp_path / "job")
    assert "the store begins in generation 1" in said
    assert content(tmp_path / "store") == {"before": memories(5, cut_ms - 1), "since": ours}
    assert "the store begins" not in follow("--job-dir", tmp_path / "job")


def test_a_job_that_began_in_a_later_generation_needs_no_cut(
    follow: Callable[..., str], topic: KafkaSettings, memories: Memories, tmp_path: Path
) -> None:
    # As the second job of a migration does, whose topic has memories of no earlier one.
    facts = {"bundle": "b", "bundle_version": 1, "events": "events", "store": "s", "backend": "hashmap"}
    JobFolder(tmp_path / "job").write(JobRecord(run=1, layout="l", lineage="i", generation=1, **facts))  # type: ignore[arg-type]  # by name
    ours = with_generation(memories(6, 1), 1)
    publish(topic, [("u", ours)])
    follow("--job-dir", tmp_path / "job")
    assert content(tmp_path / "store") == {"u": ours}


def rolled_back(day: datetime.date, cut_ms: int) -> Journal:
    plan = Plan(
        words=("--to", str(day)), day=day, zone="UTC", cut_ms=cut_ms, cut={0: 1}, entry=f"{day}", savepoint="savepoint-1",
        offsets={0: 1}, generation=1, bundle="b", stores=("other",), run=1, job_id="j",
    )  # fmt: skip
    return Journal(plan=plan, done=("stop", "fence"))
