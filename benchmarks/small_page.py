"""SMALL.md and its picture, from what benchmarks/small.py has measured."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Found = dict[str, Any]
RAW_EVENTS, RAW_BYTES = 1000, 10
MOST_BYTES, MOST_LOSS = 1024, 0.0005
_COLOURS = {"float32": "#444444", "float16": "#2a7fb8", "int8": "#d1603d"}


def page(found: Found) -> str:
    """The text with its tables."""
    machine, data = found["machine"], found["data"]
    sizes = {each["numbers"]: each for each in found["sizes"]}
    quality = {each["numbers"]: each for each in found["quality"]}
    first = found["quality"][0]
    raw = RAW_EVENTS * RAW_BYTES
    how = (
        "`python -m benchmarks.small --bundle demo/bundle --data demo/data` (after `uic demo --out demo`), on "
        f"{machine['day']}: {machine['cores']} cores of an {machine['cpu']}, Python {machine['python']}, Debian's Redis. "
        f"Bundle {found['bundle']}, trained on {data['name']}: {first['samples']:,} test samples, each scored from its "
        "user's memory at exactly its position, as a store of each kind gives it. The interval is the central 95 % of "
        "2,000 draws of users, the same for both that are compared. Nothing here depends on the machine's speed."
    )
    counted = (
        f"Bytes a user, in stores of {found['sizes'][0]['users']:,} live users with ids of 8 digits, whose memories are "
        "those of the data's users at as many moments. Redis: its `used_memory`, after less before. RocksDB: its files "
        f"of data, compacted (LZ4). {RAW_EVENTS:,} raw behaviours of {RAW_BYTES} bytes are {raw:,} bytes. "
        "Of Redis' bytes 13 are the table of its keys, which has 16 a key just after it was doubled."
    )
    adds = sizes["int8"]["redis"] - sizes["int8"]["memory"]
    others = (
        "Every model of the same widths (embeddings of 16, everything recurrent 32 wide, 8 slots): bytes of the memory "
        f"alone. What Redis adds is a key of its own and rounding up to its allocator's sizes, here {adds:,.0f} bytes in "
        "int8. What is a sum stays in float32: the pools of `official` and `paper`, and nearly all of SDIM."
    )
    lines = [
        "# What small memories cost and save",
        "",
        how,
        "",
        "![bytes a live user, and how far probabilities are from those of float32](small.png)",
        "",
        "| numbers | AUC on test | AUC lost | 95 % interval | largest difference of a probability | mean difference |",
        "|---|---|---|---|---|---|",
    ]
    for numbers, each in quality.items():
        lines.append(
            f"| {numbers} | {each['auc']:.6f} | {each['loss']:+.6f} | {each['low']:+.6f} to {each['high']:+.6f} | "
            f"{each['largest']:.5f} | {each['mean']:.6f} |"
        )
    lines += [
        "",
        counted,
        "",
        "| numbers | alone | RocksDB | Redis, all included | ids of 36 bytes | of raw behaviours | RocksDB copy | Redis copy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for numbers, each in sizes.items():
        lines.append(
            f"| {numbers} | {each['memory']:,} | {each['rocksdb']:,.0f} | {each['redis']:,.0f} | {each['redis_long']:,.0f} | "
            f"{each['redis'] / raw:.0%} | "
            f"{each['rocksdb_copy']:,.0f} | {each['redis_copy']:,.0f} |"
        )
    lines += [
        "",
        "The paper keeps 600 million users in 2.7 TB, where the raw behaviours took 6 TB: 4.5 kB a user.",
        "",
        "| target | figure | wanted | |",
        "|---|---|---|---|",
        _target("int8 in Redis, bytes a live user with all that it adds", sizes["int8"]["redis"], MOST_BYTES, "{:,.0f}"),
        _target("the same with ids of 36 characters", sizes["int8"]["redis_long"], MOST_BYTES, "{:,.0f}"),
        _target("AUC lost by int8", quality["int8"]["loss"], MOST_LOSS, "{:.6f}"),
        _target("AUC lost by int8, upper bound of the interval", quality["int8"]["high"], MOST_LOSS, "{:.6f}"),
        _target("AUC lost by float16", quality["float16"]["loss"], MOST_LOSS, "{:.6f}"),
        "",
        others,
        "",
        "| model | preset | float32 | float16 | int8 |",
        "|---|---|---|---|---|",
    ]
    for row in found["models"]:
        lines.append(f"| {row['model']} | {row['preset']} | {row['float32']:,} | {row['float16']:,} | {row['int8']:,} |")
    wrapped = (line if line.startswith(("|", "!")) else textwrap.fill(line, 130, break_long_words=False) for line in lines)
    return "\n".join(wrapped) + "\n"


def _target(what: str, figure: float, most: float, form: str) -> str:
    return f"| {what} | {form.format(figure)} | <= {form.format(most)} | {'pass' if figure <= most else '**missed**'} |"


def figure(found: Found, apart: dict[Any, NDArray[np.float32]], path: Path) -> None:
    """Left: bytes a live user in Redis, and of raw behaviours. Right: how far probabilities are from those of float32."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    drawing, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.8))
    names = [each["numbers"] for each in found["sizes"]]
    memory = np.array([each["memory"] for each in found["sizes"]])
    redis = np.array([each["redis"] for each in found["sizes"]])
    places = np.arange(len(names))
    left.bar(places, memory, 0.55, color=[_COLOURS[name] for name in names])
    left.bar(places, redis - memory, 0.55, bottom=memory, color="#bbbbbb", label="what Redis adds")
    for place, size in zip(places, redis, strict=True):
        left.text(place, size + 220, f"{size:,.0f}", ha="center", fontsize=9)
    left.bar(len(names), RAW_EVENTS * RAW_BYTES, 0.55, color="#dddddd", hatch="//", edgecolor="#888888")
    left.text(len(names), RAW_EVENTS * RAW_BYTES + 150, f"{RAW_EVENTS * RAW_BYTES:,}", ha="center", fontsize=9)
    left.axhline(MOST_BYTES, color="#2c8a3d", linewidth=1, linestyle="--", label="goal: 1,024 bytes")
    left.set_xticks([*places, len(names)], [*names, f"{RAW_EVENTS:,} raw\nbehaviours"])
    left.set_ylabel("bytes a live user, in Redis")
    left.set_ylim(top=11_500)
    left.legend(loc="upper left", fontsize=8)
    for name in names[1:]:
        values = np.sort(apart[name])
        right.plot(values, 1 - np.arange(len(values)) / len(values), color=_COLOURS[name], label=name)
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xlabel("difference of a probability from that of float32")
    right.set_ylabel("share of test samples with more")
    right.grid(alpha=0.3)
    right.legend()
    drawing.tight_layout()
    drawing.savefig(path, dpi=120)
    plt.close(drawing)
