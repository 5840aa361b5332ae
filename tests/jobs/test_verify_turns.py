"""`uic verify` knows that bundles take turns, who was forgotten and what a rollback left out, and still finds what is wrong."""

import dataclasses
import itertools
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import small
from command import Ended, Uic

from jobs.verdict import LeftOut, Verdict
from jobs.verdict import verify as verify_quietly
from jobs.verify import promoted_ms
from onnx_export.bundle import export_run
from uic import artefact
from uic.bundle import Bundle
from uic.event import BehaviourEvent, to_json
from uic.forgetting import FILE, Entry, Forgotten
from uic.quarantine import Quarantine
from uic.registry import Registry
from uic.runtime import OnnxStep
from uic.update import Rules

USER = "u3"
FOLDER = "streaming-job"


@pytest.fixture(scope="module")
def later(world: small.World, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of the same lineage, trained on for an epoch: it may be promoted."""
    root = tmp_path_factory.mktemp("later")
    run = small.trained(root / "run", world.data, config={"epochs": 1}, init_from=world.bundle.path, since_ms=0)
    return export_run(run, root / "bundle")


def of_user(world: small.World, user: str = USER) -> list[BehaviourEvent]:
    return [event for event in world.events if event.user_id == user]


def in_turns(bundles: list[Bundle], events: list[BehaviourEvent], places: Mapping[str, int]) -> dict[str, bytes]:
    """Event by event; of each user the second bundle applies those from a number of its own on."""
    updaters = [bundle.updater(OnnxStep(bundle), Rules()) for bundle in bundles]
    blobs: dict[str, bytes] = {}
    counts: dict[str, int] = {}
    for event in events:
        user = event.user_id
        place = 0 if counts.get(user, 0) < places[user] else 1
        counts[user] = counts.get(user, 0) + 1
        done = updaters[place].update(blobs.get(user), event, log_time_ms=event.time_ms)
        if done.blob is not None:
            blobs[user] = done.blob
    return blobs


def drawn(world: small.World, seed: int) -> dict[str, int]:
    draw = random.Random(seed)
    return {user: draw.randint(0, len(of_user(world, user))) for user in sorted(world.memories)}


@pytest.fixture
def verify(uic: Uic, world: small.World, later: Bundle, tmp_path: Path) -> Callable[..., Ended]:
    """Verify a store with these memories, both bundles named unless others are."""
    stores = itertools.count()

    def run(memories: dict[str, bytes], *options: object, bundles: list[Bundle] | None = None) -> Ended:
        named = [word for each in bundles or [world.bundle, later] for word in ("--bundle", each.path)]
        store = world.store(tmp_path / f"store-{next(stores)}", memories)
        return uic("verify", "--events", world.folder, *named, "--store", store, *options)

    return run


def test_wherever_users_went_over_to_a_promoted_bundle_their_memories_agree(
    verify: Callable[..., Ended], world: small.World, later: Bundle
) -> None:
    places = drawn(world, 1)
    ended = verify(in_turns([world.bundle, later], world.events, places))
    assert ended.code == 0, ended.out + ended.err
    passed = sum(places[user] < len(of_user(world, user)) for user in places)
    assert f"users whose memory several bundles have made in turn: {passed}\n" in ended.out
    assert "mismatches: 0" in ended.out


def test_a_memory_that_no_turn_explains_is_named_among_those_that_one_does(
    verify: Callable[..., Ended], world: small.World, later: Bundle
) -> None:
    memories = in_turns([world.bundle, later], world.events, drawn(world, 2) | {USER: 3, "u4": 3})
    memory = world.codec.decode(memories[USER])
    state_F = memory.state_F.copy()
    state_F[-1] += 1e-3 * (1 + abs(state_F[-1]))
    # One number off; and one who went over, and back to the older one.
    back = in_turns([later, world.bundle], of_user(world, "u4"), {"u4": 3})["u4"]
    spoiled = {USER: world.codec.encode(dataclasses.replace(memory, state_F=state_F)), "u4": back}
    ended = verify({**memories, **spoiled})
    assert ended.code == 1
    assert "mismatches: 2" in ended.out
    for user in spoiled:
        assert f"user '{user}': " in ended.out
    assert "wherever one bundle took over from another" in ended.out


def test_who_was_touched_by_a_bundle_that_is_not_named_cannot_be_judged_but_for_the_events(
    verify: Callable[..., Ended], world: small.World, later: Bundle
) -> None:
    everybody = {user: len(of_user(world, user)) for user in world.memories}
    memories = in_turns([world.bundle, later], world.events, everybody | {USER: 2})
    ended = verify(memories, bundles=[world.bundle])
    assert ended.code == 0, ended.out + ended.err
    assert "nothing can be said of: 1" in ended.out
    assert f"user '{USER}': bundle {later.manifest.version} has touched it last, which --bundle does not name" in ended.out
    fewer = in_turns([world.bundle, later], of_user(world)[:-1], {USER: 2})
    ended = verify({**memories, **fewer}, bundles=[world.bundle])
    assert (ended.code, "mismatches: 1" in ended.out) == (1, True)


def test_bundles_between_which_no_job_passes_are_refused(
    verify: Callable[..., Ended], world: small.World, tmp_path: Path
) -> None:
    data = small.dataset(tmp_path / "data")
    other = export_run(small.trained(tmp_path / "run", data, config={"epochs": 1, "seed": 5}), tmp_path / "bundle")
    ended = verify(world.memories, bundles=[world.bundle, other])
    assert ended.code == 2
    assert "expected a bundle of" in ended.err


@pytest.fixture
def job_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "job"
    folder.mkdir()
    artefact.mark(folder, FOLDER)
    return folder


def test_the_forgotten_begin_anew_or_are_dropped_and_one_who_is_still_there_is_named(
    verify: Callable[..., Ended], world: small.World, job_dir: Path
) -> None:
    forgotten = Forgotten(job_dir / FILE)
    middle_ms = of_user(world)[4].time_ms
    forgotten.note(USER, Entry(middle_ms, "anew", 1))
    forgotten.note("u1", Entry(None, "drop", 1))
    forgotten.note("u2", Entry(None, "anew", 1))  # the command was killed
    anew = small.fold(world.bundle, [event for event in of_user(world) if event.time_ms > middle_ms])
    memories = {user: blob for user, blob in world.memories.items() if user != "u1"} | anew
    gone = sum(event.time_ms <= middle_ms for event in of_user(world)) + len(of_user(world, "u1")) + len(of_user(world, "u2"))
    only = [world.bundle]
    # What becomes of somebody who is just being forgotten cannot be known.
    for is_there in (True, False):
        stands = {user: blob for user, blob in memories.items() if user != "u2" or is_there}
        ended = verify(stands, "--job-dir", job_dir, bundles=only)
        assert ended.code == 0, ended.out + ended.err
        assert f"{gone} forgotten" in ended.out
        assert ("nothing can be said of: 1" in ended.out) is is_there
        assert ("user 'u2': is being forgotten" in ended.out) is is_there
    for user in (USER, "u1"):
        ended = verify(memories | {user: world.memories[user]}, "--job-dir", job_dir, bundles=only)
        assert ended.code == 1
        assert "mismatches: 1" in ended.out
        assert f"user '{user}': " in ended.out


def test_what_a_rollback_leaves_out_is_left_out(world: small.World, tmp_path: Path) -> None:
    cut_ms = world.events[len(world.events) // 2].time_ms
    rules = Quarantine(from_ms=cut_ms, users=frozenset({USER}))
    kept = [event for event in world.events if event.user_id != USER or event.time_ms < cut_ms]
    memories = small.fold(world.bundle, kept)

    def judged(left_out: LeftOut, name: str) -> Verdict:
        store = world.store(tmp_path / name, memories)
        return verify_quietly(
            world.folder, world.bundle.path, store, oracle="onnx", lateness_ms=Rules().lateness_ms,
            max_ahead_ms=small.DAY_MS, left_out=left_out,
        )  # fmt: skip

    found = judged(LeftOut(quarantine=rules), "with")
    assert (found.mismatches, found.outcomes["dead"]) == ({}, len(world.events) - len(kept))
    assert set(judged(LeftOut(), "without").mismatches) == {USER}


def test_too_many_ways_to_take_turns_are_said_to_be_so(world: small.World, later: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "events"
    folder.mkdir()
    own = of_user(world)
    many = [msgspec.structs.replace(own[n % len(own)], time_ms=small.START_MS + 60_000 * n) for n in range(700)]
    (folder / "a.jsonl").write_bytes(b"\n".join(map(to_json, many)))
    store = world.store(tmp_path / "store", in_turns([world.bundle, later], many, {USER: 300}))
    found = verify_quietly(
        folder, [world.bundle.path, later.path], store, oracle="onnx", lateness_ms=0, max_ahead_ms=small.DAY_MS
    )
    assert found.mismatches == {}
    assert found.undecided == {USER: "700 events and 2 bundles: too many ways to take turns"}

    # When the later one was promoted tells where to look; and that an event is missing is seen in any case.
    registry = Registry(str(tmp_path / "registry"))
    assert promoted_ms(registry.url) == {}
    for each in (world.bundle, later):
        registry.push(each.path, now_ms=0)
    registry.note_promoted(later.manifest.version, small.START_MS + 60_000 * 300 + 5_000)
    options: dict[str, Any] = {"oracle": "onnx", "lateness_ms": 0, "max_ahead_ms": small.DAY_MS}
    both = [world.bundle.path, later.path]
    found = verify_quietly(folder, both, store, took_over_ms=promoted_ms(registry.url), **options)
    assert (found.mismatches, found.undecided, found.passed) == ({}, {}, 1)
    fewer = world.store(tmp_path / "fewer", in_turns([world.bundle, later], many[:-1], {USER: 300}))
    found = verify_quietly(folder, both, fewer, **options)
    assert found.mismatches == {USER: "699 events applied, expected 700"}
