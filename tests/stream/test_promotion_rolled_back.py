"""A rollback that names a bundle, to a checkpoint in which another was promoted: as Java calls it, without Flink."""

import ctypes
import struct
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "scenarios"))

from toy import make_bundle

from benchmarks.load import START_MS
from benchmarks.profile import request_of
from operators import control
from operators.batched import OK, BatchedUpdates, open_batched
from operators.settings import UpdateSettings
from uic.bundle import Bundle
from uic.codec import read_header
from uic.event import BehaviourEvent, parse_event, to_json
from uic.registry import Registry
from uic.runtime import OnnxStep
from uic.update import Rules, Updater

BATCH = 8
LOG_TIME_MS = START_MS + 1000
BEFORE, AFTER = "the run before", "the run of the rollback"
Events = list[tuple[bytes, bytes]]


def events(first: int) -> Events:
    """Some for each of three users, of items that only the later bundles know too."""
    return [
        (
            f"u{n % 3}".encode(),
            to_json(
                BehaviourEvent(user_id=f"u{n % 3}", item_id=195 + n, category_id=1, behaviour="click", time_ms=START_MS + n)
            ),
        )
        for n in range(first, first + BATCH)
    ]


class World:
    """Three bundles of a lineage, in the registry too, and a job that is opened anew with each run and after each failure."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.registry = Registry(str(root / "registry"))
        self.bundles = {}
        for version, keeps in ((1, 0.5), (2, 0.25), (3, 1.0)):
            path = make_bundle(
                root / str(version), version=version, parent=version - 1 or None, keeps=keeps, more_items=10 * (version - 1)
            )
            self.registry.push(path, now_ms=0)
            self.bundles[version] = Bundle.open(path)

    def open(self, address: str, version: int, saved: bytes, generation: int) -> BatchedUpdates:
        settings = UpdateSettings(
            bundle=str(self.bundles[version].path), job_dir=str(self.root), run=1 + generation, rules=Rules(),
            max_ahead_ms=86_400_000, store=None, address=address, generation=generation,
        )  # fmt: skip
        updates, problem = open_batched(settings.to_json(), saved)
        assert updates is not None, problem
        return updates

    def promotion(self, version: int, address: str) -> list[bytes]:
        """Both messages, as they stand in the control topic."""
        facts = {"to": address, "version": version, "url": self.registry.url, "digest": self.registry.get(version).digest}
        return [control.to_json(kind(**facts, issued_ms=at)) for at, kind in enumerate((control.Prepare, control.Promote))]

    def updater(self, version: int, generation: int) -> Updater:
        bundle = self.bundles[version]
        return bundle.updater(OnnxStep(bundle), Rules(), generation=generation)


def apply(updates: BatchedUpdates, memories: dict[str, bytes], batch: Events) -> None:
    size = updates.blob_size
    request, blobs = request_of(memories, batch, size, None)
    shared = ctypes.create_string_buffer(bytes(blobs), BATCH * size)
    updates.share(ctypes.addressof(shared), len(shared))
    answer = updates.apply(request)
    assert answer.startswith(OK), answer
    changed = struct.unpack_from("<i", answer, 1)[0]
    users = list(dict.fromkeys(key.decode() for key, _ in batch))
    for place, user in enumerate(struct.unpack_from(f"<{changed}i", answer, 9)):
        memories[users[user]] = shared.raw[place * size : (place + 1) * size]


def heed(updates: BatchedUpdates, messages: list[bytes]) -> bytes:
    """What broadcast state is after them, empty where they changed nothing."""
    saved = b""
    for message in messages:
        answer = updates.control(message)
        assert answer.startswith(OK), answer
        saved = answer[len(OK) :] or saved
    return saved


def one_by_one(updater: Updater, memories: dict[str, bytes], batch: Events, log_time_ms: int) -> dict[str, bytes]:
    found = dict(memories)
    for key, payload in batch:
        event = parse_event(payload, now_ms=log_time_ms, accepted=None, max_ahead_ms=86_400_000)
        blob = updater.update(found.get(key.decode()), event, log_time_ms=log_time_ms).blob
        assert blob is not None
        found[key.decode()] = blob
    return found


@pytest.mark.parametrize("version", [1, 2, 3], ids=["the one before it", "the promoted one", "a later one"])
def test_a_rollback_goes_on_with_the_bundle_it_names_whatever_was_promoted_in_its_checkpoint(
    tmp_path: Path, version: int
) -> None:
    world = World(tmp_path)
    job = world.open(BEFORE, 1, b"", 0)
    memories: dict[str, bytes] = {}
    apply(job, memories, events(0))
    saved = heed(job, world.promotion(2, BEFORE))
    assert saved
    apply(job, memories, events(BATCH))
    assert {read_header(blob).bundle_version for blob in memories.values()} == {2}
    checkpoint, log_time_ms = dict(memories), read_header(memories["u0"]).log_time_ms

    def applied(updates: BatchedUpdates) -> dict[str, bytes]:
        found = dict(checkpoint)
        apply(updates, found, events(2 * BATCH))
        return found

    expected = one_by_one(world.updater(version, 1), checkpoint, events(2 * BATCH), log_time_ms)
    job = world.open(AFTER, version, saved, 1)
    # The control topic is read from its begin: what was promoted in the run before is not meant.
    assert heed(job, world.promotion(2, BEFORE)) == b""
    assert applied(job) == expected
    # A worker dies before anything was promoted in this run: the checkpoint has the old promotion still.
    assert applied(world.open(AFTER, version, saved, 1)) == expected
    # From the next promotion on that one counts, and a death later too.
    if version < 3:
        again = heed(job, world.promotion(3, AFTER))
        newest = one_by_one(world.updater(3, 1), checkpoint, events(2 * BATCH), log_time_ms)
        assert applied(job) == newest
        assert applied(world.open(AFTER, version, again, 1)) == newest
