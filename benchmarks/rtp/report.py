"""What a run of `python -m benchmarks.rtp` found, held against the targets: a table for people and a plot."""

from pathlib import Path
from typing import Any

from benchmarks.report import Row, Target

_COLOURS = {"ours": "#2266aa", "dien": "#cc7722"}
_AT = 1000
_LATENCY = ("count", "mean_ms", "p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms")


def targets(found: dict[str, Any]) -> list[Target]:
    """Every target for which there are figures."""
    made = []
    of = {(row["server"], row["length"]): row for row in found.get("fig7", [])}
    if ("dien", _AT) in of and ("ours", _AT) in of:
        for part, words in (("open", "open-loop at one rate"), ("alone", "one request after another")):
            ratio = of["dien", _AT][part]["mean_ms"] / of["ours", _AT][part]["mean_ms"]
            made.append(Target(f"DIEN's mean over ours at length {_AT:,}, {words}", ratio, 10.5))
    if lengths := {row["length"]: row["p99_ms"] for row in found.get("length", [])}:
        shortest, longest = min(lengths), max(lengths)
        what = f"p99 at length {longest:,} over p99 at {shortest}"
        made.append(Target(what, lengths[longest] / lengths[shortest], 1.1, True))
    for row in found.get("steady", []):
        what = f"{row['rate']:,.0f} requests/s for {row['seconds']:,.0f} s, {row['updates']['events']:,} events meanwhile: "
        made.append(Target(what + "mean, ms", row["mean_ms"], 10, True))
        made.append(Target(what + "p99, ms", row["p99_ms"], 25, True))
        made.append(Target(what + "not answered with scores", sum(row["others"].values()), 0, True))
    for row in found.get("overload", []):
        made.append(Target("twice the capacity: neither scores nor 503", row["errors"], 0, True))
        made.append(
            Target("twice the capacity: scores a second over capacity", row["per_second"] / row["capacity"]["per_second"], 0.7)
        )
        made.append(Target("twice the capacity: p99 of what is accepted, ms", row["p99_ms"], row["bound_ms"], True))
    for row in found.get("rolling", []):
        made.append(Target("rolling restart of two servers: requests that failed", row["failed"], 0, True))
    for row in found.get("soak", []) + found.get("steady", []):
        what = f"{row['rate']:,.0f} requests/s for {row['seconds']:,.0f} s: "
        made.append(Target(what + "memory grown in the settled part, of the whole", row["rss_grown"], 0.02, True))
        made.append(
            Target(what + "handles but connections, more at the end", row["handles_last"] - row["handles_first"], 4, True)
        )
    if reads := {row["server"]: row["p99_ms"] for row in found.get("feast", [])}:
        for name in reads:
            if name != "feast":
                made.append(Target(f"p99 of {name}, over p99 of Feast's read", reads[name] / reads["feast"], 0.5, True))
    return made


def write(found: dict[str, Any], out: Path) -> None:
    """table.md and plot.png beside result.json."""
    (out / "table.md").write_text(_table(found))
    if "fig7" in found:
        _plot(found["fig7"], out / "plot.png")


