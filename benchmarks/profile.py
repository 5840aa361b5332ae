"""Where the Python half of the batched plan spends its time: BatchedUpdates.apply over the bytes that Java would send."""

import cProfile
import ctypes
import io
import pstats
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.limit import first_memories, updater_of
from benchmarks.load import START_MS, Load, Record
from operators import wire
from operators.batched import OK, BatchedUpdates
from operators.settings import UpdateSettings
from operators.worker import Worker
from uic.bundle import Bundle
from uic.update import Rules

_SHOWN = 25


@dataclass(frozen=True, kw_only=True)
class Profile:
    """CPU-microseconds an event in Python, without the profiler; and what the profiler says, longest first."""

    per_event_us: float
    functions: str


def profile(bundle: Bundle, load: Load, folder: Path, *, batch: int, count: int) -> Profile:
    """`count` events of the load, every user of which has a memory already."""
    settings = UpdateSettings(
        bundle=str(bundle.path), job_dir=str(folder), run=1, rules=Rules(), max_ahead_ms=86_400_000, store=None
    )
    updates = BatchedUpdates(Worker(settings))
    shared = ctypes.create_string_buffer(batch * updates.blob_size)
    updates.share(ctypes.addressof(shared), len(shared))
    memories = first_memories(updater_of(bundle), load.users)
    events = load.draw(count, load.users)
    calls = [request_of(memories, events[start : start + batch], updates.blob_size) for start in range(0, count, batch)]

    def apply(call: tuple[bytes, bytes]) -> None:
        request, blobs = call
        ctypes.memmove(shared, blobs, len(blobs))
        if not updates.apply(request).startswith(OK):
            raise AssertionError("a batch of the benchmark must be applied")

    apply(calls[0])
    cpu = time.process_time()
    for call in calls:
        apply(call)
    per_event_us = (time.process_time() - cpu) / count * 1e6
    return Profile(per_event_us=per_event_us, functions=_profiled(apply, calls))


def _profiled(apply: Callable[[tuple[bytes, bytes]], None], calls: list[tuple[bytes, bytes]]) -> str:
    watch = cProfile.Profile()
    watch.enable()
    for call in calls:
        apply(call)
    watch.disable()
    text = io.StringIO()
    pstats.Stats(watch, stream=text).strip_dirs().sort_stats("tottime").print_stats(_SHOWN)
    return text.getvalue()


def request_of(
    memories: Mapping[str, bytes], events: Sequence[Record], size: int, log_times_ms: Sequence[int] | None = None
) -> tuple[bytes, bytes]:
    """The request as BatchedUpdate.java makes it, and beside it the memories of this `size`, side by side."""
    times_ms = log_times_ms or [START_MS + 86_400_000] * len(events)
    places: dict[str, int] = {}
    user_of = [places.setdefault(key.decode(), len(places)) for key, _ in events]
    wires = [
        wire.pack("events-0", n, time_ms, event[1]) for n, (time_ms, event) in enumerate(zip(times_ms, events, strict=True))
    ]
    ids = [user.encode() for user in places]
    blobs = [memories.get(user) for user in places]
    sizes = [-1 if blob is None else len(blob) for blob in blobs]
    there = [blob for blob in blobs if blob is not None]
    numbers = [len(ids), len(wires), *map(len, ids), *sizes, *user_of, *map(len, wires)]
    odd = [blob for blob in there if len(blob) != size]
    request = b"".join((struct.pack(f"<{len(numbers)}i", *numbers), *ids, *odd, *wires))
    return request, b"".join(blob for blob in there if len(blob) == size)
