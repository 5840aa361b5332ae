"""Our server under load while its memories are updated: steadily, overloaded, restarted, and for a long time."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.rtp import servers
from benchmarks.rtp.generator import Generator
from benchmarks.rtp.run import Run
from benchmarks.rtp.servers import Served, Usage, mean_ms
from benchmarks.rtp.summary import by_window, latency, summary
from serving.service import Limits

# As many as the server lets wait at once, so that none is turned away while its capacity is found.
_SATURATING = 16
_TIMES_CAPACITY = 2.0
_ROLLING_RATE = 200.0
_SOAK_RATE = 200.0
_SAMPLE_S = 1.0
_WINDOW_S = 10.0
# RocksDB's caches and the allocator's arenas fill first.
_SETTLED = 0.4


def steady(run: Run) -> None:
    """So many requests a second, the generator and a writer of the same users on the same cores."""
    sizes, window_s = run.sizes, run.window_s("steady")
    with (
        run.updates() as updates,
        servers.ours(run.work, run.bundle.path, run.updated_store) as served,
        _watched(served) as samples,
    ):
        before = served.stages()
        generator = Generator([served.port], [run.many_bodies()])
        answers = generator.open_loop(rate=sizes.rate, seconds=sizes.warm_s + window_s, seed=2).after(sizes.warm_s)
        generator.close()
        stages = mean_ms(before, served.stages())
    row = {"rate": sizes.rate, "seconds": window_s, **summary(answers), "stages": stages, "cores": _cores(samples)}
    row |= {"p99_by_window": by_window(answers, _WINDOW_S), "window_s": _WINDOW_S}
    run.note("steady", {**row, **_held(samples), "updates": updates})


def overload(run: Run) -> None:
    """What the server can do at most, and then twice that: it is to turn away what is too much, and answer the rest in time."""
    window_s, bodies = run.window_s("overload"), [run.many_bodies()]
    with servers.ours(run.work, run.bundle.path, run.updated_store) as served:
        generator = Generator([served.port], bodies)
        generator.closed_loop(connections=_SATURATING, seconds=run.sizes.warm_s)
        most = summary(generator.closed_loop(connections=_SATURATING, seconds=window_s / 3))
        generator.close()
        rate = _TIMES_CAPACITY * most["per_second"]
        generator = Generator([served.port], bodies)
        answers = generator.open_loop(rate=rate, seconds=run.sizes.warm_s + window_s, seed=3).after(run.sizes.warm_s)
        generator.close()
    # What the pool promises: nobody waits behind more than it has room for. Twice that leaves room for a shared machine.
    bound_ms = 2 * 1000 * (servers.THREADS + Limits().waiting) / most["per_second"]
    shed = latency(answers.latency_us[answers.status == 503])
    row = {"rate": rate, "capacity": most, **summary(answers), "asked": len(answers.status), "bound_ms": bound_ms}
    run.note("overload", {**row, "shed": None if shed is None else asdict(shed)})


def rolling(run: Run) -> None:
    """Two servers; each is ended by SIGTERM and started again while requests come. What one does not take goes to the other."""
    window_s, rate = run.window_s("rolling"), min(_ROLLING_RATE, run.sizes.rate)
    restarts: list[float] = []
    drain = {"drain_s": min(1.0, window_s / 8)}
    with (
        run.updates(),
        servers.ours(run.work, run.bundle.path, run.updated_store, name="first", **drain) as first,
        servers.ours(run.work, run.bundle.path, run.updated_store, name="second", **drain) as second,
    ):

        def restart() -> None:
            for served in (first, second):
                time.sleep(window_s / 8)
                began = time.monotonic()
                served.node.restart()
                restarts.append(time.monotonic() - began)

        thread = threading.Thread(target=restart)
        thread.start()
        generator = Generator([first.port, second.port], [run.many_bodies()], tries=4)
        answers = generator.open_loop(rate=rate, seconds=window_s, seed=4)
        generator.close()
        thread.join()
    failed = int((~answers.is_ok).sum())
    run.note("rolling", {"rate": rate, "restarts_s": restarts, "failed": failed, **summary(answers)})


def soak(run: Run) -> None:
    """Memory and handles of the server over a long time under load, and how much they grow in the settled part of it."""
    window_s, rate = run.window_s("soak"), min(_SOAK_RATE, run.sizes.rate)
    with (
        run.updates() as updates,
        servers.ours(run.work, run.bundle.path, run.updated_store) as served,
        _watched(served) as samples,
    ):
        generator = Generator([served.port], [run.many_bodies()])
        answers = generator.open_loop(rate=rate, seconds=window_s, seed=5)
        generator.close()
    run.note("soak", {"rate": rate, "seconds": window_s, **_held(samples), **summary(answers), "updates": updates})


@contextmanager
def _watched(served: Served) -> Iterator[list[tuple[float, Usage]]]:
    """What the server holds and uses, once a second, with the seconds since the beginning."""
    samples: list[tuple[float, Usage]] = []
    over = threading.Event()
    began = time.monotonic()

    def watch() -> None:
        while True:
            samples.append((time.monotonic() - began, served.usage()))
            if over.wait(_SAMPLE_S):
                break

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()
        samples.append((time.monotonic() - began, served.usage()))


def _cores(samples: list[tuple[float, Usage]]) -> float:
    """How many cores the server used."""
    (first_s, first), (last_s, last) = samples[0], samples[-1]
    return (last.cpu_s - first.cpu_s) / (last_s - first_s)


def _held(samples: list[tuple[float, Usage]]) -> dict[str, Any]:  # JSON
    """Memory and handles of the server, and how much they grew in the settled part of the time."""
    settled = samples[int(_SETTLED * len(samples)) :]
    at_h = np.array([at_s for at_s, _ in settled]) / 3600
    rss_mb = np.array([usage.rss_bytes for _, usage in settled]) / 1e6
    handles, connections = ([getattr(usage, name) for _, usage in settled] for name in ("handles", "connections"))
    # What RocksDB is about to write comes and goes: a third of the time each, so that no single moment decides.
    third = max(1, len(settled) // 3)
    return {
        "rss_mb": float(rss_mb[-1]),
        "rss_grown": float(rss_mb[-third:].mean() / rss_mb[:third].mean() - 1),
        "rss_mb_an_hour": float(np.polyfit(at_h, rss_mb, 1)[0]) if len(settled) > 2 else 0.0,
        "handles_first": float(np.mean(handles[:third])),
        "handles_last": float(np.mean(handles[-third:])),
        "handles_most": max(handles),
        "connections": [min(connections), max(connections)],
        "samples": [
            (at_s, usage.rss_bytes, usage.handles, usage.connections) for at_s, usage in samples[:: max(1, len(samples) // 400)]
        ],
    }