def _table(found: dict[str, Any]) -> str:
    machine = found["machine"]
    words = " (quick: says little)" * machine["quick"]
    lines = [f"{machine['cores']} x {machine['cpu']}, Python {machine['python']}{words}", ""]
    lines += ["| target | figure | wanted | |", "|---|---|---|---|"]
    for each in targets(found):
        sign, verdict = "<=" if each.is_most else ">=", "pass" if each.is_met else "**missed**"
        lines.append(f"| {each.what} | {each.figure:.2f} | {sign} {each.wanted:g} | {verdict} |")
    if "fig7" in found:
        lines += ["", *_fig7(found["fig7"])]
    lines += ["", "| part | requests/s | answered | mean ms | p50 | p90 | p99 | p99.9 | longest | others | generator, cores |"]
    lines.append("|---|" + "---|" * 10)
    for part in ("length", "steady", "overload", "rolling", "soak", "feast"):
        for row in found.get(part, []):
            name = f"{part} {row.get('length', '')}{row.get('server', '') if part == 'feast' else ''}"
            lines.append(_latencies(name, row))
    for row in found.get("steady", []):
        lines += ["", f"Steady: the server used {row['cores']:.2f} cores. Its milliseconds by stage: {_stages(row)}."]
        lines += [f"The writer was {row['updates']['behind_s']:.2f} s behind at worst."]
        if p99s := sorted(row.get("p99_by_window", [])):
            middle = p99s[len(p99s) // 2]
            lines += [f"p99 of each {row['window_s']:.0f} s: {middle:.1f} ms in the middle, {p99s[0]:.1f} to {p99s[-1]:.1f}."]
            lines += [_slowest(row)]
    for row in found.get("overload", []):
        lines += ["", f"Overload: capacity {row['capacity']['per_second']:,.0f}/s (p99 {row['capacity']['p99_ms']:.1f} ms),"]
        lines += [f"asked {row['rate']:,.0f}/s; p99 of a 503 is {(row['shed'] or {}).get('p99_ms', float('nan')):.1f} ms."]
    for row in found.get("rolling", []):
        taken = ", ".join(f"{each:.1f}" for each in row["restarts_s"])
        lines += ["", f"Rolling: restarts of {taken} s; {row['retried']} requests were given to the other server."]
    for row in found.get("soak", []) + found.get("steady", []):
        lines += ["", f"{row['rate']:,.0f} requests/s for {row['seconds']:,.0f} s: {row['rss_mb']:.0f} MB at the end,"]
        lines += [f"{row['rss_mb_an_hour']:+.1f} MB an hour in the settled part; handles {row['handles_first']:.1f} to"]
        lines += [f"{row['handles_last']:.1f}, at most {row['handles_most']}, beside connections of callers,"]
        lines += ["{} to {} of them.".format(*row["connections"])]
    return "\n".join(lines) + "\n"


def _slowest(row: Row) -> str:
    """What the event loop did in the slowest window, beside the whole time: a slow machine runs longer, a full one waits."""
    windows = list(zip(row["p99_by_window"], row["ran_by_window"], strict=False))
    p99_ms, (ran, waited) = max(windows, key=lambda each: each[0])
    usual = [sum(each[place] for _, each in windows) / len(windows) for place in (0, 1)]
    return (
        f"The event loop ran {usual[0]:.2f} of the time and waited {usual[1]:.2f} for a core; "
        f"in the slowest window ({p99_ms:.1f} ms) {ran:.2f} and {waited:.2f}."
    )


def _fig7(rows: list[Row]) -> list[str]:
    lines = [
        "| length | server | open-loop at /s | requests | mean ms | p50 | p99 | alone, mean ms | at most /s | ms by stage |"
    ]
    lines.append("|---|" + "---|" * 9)
    for row in sorted(rows, key=lambda row: (row["length"], row["server"])):
        opened = row["open"]
        cells = [f"{row['length']:,}", row["server"], f"{row['rate']:.1f}", f"{opened['count']:,}"]
        cells += [f"{opened[name]:.1f}" for name in ("mean_ms", "p50_ms", "p99_ms")]
        cells += [f"{row['alone']['mean_ms']:.1f}", f"{row['most']['per_second']:,.0f}", _stages(row)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _stages(row: Row) -> str:
    return ", ".join(f"{stage} {ms:.2f}" for stage, ms in row["stages"].items())


def _latencies(name: str, row: Row) -> str:
    others = ", ".join(f"{count:,} x {status}" for status, count in row["others"].items()) or "none"
    cells = [name, f"{row['rate']:,.0f}", *(f"{row[key]:,.0f}" if key == "count" else f"{row[key]:.1f}" for key in _LATENCY)]
    return f"| {' | '.join([*cells, others, format(row['generator'], '.2f')])} |"


def _plot(rows: list[Row], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, (latency, throughput) = plt.subplots(1, 2, figsize=(9, 3.6))
    for server, colour in _COLOURS.items():
        of_server = sorted((row for row in rows if row["server"] == server), key=lambda row: row["length"])
        lengths = [row["length"] for row in of_server]
        for name, style in (("mean_ms", "-"), ("p99_ms", ":")):
            label = f"{server}, {name[:-3]}"
            latency.plot(lengths, [row["open"][name] for row in of_server], style, marker="o", color=colour, label=label)
        throughput.plot(lengths, [row["most"]["per_second"] for row in of_server], marker="o", color=colour, label=server)
    latency.set_ylabel("ms, open-loop at one rate")
    throughput.set_ylabel("requests a second at most")
    for axis in (latency, throughput):
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("events in the history")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
