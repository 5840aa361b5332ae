"""`uic verify` agrees with an honest store and with no other."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import small
from command import Ended, Uic

from uic.event import to_json
from uic.memory import MemoryLayout

LAYOUT = MemoryLayout(small.VARIANT)
USER = "u3"
Verify = Callable[..., Ended]


@pytest.fixture
def verify(uic: Uic, world: small.World, tmp_path: Path) -> Verify:
    """Verify a store with these memories against all events of the small world."""

    def run(memories: dict[str, bytes], *options: object, events: Path | None = None) -> Ended:
        store = world.store(tmp_path / "store", memories)
        return uic(
            "verify", "--events", events or world.folder, "--bundle", world.bundle.path, "--store", store, *options
        )  # fmt: skip

    return run


def assert_only_mismatch(ended: Ended, user: str, what: str) -> None:
    assert ended.code == 1, ended.out + ended.err
    assert "mismatches: 1" in ended.out
    assert re.search(rf"user '{user}': .*{what}", ended.out), ended.out


@pytest.mark.parametrize("oracle", ["numpy", "onnx"])
def test_an_honest_store_agrees(verify: Verify, world: small.World, oracle: str) -> None:
    ended = verify(world.memories, "--oracle", oracle)
    assert ended.code == 0
    assert f"users compared: {len(world.memories)} ({oracle}" in ended.out
    assert f"events: {len(world.events)} applied" in ended.out
    assert "mismatches: 0" in ended.out
    worst = re.search(r"largest difference: ([0-9.]+) of the tolerance", ended.out)
    assert worst is not None
    assert float(worst.group(1)) <= 1


def test_a_missing_memory_is_named(verify: Verify, world: small.World) -> None:
    left = {user: blob for user, blob in world.memories.items() if user != USER}
    assert_only_mismatch(verify(left), USER, "not in the store, expected a memory after")


def test_a_stranger_is_named(verify: Verify, world: small.World) -> None:
    assert_only_mismatch(verify({**world.memories, "nobody": world.memories[USER]}), "nobody", "no event of theirs")


def test_one_event_too_few_is_named(verify: Verify, world: small.World) -> None:
    own = [event for event in world.events if event.user_id == USER]
    fewer = small.fold(world.bundle, own[:-1])
    assert_only_mismatch(verify({**world.memories, **fewer}), USER, f"{len(own) - 1} events applied, expected {len(own)}")


def test_one_event_too_many_is_named(verify: Verify, world: small.World) -> None:
    own = [event for event in world.events if event.user_id == USER]
    more = small.fold(world.bundle, [*own, msgspec.structs.replace(own[-1], time_ms=own[-1].time_ms + 1)])
    assert_only_mismatch(verify({**world.memories, **more}), USER, f"{len(own) + 1} events applied, expected {len(own)}")


def test_as_many_other_events_are_named(verify: Verify, world: small.World) -> None:
    own = [event for event in world.events if event.user_id == USER]
    other = [*own[:-1], msgspec.structs.replace(own[-1], item_id=own[0].item_id + 10**6)]
    assert_only_mismatch(verify({**world.memories, **small.fold(world.bundle, other)}), USER, "other events were applied")


@pytest.mark.parametrize("oracle", ["numpy", "onnx"])
@pytest.mark.parametrize("tensor", [spec.name for spec in LAYOUT.tensors])
def test_one_changed_number_of_any_tensor_is_named(verify: Verify, world: small.World, tensor: str, oracle: str) -> None:
    memory = world.codec.decode(world.memories[USER])
    tensors = {name: values.copy() for name, values in LAYOUT.split(memory.state_F).items()}
    changed = tensors[tensor].reshape(-1)
    changed[-1] += 4e-5 * (1 + abs(changed[-1]))
    blob = world.codec.encode(dataclasses.replace(memory, state_F=LAYOUT.pack(tensors)))
    assert_only_mismatch(verify({**world.memories, USER: blob}, "--oracle", oracle), USER, f"{tensor} differs by")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_none_is_named(verify: Verify, world: small.World, value: float) -> None:
    memory = world.codec.decode(world.memories[USER])
    state_F = memory.state_F.copy()
    state_F[0] = value
    blob = world.codec.encode(dataclasses.replace(memory, state_F=state_F))
    assert_only_mismatch(verify({**world.memories, USER: blob}), USER, "controller differs by inf")


def test_a_corrupt_memory_ends_it_with_the_users_name(verify: Verify, world: small.World) -> None:
    blob = bytearray(world.memories[USER])
    blob[200] ^= 1
    ended = verify({**world.memories, USER: bytes(blob)})
    assert ended.code == 2
    assert ended.err.startswith(f"ChecksumMismatch: user {USER!r}: memory: CRC-32C of")


def test_events_that_are_not_applied_are_counted_and_change_nothing(verify: Verify, world: small.World, tmp_path: Path) -> None:
    last = world.events[-1]
    late = msgspec.structs.replace(last, item_id=101, time_ms=small.START_MS - 10 * small.DAY_MS)
    unknown = msgspec.structs.replace(last, behaviour="stare")
    folder = tmp_path / "events"
    folder.mkdir()
    lines = [to_json(event) for event in world.events]
    (folder / "a.jsonl").write_bytes(b"\n".join([*lines, to_json(last), to_json(late), to_json(unknown), b"{", b"", b"\xff"]))
    ended = verify(world.memories, events=folder)
    assert ended.code == 0, ended.out
    assert f"events: {len(lines)} applied, 3 dead, 1 duplicate, 1 late" in ended.out


def test_late_events_count_where_the_job_took_them(verify: Verify, world: small.World, tmp_path: Path) -> None:
    late = msgspec.structs.replace(world.events[-1], user_id=USER, time_ms=small.START_MS - 10 * small.DAY_MS)
    folder = tmp_path / "events"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(b"\n".join(to_json(event) for event in [*world.events, late]))
    assert_only_mismatch(verify(world.memories, "--accept-late", events=folder), USER, "events applied, expected")


def test_mismatches_are_counted_beyond_those_printed(verify: Verify, world: small.World) -> None:
    ended = verify({}, "--most", 2)
    assert ended.code == 1
    assert f"mismatches: {len(world.memories)}" in ended.out
    assert ended.out.count("not in the store") == 2


def test_a_user_with_brackets_in_the_name_is_printed_as_it_is(verify: Verify, world: small.World) -> None:
    ended = verify({**world.memories, "[/red]": world.memories[USER]})
    assert_only_mismatch(ended, re.escape("[/red]"), "no event of theirs")


def test_a_folder_that_is_none_is_refused(verify: Verify, world: small.World, tmp_path: Path) -> None:
    ended = verify(world.memories, events=tmp_path / "nowhere")
    assert ended.code == 2
    assert "expected a folder of event files" in ended.err
