"""`uic rollback` on a real cluster: polluted memories go, whoever writes on in the old generation, and whoever kills it."""

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rolled import WAIT_S, World, contents, facts, folded, now_ms, opened_world, visit, wait

from jobs.checkpoints import form_of, memories_of
from jobs.cluster.rest import Cluster
from jobs.dev.stack import DevStack
from jobs.folder import JobFolder
from jobs.rollback.in_savepoint import memories_of_users
from jobs.rollback.world import ClusterJob
from uic.bundle import Bundle
from uic.codec import Codec
from uic.errors import JobError

USERS = 40
NEW = "né à 猫😀"
FARM = [f"farm{number}" for number in range(5)]


@pytest.fixture
def world(stack: DevStack, toy_bundle: Path, tmp_path: Path) -> Iterator[World]:
    users = [*(f"u{number}" for number in range(USERS)), NEW, *FARM]
    with opened_world(stack, toy_bundle, tmp_path, name="rollback", users=users) as made:
        yield made


def test_a_rollback_is_a_cut_for_every_reader_and_ends_in_the_fold_without_what_was_dropped(world: World) -> None:
    bundle = Bundle.open(world.bundle)
    cut_ms = world.cut_ms
    world.start()
    world.take_times_from("CreateTime")
    before = [visit(number % USERS, cut_ms - 3_600_000 + number, number) for number in range(300)]
    world.send(before)
    world.settle()
    entry = world.midnights(cut_ms - 120_000).take()
    # The checkpoint of the day has not seen these, and they are before its cut.
    between = [visit(number % 20, cut_ms - 60_000 + number, number) for number in range(60)]
    after = [visit(number % 30, cut_ms + number, number) for number in range(200)] + [visit(NEW, cut_ms + 500, 1)]
    polluted = [visit(user, cut_ms + 300 + number, number) for number, user in enumerate([*FARM, "u3", "u39"] * 3)]
    world.send(between + sorted(after + polluted, key=lambda event: event.time_ms))
    world.settle()
    (sealed,) = world.midnights().seal().sealed
    assert (sealed.id, sealed.day, sealed.is_good) == (entry.id, world.today, True)
    assert sealed.cut is not None
    assert sum(sealed.cut.values()) - sum(sealed.offsets.values()) == len(between)
    spoiled = world.midnights().take()
    world.take_times_from("LogAppendTime")

    as_of_cut = world.read(world.today)
    assert contents(bundle.codec, as_of_cut) == folded(bundle, before + between)
    zombie = {user: later(bundle.codec, blob) for user, blob in world.read().items() if blob is not None}
    assert contents(bundle.codec, dict(zombie)).keys() > contents(bundle.codec, as_of_cut).keys()

    (world.root / "farm.txt").write_text("\n".join([*FARM, "u3", "u39"]))
    words = ("rollback", "--to", world.today, "--drop-users", world.root / "farm.txt")
    journal = world.root / "job" / "rollbacks" / "generation-000001" / "journal.json"
    assert world.uic(*words, "--dry-run").wait(WAIT_S) == 0, world.said("rollback")
    assert not journal.exists()
    first = world.uic(*words)
    wait(lambda: "fence" in done(journal) or first.poll() is not None, "the fence")
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL, world.said("rollback")
    assert "start" not in done(journal)
    assert world.uic(*words, "--drop-source", "app").wait(WAIT_S) == 2
    assert "is unfinished" in world.said("rollback")
    with pytest.raises(JobError, match=r"a rollback to .* has begun"):
        world.submit(resumes=True)
    assert world.read() == as_of_cut
    world.publish(zombie)
    world.settle_store()
    assert world.read() == as_of_cut

    live = [visit(number % 25, now_ms(), number) for number in range(50)]
    world.send(live)
    again = world.uic(*words)
    wait(lambda: "start" in done(journal) or again.poll() is not None, "the start")
    world.publish(zombie)
    assert again.wait(WAIT_S) == 0, world.said("rollback")
    world.publish(zombie)
    world.settle()

    dropped = {*FARM, "u3", "u39"}
    kept = [event for event in [*before, *between, *after, *live] if event.time_ms < cut_ms or event.user_id not in dropped]
    assert contents(bundle.codec, world.read()) == folded(bundle, kept)
    report = json.loads((journal.parent / "report.json").read_text())
    lost = [event for event in [*after, *polluted] if event.user_id in dropped]
    assert report["left"] == {"quarantined_user": len(lost)}
    assert report["holds"]
    assert report["absent"] == len(FARM)
    assert report["silent"] == len(between)
    assert report["verified"] > USERS // 2
    assert Path(report["evidence"], "_metadata").exists()
    catalogue = world.midnights().catalogue
    assert catalogue.find(spoiled.id).tainted is not None
    assert not catalogue.find(entry.id).pins
    fresh = catalogue.find(report["fresh"])
    assert (fresh.tainted, fresh.generation) == (None, 1)
    form = form_of(world.bundle)
    assert form is not None
    _, on = ClusterJob(world.settings, JobFolder(world.root / "job", make=False)).record()
    savepoint = Cluster(on.url).stop(on.job_id, world.root)
    in_state = sorted(facts(bundle.codec.decode(blob)) for blob in memories_of(savepoint, form))
    assert in_state == sorted(folded(bundle, kept).values())
    assert contents(bundle.codec, dict(memories_of_users(savepoint, form, {*world.users, "nobody"}))) == folded(bundle, kept)


def later(codec: Codec, blob: bytes) -> bytes:
    """A memory as a job of the old generation would publish it a while later."""
    memory = codec.decode(blob)
    return codec.encode(replace(memory, sequence=memory.sequence + 1000, log_time_ms=now_ms()))


def done(journal: Path) -> list[str]:
    try:
        return list(json.loads(journal.read_text())["done"])
    except FileNotFoundError:
        return []
