"""A daily checkpoint on a real cluster: taken before a midnight, sealed after it, listed, restored; another is too late."""

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

sys.path.append(str(Path(__file__).parents[1] / "jobs"))

from midnight_world import ShortDays

from jobs import checkpoints, topics
from jobs.chaos.world import Case, World, end_offsets, environment_of
from jobs.cli import app
from jobs.cluster import lag
from jobs.daily.catalogue import Catalogue
from jobs.daily.cut import KafkaLog
from jobs.daily.job import ClusterJob
from jobs.daily.keeping import usable
from jobs.daily.midnights import Midnights, TooLate, now_ms
from jobs.daily.verify import verify
from jobs.dev.stack import DevStack
from jobs.folder import JobFolder
from jobs.produce import produce
from uic.clock import Days
from uic.partition import partition_of
from uic.synthetic.spec import SyntheticSpec

USERS = 60
TO_MIDNIGHT_MS, DAY_MS, MARGIN_MS = 12_000, 600_000, 500


@pytest.fixture(scope="module")
def world(stack: DevStack, tmp_path_factory: pytest.TempPathFactory, toy_bundle: Path) -> Iterator[World]:
    """A job in two subtasks with topics of its own and no load but what a test sends; idle users leave, so there are timers."""
    nothing = SyntheticSpec(users=1, items=1, categories=1, events=0, seed=1)
    case = Case(fault="daily", plan="batched", backend="rocksdb", spec=nothing, rate=None, parallelism=2, idle_after_s=86_400)
    made = World(stack, tmp_path_factory.mktemp("daily"), toy_bundle, case, print)
    made.root.mkdir()
    topics.create(made.kafka)
    try:
        made.submit(resumes=False)
        yield made
    finally:
        made.close()


def send(world: World, users: range) -> None:
    event = {"item_id": 1, "category_id": 1, "behaviour": "click", "time_ms": now_ms()}
    produce(world.kafka, [(b"u%d" % user, json.dumps({**event, "user_id": f"u{user}"}).encode()) for user in users], rate=None)
    world.cover()


@pytest.mark.timeout(300)
def test_a_daily_checkpoint_is_taken_before_midnight_sealed_after_it_and_restored(world: World) -> None:
    send(world, range(USERS))
    before = end_offsets(world.kafka, world.kafka.events)
    midnights = Midnights(
        catalogue=Catalogue(world.root / "job-daily"),
        job=ClusterJob(JobFolder(world.job_dir, make=False), world.kafka),
        log=KafkaLog(world.kafka),
        days=ShortDays(now_ms() + TO_MIDNIGHT_MS - DAY_MS, DAY_MS),
        margin_ms=MARGIN_MS,
    )
    entry = midnights.take()
    assert (entry.state, entry.offsets, entry.memories) == ("taken", before, USERS)
    assert midnights.seal().sealed == []

    world.wait(lambda: now_ms() > entry.begins_ms, "midnight")
    send(world, range(1))
    world.wait(lambda: midnights.catalogue.find(entry.id).is_sealed or bool(midnights.seal().sealed), "the seal")
    sealed = midnights.catalogue.find(entry.day.isoformat())
    # The first event of the day is u0's; where none has come, the cut is the end.
    assert sealed.cut == before
    assert sealed.cut_by_clock == tuple(sorted(set(before) - {partition_of(b"u0", len(before))}))
    assert usable(midnights.catalogue.entries(), before) == sealed

    # The job has read an event of the day: nothing taken from now on can stand for it, and the good one stays.
    with pytest.raises(TooLate, match="has read 1 events past the begin of this day"):
        midnights.take(entry.day)
    assert midnights.catalogue.entries() == [sealed]
    assert [path.name for path in midnights.catalogue.path.iterdir() if path.name.startswith(".")] == []
    later = midnights.take()
    assert midnights.prune() == []
    assert usable(midnights.catalogue.entries(), before) == sealed
    assert usable(midnights.catalogue.entries(), end_offsets(world.kafka, world.kafka.events)) == later

    listed = CliRunner().invoke(app, ["checkpoint", "list", "--fast", "--job-dir", str(world.job_dir), "--output", "json"])
    daily = [row for row in json.loads(listed.stdout) if row["kind"] == "daily"]
    assert [(row["name"], row["state"], row["memories"]) for row in daily] == [
        (later.id, "taken", USERS),
        (sealed.id, "sealed", USERS),
    ]

    said: list[str] = []
    found = verify(midnights.catalogue, sealed, work=world.root, say=said.append)
    assert (found.wrong, found.memories, found.users) == ([], USERS, USERS)
    assert said == ["Flink restores it"]

    # One bit of one memory, in a file of which the entry has the digest.
    savepoint = midnights.catalogue.savepoint(sealed)
    path = max((each for each in savepoint.iterdir() if each.is_file()), key=lambda each: each.stat().st_size)
    content = bytearray(path.read_bytes())
    content[content.index(b"UICM") + 200] ^= 4
    path.write_bytes(content)
    digest, memory = verify(midnights.catalogue, sealed).wrong
    assert digest.startswith(f"{path}: its SHA-256 is ")
    assert memory.startswith(f"{path} at byte ")
    assert checkpoints.inspect(midnights.catalogue.savepoint(later)).is_intact


def test_the_command_line_takes_what_is_due_once(world: World, tmp_path: Path) -> None:
    send(world, range(USERS))
    # In one of the two, the next day begins within twelve hours.
    zone = "UTC" if datetime.now(UTC).hour >= 12 else "Etc/GMT+12"
    days = {"UIC__DAYS__ZONE": zone, "UIC__DAYS__LEAD_S": "43200", "UIC__DAYS__KEPT": "3"}
    where = {"UIC__DAILY__CATALOGUE": str(tmp_path / "daily")}

    def uic(*words: str, **environment: str) -> Result:
        settings = {**environment_of(world.kafka), **days, **where, **environment}
        return CliRunner().invoke(app, ["checkpoint", *words, "--job-dir", str(world.job_dir)], env=settings)

    once = uic("schedule", "--once")
    assert once.exit_code == 0, once.output
    again = uic("schedule", "--once")
    assert again.exit_code == 0, again.output
    (entry,) = Catalogue(tmp_path / "daily").entries()
    assert entry.day == Days(zone).day_of(now_ms()) + timedelta(days=1)
    log = lag.partitions(world.kafka)
    assert (entry.offsets, entry.memories) == ({number: each.end for number, each in log.items()}, USERS)
    # The topic keeps its events for nine days by default, which is too short for going back nine.
    short = uic("schedule", "--once", UIC__DAYS__KEPT="9")
    assert (short.exit_code, "the topic keeps events for 9.0 days" in short.output) == (1, True)
    made = uic("create")
    assert made.exit_code == 0, made.output
    identity, savepoint = made.stdout.splitlines()
    assert identity.endswith(f"taken for {entry.day} ({zone}), {USERS} memories")
    assert checkpoints.inspect(Path(savepoint)).memories == USERS
