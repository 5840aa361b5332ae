"""The picture of `uic rollback find`: AUC and memory statistics, day by day."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

from jobs.rollback.change import Estimate

mpl.use("Agg")
from matplotlib import pyplot as plt  # the backend must be chosen first


def plot(
    names: Sequence[str], aucs: Sequence[Estimate], statistics: Mapping[str, Sequence[float]], broken: str | None, out: Path
) -> Path:
    """One panel for the AUC with its interval, one for each statistic; a line where something broke."""
    figure, panels = plt.subplots(
        1 + len(statistics), 1, figsize=(8, 3 + 1.6 * len(statistics)), sharex=True, layout="constrained"
    )
    places = list(range(len(names)))
    below = [each.auc - each.low for each in aucs]
    above = [each.high - each.auc for each in aucs]
    panels[0].errorbar(places, [each.auc for each in aucs], yerr=[below, above], marker="o", capsize=4)
    panels[0].axhline(0.5, color="gray", linestyle=":")
    panels[0].set(ylabel="AUC", title="Labelled samples, scored from the memories as of each day's begin")
    for panel, (name, values) in zip(panels[1:], statistics.items(), strict=True):
        panel.plot(places, values, marker="o")
        panel.set(ylabel=name, ylim=(0, None))
    if broken is not None:
        for panel in panels:
            panel.axvline(names.index(broken), color="tab:red", linestyle="--")
        panels[0].annotate(f" {broken}: something broke", (names.index(broken), panels[0].get_ylim()[0]), color="tab:red")
    panels[-1].set_xticks(places, names, rotation=30)
    partial = out.with_name(f".{out.name}.partial.png")
    figure.savefig(partial, dpi=120)
    plt.close(figure)
    partial.replace(out)
    return out
