"""Our server under load while its memories are updated: steadily, overloaded, restarted, and for a long time."""

import threading
import time
from dataclasses import asdict

from benchmarks.rtp import servers
from benchmarks.rtp.generator import Generator
from benchmarks.rtp.held import by_window_ran, cores, held, watched
from benchmarks.rtp.run import Run
from benchmarks.rtp.servers import mean_ms
from benchmarks.rtp.summary import by_window, latency, summary
from serving.service import Limits

# As many as the server lets wait at once, so that none is turned away while its capacity is found.
_SATURATING = 16
_TIMES_CAPACITY = 2.0
_ROLLING_RATE = 200.0
_SOAK_RATE = 200.0
_WINDOW_S = 10.0


def steady(run: Run) -> None:
    """So many requests a second, the generator and a writer of the same users on the same cores."""
    sizes, window_s = run.sizes, run.window_s("steady")
    with (
        run.updates() as updates,
        servers.ours(run.work, run.bundle.path, run.updated_store) as served,
        watched(served) as samples,
    ):
        before = served.stages()
        generator = Generator([served.port], [run.many_bodies()])
        from_s = time.monotonic() + sizes.warm_s
        answers = generator.open_loop(rate=sizes.rate, seconds=sizes.warm_s + window_s, seed=2).after(sizes.warm_s)
        generator.close()
        stages = mean_ms(before, served.stages())
    row = {"rate": sizes.rate, "seconds": window_s, **summary(answers), "stages": stages, "cores": cores(samples)}
    row |= {"p99_by_window": by_window(answers, _WINDOW_S), "window_s": _WINDOW_S}
    row["ran_by_window"] = by_window_ran(samples, from_s, window_s, _WINDOW_S)
    run.note("steady", {**row, **held(samples), "updates": updates})


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
    """Memory and handles of the server over a long time under load, and how much they grow in the settled part of it.

    As many requests at once as it takes come first: what a crowd makes a server hold, the allocator keeps, and a crowd in the
    middle of the hour would pass for a leak.
    """
    window_s, rate = run.window_s("soak"), min(_SOAK_RATE, run.sizes.rate)
    with (
        run.updates() as updates,
        servers.ours(run.work, run.bundle.path, run.updated_store) as served,
        watched(served) as samples,
    ):
        crowd, generator = (Generator([served.port], [run.many_bodies()]) for _ in range(2))
        crowd.closed_loop(connections=servers.THREADS + Limits().waiting, seconds=run.sizes.warm_s)
        crowd.close()
        answers = generator.open_loop(rate=rate, seconds=window_s, seed=5)
        generator.close()
    run.note("soak", {"rate": rate, "seconds": window_s, **held(samples), **summary(answers), "updates": updates})
