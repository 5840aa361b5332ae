"""What a run found, held against the targets: a table for people and a plot."""

from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]  # JSON
_COLOURS = {"limit": "#888888", "hashmap": "#2266aa", "rocksdb": "#cc7722"}


class Target(NamedTuple):
    """`figure` is to be at least `wanted`, or at most where `is_most`."""

    what: str
    figure: float
    wanted: float
    is_most: bool = False

    @property
    def is_met(self) -> bool:
        return self.figure <= self.wanted if self.is_most else self.figure >= self.wanted


def targets(found: dict[str, Any]) -> list[Target]:
    """Every target for which the run has figures. Rates are compared in units of the machine's speed when they were taken."""
    made = []
    limits = {(row["users"], row["distribution"]): _relative(row) for row in found.get("limit", [])}
    batched = {(row["users"], row["distribution"], row["backend"]): _relative(row) for row in found.get("batched", [])}
    for (users, distribution, backend), rate in batched.items():
        if (users, distribution) in limits:
            wanted = 0.5 if backend == "hashmap" else 0.25
            what = f"batched / limit, {backend}, {users:,} users, {distribution}"
            made.append(Target(what, rate / limits[users, distribution], wanted))
    for distribution in ("uniform", "zipf"):
        small, large = (batched.get((users, distribution, "hashmap")) for users in (10_000, 1_000_000))
        if small and large:
            made.append(Target(f"1M users / 10k users, hashmap, {distribution}", large / small, 0.8))
    for part, wanted, words in (("plain", 50, "plain PyFlink job"), ("per-event", 6, "per-event plan")):
        for row in found.get(part, []):
            fast = batched.get((row["users"], row["distribution"], "hashmap"))
            if fast:
                made.append(Target(f"batched / {words}, {row['users']:,} users", fast / _relative(row), wanted))
    for row in found.get("latency", []):
        made.append(Target("event to readable in the store, p50 ms", row["p50_ms"], 15, True))
        made.append(Target("event to readable in the store, p99 ms", row["p99_ms"], 50, True))
    for row in found.get("recovery", []):
        if row["users"] <= 100_000:
            what = f"kill -9 to the first snapshot, {row['users']:,} users, {row['backend']}, s"
            made.append(Target(what, row["seconds"], 15, True))
    return made


def _relative(row: Row) -> float:
    """Events per CPU-second in units of the machine's speed at that time."""
    return float(row["per_cpu_second"] / row["speed"])


def write(found: dict[str, Any], out: Path) -> None:
    """table.md, profile.txt and plot.png beside result.json."""
    (out / "table.md").write_text(_table(found))
    if "profile" in found:
        parts = [
            f"{row['distribution']}, {row['per_event_us']:.1f} us an event\n{row['functions']}" for row in found["profile"]
        ]
        (out / "profile.txt").write_text("\n".join(parts))
    if "batched" in found:
        _plot(found, out / "plot.png")


def _table(found: dict[str, Any]) -> str:
    machine = found["machine"]
    lines = [
        f"{machine['cores']} x {machine['cpu']}, Python {machine['python']}" + (" (quick: says little)" * machine["quick"])
    ]
    lines += ["", "| target | figure | wanted | |", "|---|---|---|---|"]
    for each in targets(found):
        sign = "<=" if each.is_most else ">="
        lines.append(
            f"| {each.what} | {each.figure:.2f} | {sign} {each.wanted:g} | {'pass' if each.is_met else '**missed**'} |"
        )
    lines += [
        "",
        "| part | users | distribution | backend | events per CPU-s | machine's speed | events/s | where the CPU time goes |",
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    for part in ("limit", "batched", "per-event", "plain"):
        lines += [_throughput(part, row) for row in found.get(part, [])]
    for part, words in _OTHERS.items():
        lines += ["", *(f"* {part}: " + words.format(**row) for row in found.get(part, []))]
    return "\n".join(lines) + "\n"


_OTHERS = {
    "checkpoint": "{users:,} users, {distribution}, {backend}: {seconds:.1f} s, {bytes:,} bytes; "
    "{rate_before:,.0f} events/s before, {rate_during:,.0f} during",
    "recovery": "{users:,} users, {backend}: {seconds:.1f} s, from a checkpoint of {checkpoint_bytes:,} bytes",
    "latency": "{users:,} users: p50 {p50_ms:.1f}, p90 {p90_ms:.1f}, p99 {p99_ms:.1f}, longest {max_ms:.0f} ms "
    "over {memories:,} memories",
    "profile": "{distribution}: {per_event_us:.1f} CPU-us an event in Python (profile.txt)",
}


def _throughput(part: str, row: Row) -> str:
    split = ", ".join(f"{name} {100 * share:.0f}%" for name, share in list(row.get("threads", {}).items())[:6])
    cells = (part, f"{row['users']:,}", row["distribution"], row.get("backend", ""))
    rate = row.get("per_second", row["events"] / row["seconds"])
    return f"| {' | '.join(cells)} | {row['per_cpu_second']:,.0f} | {row['speed']:,.0f} | {rate:,.0f} | {split} |"


def _plot(found: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for axis, distribution in zip(axes, ("uniform", "zipf"), strict=True):
        lines = {"limit": found.get("limit", [])}
        for backend in ("hashmap", "rocksdb"):
            lines[backend] = [row for row in found["batched"] if row["backend"] == backend]
        for name, rows in lines.items():
            points = [(row["users"], row["per_cpu_second"]) for row in rows if row["distribution"] == distribution]
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", label=name, color=_COLOURS[name])
        axis.set_xscale("log")
        axis.set_ylim(bottom=0)
        axis.set_title(distribution)
        axis.set_xlabel("users")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("events per CPU-second")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
