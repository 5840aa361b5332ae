"""The Python half of the batched plan: what BatchedUpdate.java calls with a batch of events and the memories of their users.

Bytes in, bytes out; their layout is told at `request` and `take` in BatchedUpdate.java. The memories, nearly all of the bytes,
lie where both sides see them, and are not copied between the two. uic/batch.py does the work.
"""

import ctypes
import struct
import traceback
from itertools import accumulate, compress, pairwise
from typing import NamedTuple

from operators import control, wire
from operators.control import Forget
from operators.metrics import FORGOTTEN
from operators.publish import LoggedLetter
from operators.settings import UpdateSettings
from operators.worker import Worker
from uic.batch import Arrival, BatchUpdate, BatchUpdater
from uic.clock import Days
from uic.codec import NO_TIME, read_header
from uic.errors import CorruptMemory
from uic.letters import Letter

OK, FAILED, CORRUPT_MEMORY, FORGET = b"\0", b"\1", b"\2", b"\3"
_HEAD = struct.Struct("<QqBH")


def open_batched(settings_json: str, saved: bytes = b"", subtask: int = 0) -> tuple["BatchedUpdates | None", str | None]:
    """What applies batches; or None and the traceback of what prevents it. `saved`: what `control` gave to be kept."""
    try:
        return BatchedUpdates(Worker(UpdateSettings.from_json(settings_json), saved=saved, subtask=subtask)), None
    except Exception:
        return None, traceback.format_exc()


class BatchedUpdates:
    """Applies batches as they come from Java."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._updater = _updater_of(worker)
        self.blob_size = worker.updater.codec.size
        self.generation = worker.generation
        self._memories = memoryview(b"")
        self._asked: Forget | None = None
        self.must_sweep = worker.may_hold_forgotten()

    def share(self, address: int, size: int) -> None:
        """Where memories lie: `size` bytes of the caller's at this address, which stay for as long as `apply` is called."""
        self._memories = memoryview((ctypes.c_char * size).from_address(address)).cast("B")

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

    def control(self, message: bytes) -> bytes:
        """Heed a control message between two batches; the answer is what to keep as broadcast state, if that changes.

        Or it is FORGET and a user: who has their memory calls `forget`.
        """
        try:
            asked = control.read_forget(message)
            if asked is not None:
                return self._ask_to_forget(asked)
            kept = self._worker.deployment.take(message)
        except Exception as error:
            self._worker.report(error)
            return FAILED + traceback.format_exc().encode()
        if self._updater.updater is not self._worker.updater:
            self._updater = _updater_of(self._worker)
        return OK + kept

    def forget(self, log_time_ms: int) -> bytes:
        """What `Worker.forget` says of the user asked for last."""
        return b"" if self._asked is None else self._worker.forget(self._asked, log_time_ms)

    def forgotten_until(self, users: bytes) -> bytes:
        """For each user (length, 4 bytes; id) the log time (8 bytes) up to which nothing of theirs counts, or NO_TIME."""
        untils, at = [], 0
        while at < len(users):
            end = at + 4 + int.from_bytes(users[at : at + 4], "little")
            until_ms = self._worker.forgotten.until_ms(users[at + 4 : end].decode())
            untils.append(NO_TIME if until_ms is None else until_ms)
            at = end
        return struct.pack(f"<{len(untils)}q", *untils)

    def _ask_to_forget(self, asked: Forget) -> bytes:
        if not self._worker.is_addressed(asked.to):
            return OK
        self._worker.forgotten.refresh()
        self._asked = asked
        return FORGET + asked.user.encode()

    def _apply(self, request: bytes) -> bytes:
        split = _split(request, self.blob_size)
        arrived = len(split.arrivals)
        if not self._worker.forgotten.is_empty:
            split = self._without_forgotten(split)
        users = split.users
        done = self._update(split)
        if arrived > len(split.arrivals):
            # Counted alone: a letter would keep what is to be forgotten.
            done.outcomes[FORGOTTEN] = arrived - len(split.arrivals)
        letters = []
        for event, kind, reason, detail in done.left:
            place = wire.unpack(request[split.wires[event]])
            user_id = users[split.arrivals[event].user]
            letter = Letter(place.source, place.offset, kind, reason, detail, user_id, place.payload)
            letters.append(LoggedLetter(letter, place.log_time_ms))
        publisher = self._worker.publisher
        # The last memories of days that ended within the batch come before the new ones, so that the store keeps a copy. Of
        # days before a rollback's cut none goes out: of the later generation, it would hide what an earlier one has of the days
        # between it and the cut.
        silent_before_ms = self._worker.silent_before_ms
        earlier = [(users[user], blob) for user, blob in done.earlier if read_header(blob).log_time_ms >= silent_before_ms]
        records = publisher.memories(earlier)
        # Java sends the new ones themselves as snapshots, where it is told to; a store of ours is written here.
        if self._worker.writes_store:
            publisher.memories([(users[user], blob) for user, blob in done.blobs.items()])
        if self._worker.direct is not None:
            self._worker.direct.write([*earlier, *((users[user], blob) for user, blob in done.blobs.items())])
        records += publisher.letters(letters)
        moved = (len(split.shared) + len(done.changed)) * self.blob_size
        self._worker.count(done.outcomes, [arrival.log_time_ms for arrival in split.arrivals], done.step_s, moved)
        numbers = (len(done.changed), len(records), *done.changed, *map(len, records))
        return b"".join((OK, struct.pack(f"<{len(numbers)}i", *numbers), *records))

    def _without_forgotten(self, split: "_Split") -> "_Split":
        """The batch without what does not count any more, memories and events."""
        found = ((place, self._worker.forgotten.until_ms(user)) for place, user in enumerate(split.users))
        untils_ms = {place: until_ms for place, until_ms in found if until_ms is not None}
        if not untils_ms:
            return split
        size = self.blob_size
        shared: list[int] = []
        for at, place in enumerate(split.shared):
            blob = bytes(self._memories[at * size : (at + 1) * size])
            if place in untils_ms and read_header(blob).log_time_ms <= untils_ms[place]:
                continue
            self._memories[len(shared) * size : (len(shared) + 1) * size] = blob
            shared.append(place)
        counts = [each.user not in untils_ms or each.log_time_ms > untils_ms[each.user] for each in split.arrivals]
        return split._replace(
            shared=shared, arrivals=list(compress(split.arrivals, counts)), wires=list(compress(split.wires, counts))
        )

    def _update(self, split: "_Split") -> BatchUpdate:
        packed = self._memories[: len(split.shared) * self.blob_size]
        if not split.odd:
            return self._updater.apply_packed(split.users, split.shared, packed, split.arrivals, into=self._memories)
        # These are of another layout, or cut off: taken one by one, the error says whose.
        blobs: list[bytes | None] = [split.odd.get(place) for place in range(len(split.users))]
        for at, place in enumerate(split.shared):
            blobs[place] = bytes(packed[at * self.blob_size : (at + 1) * self.blob_size])
        self._updater.apply(split.users, blobs, split.arrivals)
        raise AssertionError("a memory of another size must be refused")


