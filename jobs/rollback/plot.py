"""The picture of `uic rollback find`: the AUC of each kept day's memories, what each day changed, and what it was made of.

Memories are as of a moment, at the begin of a day or now: a dot at a tick. Between two ticks are the events of a day: a bar.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

from jobs.rollback.find import NOW, Found

mpl.use("Agg")
from matplotlib import pyplot as plt  # the backend must be chosen first

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _BROKEN, _QUIET = "#1f4e79", "#c8102e", "#9fb6cc"
_SOURCES = ("#9fb6cc", "#e0a030", "#7a9a5a", "#8a6fae", "#b0b0b0")
_HEAD = "Labelled samples, scored from the memories as of each day's begin"


def plot(found: Found, out: Path) -> Path:
    """Draw it; the file is replaced as a whole."""
    has_sources = len({name for place in found.places for name in place.sources}) > 1
    rows: list[Any] = [["auc"] * 3, ["step"] * 3, *([["sources"] * 3] if has_sources else []), ["slots", "norm", "change"]]
    heights = [3.0, 1.7, *([1.3] if has_sources else []), 1.5]
    figure, panels = plt.subplot_mosaic(
        rows,
        figsize=(10, 1.25 * sum(heights)),
        layout="constrained",
        gridspec_kw={"height_ratios": heights, "hspace": 0.08},
    )
    _draw_aucs(panels["auc"], found)
    _draw_steps(panels["step"], found)
    if has_sources:
        _draw_sources(panels["sources"], found)
    places = range(len(found.places))
    for name, title, values in (
        ("slots", "slots that writes spread over", [place.effective for place in found.places]),
        ("norm", "norm of a slot", [place.norm for place in found.places]),
        ("change", "change of the state by an event", [place.update for place in found.places]),
    ):
        panels[name].plot(places, values, marker="o", markersize=4, color=_INK)
        panels[name].set_title(title, fontsize=10)
        panels[name].set_ylim(0, 1.15 * max(*values, 1e-9))
    for name, panel in panels.items():
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_xlim(-0.4, len(found.places) - 0.6)
        is_small = name in ("slots", "norm", "change")
        panel.set_xticks(places, [_tick(place.day, is_small) for place in found.places], fontsize=8 if is_small else 9)
    partial = out.with_name(f".{out.name}.partial.png")
    figure.savefig(partial, dpi=120)
    plt.close(figure)
    partial.replace(out)
    return out


def _draw_aucs(panel: "Axes", found: Found) -> None:
    aucs = [place.auc for place in found.places]
    low, high = min(each.low for each in aucs), max(each.high for each in aucs)
    margin = 0.12 * max(high - low, 0.01)
    panel.set_ylim(low - margin, high + 2 * margin)
    panel.set_title(_HEAD, loc="left", fontsize=11)
    panel.set_ylabel("AUC, 95 %")
    around = [[each.auc - each.low for each in aucs], [each.high - each.auc for each in aucs]]
    panel.errorbar(range(len(aucs)), [each.auc for each in aucs], yerr=around, marker="o", capsize=4, color=_INK)
    if found.broken is None:
        panel.text(0.01, 0.93, "nothing broke", transform=panel.transAxes, va="top", color=_INK)
    for place, step in enumerate(found.steps):
        if step.is_break:
            panel.axvspan(place, place + 1, color=_BROKEN, alpha=0.12, linewidth=0)
    if found.broken is not None:
        begin = [place.day for place in found.places].index(found.broken)
        is_left = begin > len(aucs) / 2
        panel.text(
            begin + (-0.06 if is_left else 1.06), high + margin, f"{found.broken}: something broke on this day",
            color=_BROKEN, va="center", ha="right" if is_left else "left",
        )  # fmt: skip


def _draw_steps(panel: "Axes", found: Found) -> None:
    """What the events of each day changed: a bar, and how far up all draws but the tolerated ones went."""
    panel.axhline(0, color="black", linewidth=0.8)
    for place, step in enumerate(found.steps):
        colour = _BROKEN if step.is_break else _QUIET
        panel.bar(place + 0.5, step.change, width=0.7, color=colour)
        panel.plot([place + 0.5] * 2, [step.change, step.at_most], color=_INK, linewidth=1.2)
        panel.plot([place + 0.38, place + 0.62], [step.at_most] * 2, color=_INK, linewidth=1.2)
    panel.set_ylabel("change of AUC")
    panel.set_title("what each day's events changed, and at most: a day whose line ends below 0 broke something",
                    loc="left", fontsize=10)  # fmt: skip


def _draw_sources(panel: "Axes", found: Found) -> None:
    """The share of each source in the events of each day."""
    names = list(dict.fromkeys(name for place in found.places for name in sorted(place.sources)))
    for place, at in enumerate(found.places[1:], 1):
        bottom = 0.0
        for number, name in enumerate(names):
            share = at.sources.get(name, 0.0)
            panel.bar(place - 0.5, share, bottom=bottom, width=0.7, color=_SOURCES[min(number, len(_SOURCES) - 1)],
                      label=name if place == 1 else None)  # fmt: skip
            bottom += share
    panel.set_ylabel("events")
    panel.set_ylim(0, 1)
    shift = found.shift
    since = "" if shift is None else f"; on {shift.day[5:]} {shift.source} has {shift.after:.0%}, {shift.before:.0%} before"
    panel.set_title(f"share of the events by source{since}", loc="left", fontsize=10)
    panel.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9)


def _tick(day: str, is_small: bool) -> str:
    """A day as a tick shows it.

    >>> _tick("2026-11-02", False), _tick("2026-11-02", True)
    ('11-02', '2')
    """
    if day == NOW:
        return NOW
    return day[8:].lstrip("0") if is_small else day[5:]
