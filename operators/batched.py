"""The Python half of the batched plan: what BatchedUpdate.java calls with a batch of events and the memories of their users.

Bytes in, bytes out; their layout is told at `request` and `take` in BatchedUpdate.java. uic/batch.py does the work.
"""

import struct
import traceback
from collections.abc import Callable, Mapping
from itertools import accumulate, pairwise

from operators import wire
from operators.publish import LoggedLetter
from operators.settings import UpdateSettings
from operators.worker import Worker
from uic.batch import Arrival, BatchUpdater
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
            return OK + self._apply(request)
        except CorruptMemory as error:
            explained = self._worker.explain(error)
            self._worker.report(explained)
            return CORRUPT_MEMORY + f"{type(explained).__name__}: {explained}".encode()
        except Exception as error:
            self._worker.report(error)
            return FAILED + traceback.format_exc().encode()

    def _apply(self, request: bytes) -> bytes:
        users, blobs, user_of, wires = _split(request)
        arrivals = []
        for user, data in zip(user_of, wires, strict=True):
            _, log_time_ms, flags, length = _HEAD.unpack_from(data)
            arrivals.append(Arrival(user, log_time_ms, flags != 0, data[_HEAD.size + length :]))
        done = self._updater.apply(users, blobs, arrivals)
        letters = []
        for event, kind, reason, detail in done.left:
            place = wire.unpack(wires[event])
            user_id = users[user_of[event]]
            letter = Letter(place.source, place.offset, kind, reason, detail, user_id, place.payload)
            letters.append(LoggedLetter(letter, place.log_time_ms))
        publisher = self._worker.publisher
        # Java sends the blobs themselves as snapshots, where it is told to; a store of ours is written here.
        if self._worker.writes_store:
            publisher.memories([(users[user], blob) for user, blob in done.blobs.items()])
        records = publisher.letters(letters)
        moved = sum(len(blob) for blob in blobs if blob is not None) + sum(map(len, done.blobs.values()))
        self._worker.count(done.outcomes, [arrival.log_time_ms for arrival in arrivals], done.step_s, moved)
        return _reply(done.blobs, records)


def _split(request: bytes) -> tuple[list[str], list[bytes | None], tuple[int, ...], list[bytes]]:
    users, events = struct.unpack_from("<ii", request)
    numbers = struct.unpack_from(f"<{2 * users + 2 * events}i", request, 8)
    id_sizes, blob_sizes = numbers[:users], numbers[users : 2 * users]
    user_of, wire_sizes = numbers[2 * users : 2 * users + events], numbers[2 * users + events :]
    sizes = (*id_sizes, *(max(size, 0) for size in blob_sizes), *wire_sizes)
    ends = list(accumulate(sizes, initial=8 + 4 * len(numbers)))
    parts = [request[start:end] for start, end in pairwise(ends)]
    blobs = [None if size < 0 else part for size, part in zip(blob_sizes, parts[users : 2 * users], strict=True)]
    return [part.decode() for part in parts[:users]], blobs, user_of, parts[2 * users :]


def _reply(blobs: Mapping[int, bytes], records: list[bytes]) -> bytes:
    size = len(next(iter(blobs.values()))) if blobs else 0
    numbers = (len(blobs), size, len(records), *blobs, *map(len, records))
    return b"".join((struct.pack(f"<{len(numbers)}i", *numbers), *blobs.values(), *records))