def _updater_of(worker: Worker) -> BatchUpdater:
    return BatchUpdater(
        worker.updater,
        accepted=worker.accepted,
        max_ahead_ms=worker.max_ahead_ms,
        days=Days(worker.zone),
        quarantine=worker.quarantine,
    )


class _Split(NamedTuple):
    """A request in parts. `shared`: the users whose memory lies in the shared bytes, in its order; `odd`: memories that have
    another size and came along; `wires`: where in the request each event lies."""

    users: list[str]
    shared: list[int]
    odd: dict[int, bytes]
    arrivals: list[Arrival]
    wires: list[slice]


def _split(request: bytes, blob_size: int) -> _Split:
    users, events = struct.unpack_from("<ii", request)
    numbers = struct.unpack_from(f"<{2 * users + 2 * events}i", request, 8)
    at = 8 + 4 * len(numbers)
    names = []
    for size in numbers[:users]:
        names.append(request[at : at + size].decode())
        at += size
    blob_sizes = numbers[users : 2 * users]
    shared = [place for place, size in enumerate(blob_sizes) if size == blob_size]
    odd = {place: size for place, size in enumerate(blob_sizes) if size not in (-1, blob_size)}
    edges = list(accumulate(odd.values(), initial=at))
    blobs = {place: request[start:end] for place, (start, end) in zip(odd, pairwise(edges), strict=True)}
    at = edges[-1]
    arrivals, wires = [], []
    unpack, head = _HEAD.unpack_from, _HEAD.size
    for user, size in zip(numbers[2 * users : 2 * users + events], numbers[2 * users + events :], strict=True):
        _, log_time_ms, flags, length = unpack(request, at)
        end = at + size
        arrivals.append(Arrival(user, log_time_ms, flags != 0, request[at + head + length : end]))
        wires.append(slice(at, end))
        at = end
    return _Split(names, shared, blobs, arrivals, wires)
