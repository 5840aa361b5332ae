"""What the stream is held against: the same batched function in a plain loop, one thread, memories in a dictionary."""

import dataclasses
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import START_MS, Load, Record
from operators.allocator import keep_freed_memory
from uic.batch import Arrival, BatchUpdater
from uic.bundle import Bundle
from uic.runtime import OnnxStep
from uic.update import Rules

_DAY_MS = 86_400_000
_WARM = 10_000


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What the loop did. `per_cpu_second` is what the stream's figure is divided by."""

    events: int
    seconds: float
    cpu_seconds: float

    @property
    def per_cpu_second(self) -> float:
        return self.events / self.cpu_seconds


def run_apart(bundle: Path, load: Load, *, batch: int, count: int) -> Limit:
    """`run` in a process of its own, whose memory is free again when it has ended."""
    arguments = json.dumps({"load": dataclasses.asdict(load), "batch": batch, "count": count})
    command = [sys.executable, "-m", "benchmarks.limit", str(bundle), arguments]
    return Limit(**json.loads(subprocess.run(command, capture_output=True, check=True).stdout))


def run(bundle: Bundle, load: Load, *, batch: int, count: int) -> Limit:
    """Parse, step, codec and CRC over `count` events of the load, every user of which has a memory already."""
    keep_freed_memory()
    updater = updater_of(bundle)
    memories = first_memories(updater, load.users)
    events = load.draw(count + _WARM, load.users)
    _loop(updater, memories, events[:_WARM], batch)
    started, cpu = time.perf_counter(), time.process_time()
    _loop(updater, memories, events[_WARM:], batch)
    return Limit(events=count, seconds=time.perf_counter() - started, cpu_seconds=time.process_time() - cpu)


def updater_of(bundle: Bundle) -> BatchUpdater:
    """As the stream's worker makes it."""
    return BatchUpdater(bundle.updater(OnnxStep(bundle), Rules()), accepted=bundle.accepted, max_ahead_ms=_DAY_MS)


def first_memories(updater: BatchUpdater, users: int) -> dict[str, bytes]:
    """A memory of one event for every user, each in bytes of its own, as after the load's first part."""
    event = b'{"user_id":"u","item_id":1,"category_id":2,"behaviour":"pv","time_ms":1}'
    memory = updater.apply(["u"], [None], [Arrival(0, START_MS, False, event)]).blobs[0]
    return {f"u{user}": bytes(bytearray(memory)) for user in range(users)}


def _loop(updater: BatchUpdater, memories: dict[str, bytes], events: list[Record], batch: int) -> None:
    log_time_ms = START_MS + _DAY_MS
    for start in range(0, len(events), batch):
        places: dict[str, int] = {}
        arrivals = []
        for key, payload in events[start : start + batch]:
            user = places.setdefault(key.decode(), len(places))
            arrivals.append(Arrival(user, log_time_ms, False, payload))
        users = list(places)
        done = updater.apply(users, [memories.get(user) for user in users], arrivals)
        for place, blob in done.blobs.items():
            memories[users[place]] = blob


if __name__ == "__main__":
    asked = json.loads(sys.argv[2])
    found = run(Bundle.open(Path(sys.argv[1])), Load(**asked["load"]), batch=asked["batch"], count=asked["count"])
    sys.stdout.write(json.dumps(dataclasses.asdict(found)))
