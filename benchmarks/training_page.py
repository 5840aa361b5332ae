"""TRAINING.md and its picture, from the rounds that benchmarks/training.py has measured."""

import datetime
import os
import platform
import textwrap
from pathlib import Path

import numpy as np
import torch

Round = dict[str, float]  # seconds of a batch by model
_SAME, _DEFAULT = "FuxiCTR {}, same", "FuxiCTR {}, default"


def write(found: dict[int, list[Round]], *, users: int, length: int, out: Path | None) -> str:
    """The tables, one for each number of threads; with a folder, the page and its picture too."""
    tables = [line for threads, rounds in found.items() for line in _table(threads, rounds, users)]
    if out is None:
        return "\n".join(tables)
    out.mkdir(parents=True, exist_ok=True)
    page = out / "TRAINING.md"
    page.write_text(_page(found, tables, users, length))
    threads, rounds = next(iter(found.items()))
    _picture(rounds, users, f"{users} histories of {length} events, {threads} thread(s)", out / "training.png")
    return f"{page}\n{page.read_text()}"


def _page(found: dict[int, list[Round]], tables: list[str], users: int, length: int) -> str:
    count = len(next(iter(found.values())))
    machine = f"{os.cpu_count()} cores of an {_cpu()}, Python {platform.python_version()}, PyTorch {torch.__version__}"
    sizes = f"{users} histories of {length} events"
    how = (
        f"`python -m benchmarks.training --threads {' '.join(map(str, found))} --rounds {count} --out benchmarks`, on "
        f"{datetime.datetime.now(datetime.UTC).date()}: {machine}. Forward and backward of {sizes}, "
        "one target a history, tables of 10,000 items and 100 categories, embeddings of 16, everything recurrent 32 wide, head "
        f"of 200 and 80. Rounds go through all models in turn; the median of {count} counts, the quartiles stand beside it. "
        "The optimiser is left out."
    )
    theirs = (
        "FuxiCTR 2.3.10 comes from PyPI into an environment of its own beside the same PyTorch; its models are those of its "
        "wheel (`model_zoo.LongCTR`). *Same*: with the layers that ours have too, an MLP of 80 and 40 with sigmoid and softmax "
        "as attention, PReLU, sums of events in DIEN. *Default*: as its authors set it, at the same sizes: Dice and no softmax "
        "in DIN, a bilinear attention and batch norm in DIEN, which is less to compute."
    )
    scans = (
        "Of MIMN there are three scans with the same numbers (`model/nn/fused/`, `tests/model/test_fused.py`): compiled by "
        "numba, one user after the other, which is the default; in operations of PyTorch, which other devices and numbers than "
        "float32 take; and step by step, with the gradient left to autograd. Compiling takes some seconds once a machine, "
        "before the first round."
    )
    targets = ["| target | figure | wanted | |", "|---|---|---|---|"]
    for threads, rounds in found.items():
        targets += _targets(threads, _medians(rounds))
    lines = [
        "# How fast the models train",
        "",
        how,
        "",
        theirs,
        "",
        scans,
        "",
        "![samples a second](training.png)",
        "",
        *targets,
        "",
    ]
    kept = (
        line if line.startswith(("|", "!")) else textwrap.fill(line, 130, break_long_words=False) for line in [*lines, *tables]
    )
    return "\n".join(kept) + "\n"


def _targets(threads: int, taken: Round) -> list[str]:
    rows = []
    with_threads = f"{threads} thread" + "s" * (threads > 1)
    for name in ("din", "dien"):
        for other in (_SAME.format(name), _DEFAULT.format(name)):
            if name in taken and other in taken:
                figure = taken[other] / taken[name]
                said = "pass" if figure >= 1 else "**missed**"
                rows.append(f"| samples/s of our {name} over {other}, {with_threads} | {figure:.2f} | >= 1 | {said} |")
    if "mimn" in taken and "dien" in taken:
        figure = taken["mimn"] / taken["dien"]
        rows.append(
            f"| mimn's time over dien's, {with_threads} | {figure:.2f} | <= 2 | {'pass' if figure <= 2 else '**missed**'} |"
        )
    return rows


def _table(threads: int, rounds: list[Round], users: int) -> list[str]:
    taken = _medians(rounds)
    lines = [f"| {threads} thread(s) | ms a batch | quartiles | samples/s | of dien's time |", "|---|---|---|---|---|"]
    for name, seconds in taken.items():
        low, high = (1000 * np.quantile([each[name] for each in rounds], share) for share in (0.25, 0.75))
        beside = f"{seconds / taken['dien']:.2f}" if "dien" in taken else ""
        lines.append(f"| {name} | {1000 * seconds:.1f} | {low:.1f} to {high:.1f} | {users / seconds:,.0f} | {beside} |")
    return [*lines, ""]


def _medians(rounds: list[Round]) -> Round:
    return {name: float(np.median([each[name] for each in rounds])) for name in rounds[0]}


def _cpu() -> str:
    names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return names[0] if names else platform.machine()


def _picture(rounds: list[Round], users: int, title: str, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    rates = {name: users / seconds for name, seconds in sorted(_medians(rounds).items(), key=lambda each: -each[1])}
    drawing, axes = plt.subplots(figsize=(8, 0.32 * len(rates) + 1.1))
    colours = ["#d1603d" if name.startswith("FuxiCTR") else "#2a7fb8" for name in rates]
    bars = axes.barh(list(rates), list(rates.values()), color=colours)
    axes.bar_label(bars, [f"{rate:,.0f}" for rate in rates.values()], padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(right=2 * max(rates.values()))
    axes.set_xlabel("samples a second, forward and backward")
    axes.set_title(title, fontsize=10)
    drawing.tight_layout()
    drawing.savefig(path, dpi=110)
    plt.close(drawing)
