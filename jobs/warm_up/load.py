"""Packed memories into the online store."""

from collections.abc import Callable
from pathlib import Path

from jobs.settings import DaysSettings
from uic.bundle import Bundle
from uic.codec import read_header
from uic.forgetting import Forgotten
from uic.memory import Numbers
from uic.small import Shrink
from uic.store.contract import WritableStore
from uic.store.sharded import open_to_write
from uic.warm.packed import read


def check_store(store: Path, bundle: Bundle, days: DaysSettings, numbers: Numbers = "float32") -> None:
    """Make the store if there is none; raise what writing it would: it is in use, or of another layout, lineage or zone."""
    _open(store, bundle, days, numbers).close()


def load(
    files: list[Path],
    store: Path,
    bundle: Bundle,
    days: DaysSettings,
    *,
    numbers: Numbers = "float32",
    forgotten: Forgotten | None = None,
    is_done: Callable[[int], None] = lambda _: None,
) -> int:
    """Write every memory; how many took over. A store that has newer ones keeps them, so that it may be done again.

    Memories of those who are `forgotten` are left. `is_done` is told the users of each block. Raises StoreMismatch for a store
    of another layout or lineage.
    """
    written, asks = 0, None if forgotten is None or forgotten.is_empty else forgotten
    opened = _open(store, bundle, days, numbers)
    try:
        for path in files:
            for block in read(path, bundle.codec):
                memories = []
                for number, user in enumerate(block.users):
                    blob = bytes(block.packed[number * bundle.codec.size : (number + 1) * bundle.codec.size])
                    name = user.decode()
                    if asks is not None and asks.is_gone(name, read_header(blob).log_time_ms):
                        continue
                    memories.append((name, blob))
                written += sum(opened.write_many(memories))
                is_done(len(block.users))
    finally:
        opened.close()
    return written


def _open(path: Path, bundle: Bundle, days: DaysSettings, numbers: Numbers) -> WritableStore:
    shrink = Shrink(numbers, bundle.layout)
    return open_to_write(path, bundle.identity, zone=days.zone, kept=days.kept, shrink=shrink)
