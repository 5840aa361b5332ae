"""Latency over length: the paper's Fig. 7 with DIEN's server beside ours, and ours at the shortest and longest history."""

from benchmarks.rtp import dien_graphs, people, servers
from benchmarks.rtp.generator import Generator
from benchmarks.rtp.run import Run
from benchmarks.rtp.servers import mean_ms
from benchmarks.rtp.summary import summary

# Both are asked at the same rate: so much of what DIEN can do at that length, so that it is never busy for long.
_OF_CAPACITY = 0.25
_SATURATING = 4
_LENGTH_RATE = 300.0


def fig7(run: Run) -> None:
    """At each length, of each server: what it can do at most, one request after another, and open-loop at one rate for both."""
    graphs, histories = run.work / "dien", run.work / "histories"
    run.found["dien_excess"] = dien_graphs.write_graphs(run.bundle, graphs)
    assert run.found["dien_excess"] <= 1, run.found["dien_excess"]
    people.write_histories(histories, run.bundle, run.histories, run.sizes.lengths)
    window_s = run.window_s("fig7")
    with (
        servers.ours(run.work, run.bundle.path, run.store) as ours,
        servers.dien(run.work, run.bundle.path, graphs, histories, run.sizes.lengths) as theirs,
    ):
        for length in run.sizes.lengths:
            bodies = people.bodies(people.users_of(length, run.sizes.users), 4 * run.sizes.users)
            rate = 0.0
            for name, served in (("dien", theirs), ("ours", ours)):
                generator = Generator([served.port], [bodies])
                generator.closed_loop(connections=_SATURATING, seconds=run.sizes.warm_s / 5)
                most = summary(generator.closed_loop(connections=_SATURATING, seconds=window_s / 3))
                alone = summary(generator.closed_loop(connections=1, seconds=window_s / 3))
                rate = rate or _OF_CAPACITY * most["per_second"]
                before = served.stages()
                opened = summary(generator.open_loop(rate=rate, seconds=window_s, seed=length))
                stages = mean_ms(before, served.stages())
                generator.close()
                found = {"open": opened, "alone": alone, "most": most, "stages": stages}
                run.note("fig7", {"server": name, "length": length, "rate": rate, **found})


def length(run: Run) -> None:
    """Requests for users with the shortest and with the longest history take turns in one run."""
    window_s, rate = run.window_s("length"), min(_LENGTH_RATE, run.sizes.rate)
    ends = min(run.sizes.lengths), max(run.sizes.lengths)
    kinds = [people.bodies(people.users_of(each, run.sizes.users), 4 * run.sizes.users) for each in ends]
    with servers.ours(run.work, run.bundle.path, run.store) as served:
        generator = Generator([served.port], kinds)
        answers = generator.open_loop(rate=rate, seconds=run.sizes.warm_s + window_s, seed=1).after(run.sizes.warm_s)
        generator.close()
    for kind, each in enumerate(ends):
        run.note("length", {"length": each, "rate": rate, **summary(answers.only(answers.kind == kind))})
