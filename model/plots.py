"""Plots of trained models, as PNG files."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

mpl.use("Agg")
from matplotlib import pyplot as plt  # the backend must be chosen first
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


def utilization(runs: list[tuple[str, NDArray[np.float32]]], out: Path) -> Path:
    """Per-user sorted shares of the slots [P, M] of each run, most written slot first: mean, and the middle 80 % as a band."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, shares in runs:
        places = np.arange(1, shares.shape[1] + 1)
        low, high = np.quantile(shares, [0.1, 0.9], axis=0)
        (line,) = axes.plot(places, shares.mean(axis=0), marker="o", label=name)
        axes.fill_between(places, low, high, alpha=0.15, color=line.get_color())
        axes.set_xticks(places)
    axes.axhline(1 / runs[0][1].shape[1], color="gray", linestyle=":", label="all slots alike")
    axes.set(xlabel="slot, sorted by share within each memory", ylabel="share of writes", ylim=(0, None))
    axes.set_title("Slot utilisation")
    axes.legend()
    return _save(figure, out)


def mean_shares(arms: dict[str, list[float]], title: str, out: Path) -> Path:
    """The mean share of the most written slot, of the second, and so on, of each arm."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, shares in arms.items():
        axes.plot(np.arange(1, len(shares) + 1), shares, marker="o", label=name)
        axes.axhline(1 / len(shares), color="gray", linestyle=":")
    axes.set(xlabel="slot, sorted by share within each memory", ylabel="share of writes", ylim=(0, None), title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return _save(figure, out)


def epochs(runs: list[tuple[str, list[float]]], out: Path) -> Path:
    """Validation AUC over the epochs of each run."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, auc in runs:
        axes.plot(np.arange(1, len(auc) + 1), auc, marker="o", label=name)
    axes.set(xlabel="epoch", ylabel="validation AUC")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("Training")
    axes.legend()
    return _save(figure, out)


def bars(
    rows: dict[str, float], title: str, label: str, out: Path, *, baseline: float | None = None, form: str = "{:.4f}"
) -> Path:
    """One bar a row, with its value in this format; a dotted line at the baseline."""
    figure, axes = plt.subplots(figsize=(7, 0.6 + 0.55 * len(rows)), layout="constrained")
    drawn = axes.barh(list(rows), list(rows.values()), color="tab:blue")
    axes.bar_label(drawn, fmt=form, padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    if baseline is not None:
        axes.axvline(baseline, color="gray", linestyle=":")
        axes.set_xlim(left=min(0.4, *rows.values()))
    axes.set(xlabel=label, title=title)
    return _save(figure, out)


def repeats(rows: dict[str, list[float]], title: str, label: str, out: Path) -> Path:
    """Every repeat of each row as a dot, and their mean as a line, with its figure at the right."""
    width = 5.0 + 0.07 * max(map(len, rows))  # names of rows take their room from none of the dots
    figure, axes = plt.subplots(figsize=(width, 0.9 + 0.38 * len(rows)), layout="constrained")
    for place, values in enumerate(rows.values()):
        axes.plot(values, [place] * len(values), "o", color="tab:blue", alpha=0.5)
        axes.plot([float(np.mean(values))], [place], "|", color="black", markersize=18)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.margins(y=0.8 / len(rows))
    axes.invert_yaxis()
    means = axes.secondary_yaxis("right")
    means.set_yticks(range(len(rows)), [f"{np.mean(values):.4f}" for values in rows.values()])
    means.tick_params(length=0)
    axes.grid(axis="x", alpha=0.3)
    axes.set(xlabel=label)
    figure.suptitle(title, fontsize="medium")  # over the names of the rows too, or long ones are cut
    return _save(figure, out)


def lengths(auc: dict[int, list[float]], control: list[float], days: dict[int, float], title: str, out: Path) -> Path:
    """AUC over the events of a history that are seen, with every repeat; beside it how histories grow by days."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot(list(auc), [float(np.mean(each)) for each in auc.values()], marker="o", label="mean of the repeats")
    for length, each in auc.items():
        left.plot([length] * len(each), each, ".", color="gray", alpha=0.6)
    left.axhline(float(np.mean(control)), color="gray", linestyle=":", label="candidate only")
    left.set(xscale="log", xlabel="latest events of the history that are seen", ylabel="test AUC", title=title)
    left.set_xticks(list(auc), [f"{length:,}" for length in auc])
    left.minorticks_off()
    left.legend()
    right.plot(list(days), list(days.values()), marker="o")
    right.set(xlabel="days kept", ylabel="events a user", title="Average history length of the test's users", ylim=(0, None))
    return _save(figure, out)


def courses(auc: dict[str, dict[int, float]], title: str, out: Path) -> Path:
    """AUC of each model over how many events its memories hold."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, of_events in auc.items():
        axes.plot(list(of_events), list(of_events.values()), marker="o", label=name)
    ticks = list(next(iter(auc.values())))
    axes.set(xscale="log", xlabel="events in the memory (median of the users)", ylabel="test AUC", title=title)
    axes.set_xticks(ticks, [f"{events:,}" for events in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    return _save(figure, out)


def by_day(auc: dict[str, dict[str, float]], title: str, out: Path) -> Path:
    """AUC of each model on each day that tested it."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for number, (name, of_days) in enumerate(auc.items()):
        # Ten colours come again for the eleventh model, with another mark.
        axes.plot(list(of_days), list(of_days.values()), marker="os^Dv"[number // 10], label=name)
    axes.set(xlabel="tested day, trained on all before it", ylabel="test AUC", title=title)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center")
    return _save(figure, out)


def agreement(stored: NDArray[np.float32], offline: NDArray[np.float32], out: Path) -> Path:
    """Each sample's probability from the stored bytes against the offline one, and the histogram of their differences."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    left.scatter(offline, stored, s=3, alpha=0.3, rasterized=True)
    left.plot([0, 1], [0, 1], color="gray", linestyle=":")
    left.set(xlabel="offline probability", ylabel="probability from the stored memory", title="Every test sample")
    difference = np.abs(stored - offline)
    right.hist(np.maximum(difference, 1e-9), bins=np.logspace(-9, -3, 49))
    right.axvline(1e-4, color="tab:red", linestyle=":", label="limit")
    right.set(xscale="log", xlabel="absolute difference", ylabel="samples", title="Difference")
    right.legend()
    return _save(figure, out)


def _save(figure: Figure, out: Path) -> Path:
    partial = out.with_name(f".{out.stem}.partial{out.suffix}")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(partial, dpi=120)
    plt.close(figure)
    partial.replace(out)
    return out
