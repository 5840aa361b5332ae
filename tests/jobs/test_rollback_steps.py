"""A rollback over fakes: killed before, in and after each of its effects, it goes on and ends the same; and what is refused."""

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from rollback_world import DAY, FARM, TOPIC, USERS, Killed, Killer, World

sys.path.append(str(Path(__file__).parents[1] / "scenarios"))

import toy

from jobs.folder import JobFolder
from jobs.letter_topics import TopicLetter
from jobs.record import ClusterRecord, JobRecord
from jobs.rollback.journal import Folder, Journal, why_not_to_start
from jobs.rollback.proof import count_left
from jobs.rollback.world import covered
from uic.bundle import Bundle
from uic.errors import JobError, UicError
from uic.quarantine import Quarantine


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(toy.make_bundle(tmp_path_factory.mktemp("bundle") / "toy"))


@pytest.fixture
def world(tmp_path: Path, bundle: Bundle) -> World:
    (tmp_path / "job").mkdir()
    return World(tmp_path, bundle)


EXPECTED = {"a": 4, "b": 1, "c": 1, "d": 1, "x": 3, "y": 1}


def check(world: World) -> None:
    """What a rollback leaves, however often it was killed."""
    assert world.sequences() == EXPECTED
    assert {user: world.store.read(user, DAY) for user in "by"} == {user: world.as_of_cut[user] for user in "by"}
    assert world.cluster.alive == {world.cluster.record()[1].job_id}
    assert world.cluster.now.generation == 1
    journal = world.folder.journals()[-1]
    assert journal.is_over
    assert journal.evidence is not None
    assert world.folder.unfinished() is None
    assert world.catalogue.find(world.spoiled.id).tainted == "undone by a rollback to 2026-01-10, generation 1"
    assert world.catalogue.find(world.entry.id).pins == ()
    assert journal.fresh is not None
    fresh = world.catalogue.find(journal.fresh)
    assert fresh.tainted is None
    assert fresh.run == 2


def test_a_rollback_ends_in_the_count_of_all_events_but_those_dropped(world: World) -> None:
    world.begin()
    world.run(Killer())
    check(world)


def test_killed_at_any_moment_it_goes_on_and_ends_the_same(tmp_path: Path, bundle: Bundle) -> None:
    counting = Killer()
    (tmp_path / "all" / "job").mkdir(parents=True)
    whole = World(tmp_path / "all", bundle)
    whole.begin()
    whole.run(counting)
    assert counting.ticks > 40
    for at in range(1, counting.ticks + 1):
        root = tmp_path / str(at)
        (root / "job").mkdir(parents=True)
        world = World(root, bundle)
        world.begin()
        with pytest.raises(Killed):
            world.run(Killer(at))
        if world.folder.unfinished() is not None:
            world.run(Killer())
        check(world)


def test_from_the_fence_on_everybody_reads_the_day_and_before_it_nothing_has_changed(world: World) -> None:
    world.begin()
    polluted = {user: world.store.read(user) for user in USERS}
    killer = Killer()
    steps: list[tuple[str, dict[str, bytes | None]]] = []

    class Watched(Folder):
        def write(self, journal: Journal) -> None:
            super().write(journal)
            steps.append((journal.done[-1] if journal.done else "", {user: world.store.read(user) for user in USERS}))

    world.folder = Watched(world.root / "job")
    world.run(killer)
    seen = dict(steps)
    assert seen["apply"] == polluted
    assert seen["fence"] == world.as_of_cut
    assert seen["taint"] == world.as_of_cut
    assert seen["start"] != world.as_of_cut


def test_the_job_is_not_started_by_hand_between_its_stop_and_its_new_start(world: World) -> None:
    journal = world.begin()
    why = why_not_to_start(world.root / "job")
    assert why is not None
    assert "uic rollback --to 2026-01-10" in why
    world.folder.write(replace(journal, done=("pin", "stop", "apply", "fence", "taint", "start")))
    assert why_not_to_start(world.root / "job") is None


def test_a_second_rollback_goes_to_an_earlier_or_a_later_day_and_rules_of_earlier_cuts_hold_on(world: World) -> None:
    world.begin()
    world.run(Killer())
    world.begin(users=frozenset({"a"}))
    world.run(Killer())
    assert world.cluster.now.generation == 2
    # The same day again: the first rollback's rules began there and are gone, "a" ends at the cut.
    assert world.sequences() == {**EXPECTED, "a": 3, FARM: 2, FARM + "2": 1}
    first = Quarantine(from_ms=1000, users=frozenset({"u"}))
    assert Quarantine(from_ms=2000).after(first).before == first
    assert Quarantine(from_ms=1000).after(first).before is None
    assert Quarantine(from_ms=500).after(Quarantine(from_ms=2000).after(first)).before is None


