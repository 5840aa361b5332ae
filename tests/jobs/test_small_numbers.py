"""A store in small numbers from outside: followed into, verified, read, scored from, copied; and what is refused."""

import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small
from command import Ended, Uic
from followed import Memories, last, publish

from jobs.settings import KafkaSettings
from jobs.topics import create
from serving.answer import _remembered
from uic.memory import Numbers
from uic.small import Shrink, numbers_of
from uic.store.rocksdb import RocksStore

BOTH: tuple[Numbers, ...] = ("float16", "int8")
USER = "u3"
Verify = Callable[..., Ended]


def written(world: small.World, path: Path, memories: dict[str, bytes], numbers: Numbers) -> Path:
    shrink = Shrink(numbers, world.bundle.layout)
    with closing(RocksStore.create_or_open(path, world.bundle.identity, shrink=shrink)) as store:
        store.write_many(list(memories.items()))
    return path


@pytest.fixture
def verify(uic: Uic, world: small.World, tmp_path: Path) -> Verify:
    def run(memories: dict[str, bytes], numbers: Numbers, *options: object) -> Ended:
        store = written(world, tmp_path / "store", memories, numbers)
        return uic("verify", "--events", world.folder, "--bundle", world.bundle.path, "--store", store, *options)

    return run


@pytest.mark.parametrize("numbers", BOTH)
@pytest.mark.parametrize("oracle", ["numpy", "onnx"])
def test_an_honest_store_agrees_within_what_its_numbers_round(
    verify: Verify, world: small.World, numbers: Numbers, oracle: str
) -> None:
    ended = verify(world.memories, numbers, "--oracle", oracle)
    assert ended.code == 0, ended.out + ended.err
    worst = re.search(r"largest difference: ([0-9.]+) of the tolerance", ended.out)
    assert worst is not None
    assert float(worst.group(1)) <= 1


@pytest.mark.parametrize("numbers", BOTH)
def test_another_state_after_the_same_events_is_named(verify: Verify, world: small.World, numbers: Numbers) -> None:
    memory = world.codec.decode(world.memories[USER])
    state_F = memory.state_F.copy()
    world.bundle.layout.split(state_F)["slots"][0, 0] += np.float32(0.2)
    ended = verify({**world.memories, USER: world.codec.encode(replace(memory, state_F=state_F))}, numbers)
    assert ended.code == 1
    assert re.search(rf"user '{USER}': slots differs by", ended.out), ended.out


@pytest.mark.parametrize("numbers", BOTH)
def test_one_event_too_few_is_named(verify: Verify, world: small.World, numbers: Numbers) -> None:
    own = [event for event in world.events if event.user_id == USER]
    ended = verify({**world.memories, **small.fold(world.bundle, own[:-1])}, numbers)
    assert re.search(rf"user '{USER}': .*{len(own) - 1} events applied, expected {len(own)}", ended.out), ended.out


def test_readers_take_either_kind_without_being_told(uic: Uic, world: small.World, tmp_path: Path) -> None:
    items = [1, 2, 3]
    scored = {}
    for numbers in ("float32", *BOTH):
        store = written(world, tmp_path / numbers, world.memories, numbers)
        options = ("--bundle", world.bundle.path, "--store", store)
        ended = uic("score", "--user", USER, "--items", ",".join(map(str, items)), *options)
        scored[numbers] = [float(each) for each in re.findall(r"│\s+(0\.\d{4})\s", ended.out)]
        assert len(scored[numbers]) == len(items), ended.out
        assert f"bytes in {numbers}" in uic("user", "show", USER, *options).out
        blob = Shrink(numbers, world.bundle.layout)([world.memories[USER]])[0]
        found = _remembered(world.bundle, blob, None)
        assert (found.found, found.memory.sequence) == ("live", world.codec.decode(world.memories[USER]).sequence)
        # Any byte that changed makes it unusable, and is said.
        assert _remembered(world.bundle, blob[:-9] + bytes([blob[-9] ^ 1]) + blob[-8:], None).why == "checksum"
    assert scored["float16"] == pytest.approx(scored["float32"], abs=2e-3)
    assert scored["int8"] == pytest.approx(scored["float32"], abs=5e-2)


def test_the_setting_is_what_a_follower_keeps_memories_in(
    uic_kafka: Uic, kafka: KafkaSettings, world: small.World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(kafka)
    published = Memories(world).runs(seed=1, snapshots=1000)
    publish(kafka, published)
    store, bundle = tmp_path / "store", ("--bundle", world.bundle.path)
    monkeypatch.setenv("UIC__STORE__NUMBERS", "int8")
    for shard in ("0/2", "1/2"):
        ended = uic_kafka("store", "follow", *bundle, "--store", store, "--shard", shard, "--until-end")
        assert ended.code == 0, ended.err
    assert "memories in int8" in uic_kafka("store", "status", "--store", store).out
    said = uic_kafka("store", "stats", "--store", store).out
    shrink = Shrink("int8", world.bundle.layout)
    users = last(published)
    size = len(shrink([next(iter(users.values()))])[0])
    assert f"{len(users)} users, {size:,} bytes of memory each, kept in int8" in said
    assert size < 0.45 * world.codec.size
    repaired = uic_kafka("store", "repair", *bundle, "--store", store)
    assert repaired.code == 0, repaired.err

    to = tmp_path / "copy"
    assert uic_kafka("store", "copy", "--store", store, "--to", to).code == 0
    with closing(RocksStore.open_to_read(to)) as copied:
        assert {user: copied.read(user) for user in copied.users()} == {user: shrink([blob])[0] for user, blob in users.items()}
        assert {numbers_of(copied.read(user) or b"") for user in users} == {"int8"}

    monkeypatch.setenv("UIC__STORE__NUMBERS", "float32")
    refused = uic_kafka("store", "follow", *bundle, "--store", store, "--until-end")
    assert refused.code == 2
    assert "in int8, store.numbers says float32" in refused.err
    for options, why in (
        (("--numbers", "float32"), "not to be had again"),
        (("--numbers", "float16"), "the bundle that the memories were made with"),
    ):
        refused = uic_kafka("store", "copy", "--store", store, "--to", tmp_path / "other", *options)
        assert refused.code == 2
        assert why in " ".join(refused.err.split()), refused.err


def test_a_job_that_would_keep_other_numbers_is_refused_before_it_starts(uic: Uic, world: small.World, tmp_path: Path) -> None:
    store = written(world, tmp_path / "store", world.memories, "int8")
    ended = uic("job", "run", "--events", world.folder, "--bundle", world.bundle.path, "--store", store, "--job-dir", "job")
    assert ended.code == 2
    assert "in int8, store.numbers says float32. Set store.numbers to int8" in " ".join(ended.err.split())
