"""What a server holds and uses under load, once a second: memory, handles, cores, and whether it waited for a core."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import theilslopes

from benchmarks.rtp.servers import Served, Usage

_SAMPLE_S = 1.0
# RocksDB's caches and the allocator's arenas fill first.
_SETTLED = 0.4
_MOST_KEPT = 400


class Sample(NamedTuple):
    """`at_s` is of time.monotonic()."""

    at_s: float
    usage: Usage


@contextmanager
def watched(served: Served) -> Iterator[list[Sample]]:
    """The list grows by a sample a second, and by one at the end."""
    samples: list[Sample] = []
    over = threading.Event()

    def watch() -> None:
        while True:
            samples.append(Sample(time.monotonic(), served.usage()))
            if over.wait(_SAMPLE_S):
                break

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()
        samples.append(Sample(time.monotonic(), served.usage()))


def cores(samples: Sequence[Sample]) -> float:
    """How many cores the server used."""
    first, last = samples[0], samples[-1]
    return (last.usage.cpu_s - first.usage.cpu_s) / (last.at_s - first.at_s)


def by_window_ran(samples: Sequence[Sample], from_s: float, seconds: float, window_s: float) -> list[tuple[float, float]]:
    """Of each stretch of so many seconds: the share in which the event loop's thread ran, and in which it waited for a core.

    What is left of 1 it had nothing to do, or waited for a disk or a lock.
    """
    at_s = np.array([each.at_s for each in samples])
    edges_s = np.append(np.arange(from_s, from_s + seconds, window_s), from_s + seconds)
    ran_s, waited_s = (
        np.interp(edges_s, at_s, [getattr(each.usage, name) for each in samples]) for name in ("loop_ran_s", "loop_waited_s")
    )
    return [
        (float(ran), float(waited))
        for ran, waited in zip(np.diff(ran_s) / np.diff(edges_s), np.diff(waited_s) / np.diff(edges_s), strict=True)
    ]


def held(samples: Sequence[Sample]) -> dict[str, Any]:  # JSON
    """Memory and handles of the server, and how much they grew in the settled part of the time.

    Memory is the median of a third of that part: RocksDB drops what it has written out, a fifth of the whole, and fills it
    again within a minute. A leak moves the median, and where in a third such a dip fell does not.
    """
    settled = samples[int(_SETTLED * len(samples)) :]
    at_h = np.array([each.at_s for each in settled]) / 3600
    rss_mb = np.array([each.usage.rss_bytes for each in settled]) / 1e6
    handles, connections = ([getattr(each.usage, name) for each in settled] for name in ("handles", "connections"))
    third = max(1, len(settled) // 3)
    return {
        "rss_mb": float(rss_mb[-1]),
        "rss_grown": float(np.median(rss_mb[-third:]) / np.median(rss_mb[:third]) - 1),
        "rss_mb_an_hour": float(theilslopes(rss_mb, at_h).slope) if len(settled) > 2 else 0.0,
        "handles_first": float(np.mean(handles[:third])),
        "handles_last": float(np.mean(handles[-third:])),
        "handles_most": max(handles),
        "connections": [min(connections), max(connections)],
        "samples": [
            (each.at_s - samples[0].at_s, each.usage.rss_bytes, each.usage.handles, each.usage.connections)
            for each in samples[:: max(1, len(samples) // _MOST_KEPT)]
        ],
    }