def test_a_partition_of_which_nothing_was_read_is_read_up_to_its_front(world: World) -> None:
    world.cluster.read = {0: 9, 1: -2}
    world.log.removed[1] = 4
    assert covered(world.cluster, world.log) == {0: 9, 1: 4}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda world: world.catalogue.change(world.entry, lambda now: replace(now, tainted="by hand")), "tainted"),
        (lambda world: world.catalogue.remove(world.entry), "all there are have read on beyond its begin"),
        (lambda world: world.log.removed.update({0: 4}), "the broker has removed 1 events of partition 0"),
        (lambda world: (world.catalogue.savepoint(world.entry) / "_metadata").write_bytes(b"x"), "is damaged"),
        (lambda world: setattr(world.store, "other_zone", "Asia/Shanghai"), "days.zone says UTC"),
        (lambda world: setattr(world.store, "source", None), "it follows no topic"),
        (lambda world: world.cluster.read.update({1: 2}), "the job has not come to this day in partition 1"),
    ],
)
def test_what_cannot_be_gone_back_to_is_refused_before_anything_is_changed(
    world: World, spoil: Callable[[World], object], words: str
) -> None:
    spoil(world)
    with pytest.raises(UicError, match=words):
        world.begin()
    assert world.cluster.alive == {"first"}
    assert world.folder.journals() == []


def test_a_day_to_come_a_day_not_kept_and_a_bundle_of_another_lineage_are_refused(world: World, tmp_path: Path) -> None:
    other = toy.make_bundle(tmp_path / "other", lineage="another")
    for asked, words in (
        ({"day": date(2026, 1, 11)}, "has not begun"),
        ({"day": date(2025, 12, 1)}, "kept are"),
        ({"bundle": other}, "of lineage another"),
    ):
        with pytest.raises(UicError, match=words):
            world.plan(**asked)


def test_a_journal_written_and_read_is_the_same_and_a_broken_one_is_named(world: World) -> None:
    journal = replace(world.begin(), goal={0: 9, 1: 5}, letters={"dead": {0: 3}}, attempts=("1",), done=("pin",), fresh="x")
    world.folder.write(journal)
    assert world.folder.journals() == [journal]
    path = world.folder.of(1) / "journal.json"
    path.write_text("{}")
    with pytest.raises(JobError, match=r"journal\.json: the journal of a rollback cannot be read"):
        world.folder.unfinished()


def test_one_rollback_at_a_time(world: World) -> None:
    with world.folder.locked(), pytest.raises(JobError, match="another `uic rollback`"), Folder(world.root / "job").locked():
        raise AssertionError


def test_after_a_rollback_the_job_goes_on_from_nothing_older(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "job")
    for run in (1, 2):
        (folder.checkpoints_of(run) / "job" / "chk-1").mkdir(parents=True)
    on = ClusterRecord(
        url="u", job_id="j", name="n", plan="batched", parallelism=1, bootstrap="b", topic=TOPIC, partitions=1, wheel="w"
    )
    record = JobRecord(
        run=2, layout="l", lineage="i", bundle_version=1, bundle="b", events="e", store="s", backend="hashmap", cluster=on,
        generation=1, first_run=2, begins_with=str(tmp_path / "daily" / "savepoint"),
    )  # fmt: skip
    folder.write(record)
    assert folder.record() == record
    said: list[str] = []
    assert folder.newest_checkpoint(said.append) is None
    assert [line.split(":")[0] for line in said] == [
        str(folder.checkpoints_of(2) / "job" / "chk-1"), str(tmp_path / "daily" / "savepoint"),
    ]  # fmt: skip


def test_letters_of_the_replay_are_counted_once_and_by_reason(world: World) -> None:
    journal = replace(world.begin(), goal={0: 9, 1: 5})

    def letter(offset: int, reason: str, source: str = f"{TOPIC}-0", key: bytes | None = b"farm") -> TopicLetter:
        return TopicLetter(
            kind="dead", partition=0, position=0, key=key, payload=None, reason=reason, detail="", source=source,
            offset=str(offset), log_time_ms="0",
        )  # fmt: skip

    letters = [
        letter(5, "quarantined_user"), letter(5, "quarantined_user"), letter(7, "quarantined_user"),
        letter(8, "bad_json", key=None), letter(4, "bad_json"), letter(9, "quarantined_user"),
        letter(6, "late", source="else-0"),
    ]  # fmt: skip
    assert count_left(letters, journal, TOPIC) == (Counter({"quarantined_user": 2, "bad_json": 1}), {"farm"})
