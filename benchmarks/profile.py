"""Where the Python half of the batched plan spends its time: BatchedUpdates.apply over the bytes that Java would send."""

import cProfile
import io
import pstats
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.limit import first_memories, updater_of
from benchmarks.load import START_MS, Load, Record
from operators import wire
from operators.batched import BatchedUpdates
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
    apply = BatchedUpdates(Worker(settings)).apply
    memories = first_memories(updater_of(bundle), load.users)
    events = load.draw(count, load.users)
    requests = [_request(memories, events[start : start + batch]) for start in range(0, count, batch)]
    apply(requests[0])
    cpu = time.process_time()
    for request in requests:
        apply(request)
    per_event_us = (time.process_time() - cpu) / count * 1e6
    return Profile(per_event_us=per_event_us, functions=_profiled(apply, requests))


def _profiled(apply: Callable[[bytes], bytes], requests: list[bytes]) -> str:
    watch = cProfile.Profile()
    watch.enable()
    for request in requests:
        apply(request)
    watch.disable()
    text = io.StringIO()
    pstats.Stats(watch, stream=text).strip_dirs().sort_stats("tottime").print_stats(_SHOWN)
    return text.getvalue()


def _request(memories: dict[str, bytes], events: list[Record]) -> bytes:
    """As BatchedUpdate.java makes it; a user's memory is the one they began with."""
    places: dict[str, int] = {}
    user_of = [places.setdefault(key.decode(), len(places)) for key, _ in events]
    wires = [wire.pack("events-0", n, START_MS + 86_400_000, payload) for n, (_, payload) in enumerate(events)]
    ids = [user.encode() for user in places]
    blobs = [memories[user] for user in places]
    numbers = [len(ids), len(wires), *map(len, ids), *map(len, blobs), *user_of, *map(len, wires)]
    return b"".join((struct.pack(f"<{len(numbers)}i", *numbers), *ids, *blobs, *wires))
