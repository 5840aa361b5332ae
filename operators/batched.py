"""The Python half of the batched plan: what BatchedUpdate.java calls with a batch of events and the memories of their users.

Bytes in, bytes out; their layout is told at `request` and `take` in BatchedUpdate.java. uic/batch.py does the work.
"""

import struct
import traceback
from collections.abc import Callable
from itertools import accumulate
from typing import NamedTuple

from operators import wire
from operators.publish import LoggedLetter
from operators.settings import UpdateSettings
from operators.worker import Worker
from uic.batch import Arrival, BatchUpdate, BatchUpdater
from uic.errors import CorruptMemory
from uic.letters import Letter

Apply = Callable[[bytes], bytes]
OK, FAILED, CORRUPT_MEMORY = b"\0", b"\1", b"\2"
_HEAD = struct.Struct("<QqBH")


def open_batched(settings_json: str) -> tuple[Apply | None, str | None]:
    """The function that applies a batch; or None and the traceback of what prevents it."""
    try:
        return BatchedUpdates(Worker(UpdateSettings.from_json(settings_json))).apply, None
    except Exception:
        return None, traceback.format_exc()


class BatchedUpdates:
    """Applies batches as they come from Java."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._updater = BatchUpdater(worker.updater, accepted=worker.accepted, max_ahead_ms=worker.max_ahead_ms)

    def apply(self, request: bytes) -> bytes:
        """One batch. Never raises: Java gets the traceback and fails the task with it."""
        try:
            return self._apply(request)
        except CorruptMemory as error:
            explained = self._worker.explain(error)
            self._worker.report(explained)
            return CORRUPT_MEMORY + f"{type(explained).__name__}: {explained}".encode()
        except Exception as error:
            self._worker.report(error)
            return FAILED + traceback.format_exc().encode()

    def _apply(self, request: bytes) -> bytes:
        split = _split(request)
        users = split.users
        done = self._update(split)
        letters = []
        for event, kind, reason, detail in done.left:
            place = wire.unpack(request[split.wires[event]])
            user_id = users[split.arrivals[event].user]
            letter = Letter(place.source, place.offset, kind, reason, detail, user_id, place.payload)
            letters.append(LoggedLetter(letter, place.log_time_ms))
        publisher = self._worker.publisher
        # Java sends the blobs themselves as snapshots, where it is told to; a store of ours is written here.
        if self._worker.writes_store:
            publisher.memories([(users[user], blob) for user, blob in done.blobs.items()])
        records = publisher.letters(letters)
        moved = len(split.blobs) + len(done.packed)
        self._worker.count(done.outcomes, [arrival.log_time_ms for arrival in split.arrivals], done.step_s, moved)
        return _reply(done, records)

    def _update(self, split: "_Split") -> BatchUpdate:
        present = [place for place, size in enumerate(split.blob_sizes) if size >= 0]
        sizes = {split.blob_sizes[place] for place in present}
        if sizes <= {self._worker.updater.codec.size}:
            return self._updater.apply_packed(split.users, present, split.blobs, split.arrivals)
        # One at least is of another layout, or cut off: taken one by one, the error says whose.
        ends = accumulate(max(size, 0) for size in split.blob_sizes)
        blobs = [
            None if size < 0 else bytes(split.blobs[end - size : end]) for size, end in zip(split.blob_sizes, ends, strict=True)
        ]
        return self._updater.apply(split.users, blobs, split.arrivals)


class _Split(NamedTuple):
    """A request in parts. `blobs`: the memories side by side; `wires`: where in the request each event lies."""

    users: list[str]
    blob_sizes: tuple[int, ...]
    blobs: memoryview
    arrivals: list[Arrival]
    wires: list[slice]


def _split(request: bytes) -> _Split:
    users, events = struct.unpack_from("<ii", request)
    numbers = struct.unpack_from(f"<{2 * users + 2 * events}i", request, 8)
    at = 8 + 4 * len(numbers)
    names = []
    for size in numbers[:users]:
        names.append(request[at : at + size].decode())
        at += size
    blob_sizes = numbers[users : 2 * users]
    blobs_at = at
    at += sum(size for size in blob_sizes if size > 0)
    blobs = memoryview(request)[blobs_at:at]
    arrivals, wires = [], []
    unpack, head = _HEAD.unpack_from, _HEAD.size
    for user, size in zip(numbers[2 * users : 2 * users + events], numbers[2 * users + events :], strict=True):
        _, log_time_ms, flags, length = unpack(request, at)
        end = at + size
        arrivals.append(Arrival(user, log_time_ms, flags != 0, request[at + head + length : end]))
        wires.append(slice(at, end))
        at = end
    return _Split(names, blob_sizes, blobs, arrivals, wires)


def _reply(done: BatchUpdate, records: list[bytes]) -> bytes:
    size = len(done.packed) // max(1, len(done.changed))
    numbers = (len(done.changed), size, len(records), *done.changed, *map(len, records))
    return b"".join((OK, struct.pack(f"<{len(numbers)}i", *numbers), done.packed, *records))
