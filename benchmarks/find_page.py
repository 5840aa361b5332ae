"""The page of benchmarks/find.py, from its result.json and nothing else."""

import textwrap
from collections.abc import Sequence
from statistics import mean
from typing import Any

Tried = dict[str, Any]  # JSON


def page(found: dict[str, Any]) -> str:
    """README.md: the question, how often the answer was right, two pictures, every try, and how to repeat it."""
    tries: list[Tried] = found["tries"]
    first = tries[0]
    how = (
        f"`{found['command']}`, on {found['day']}: {found['machine']}, {found['seconds'] / 60:.0f} minutes, other work beside "
        f"it; `find` itself took {mean(each['seconds'] for each in tries):.0f} s a stream. The bundle's validation AUC is "
        f"{found['validation_auc']:.3f}. {first['samples']:,} samples of {first['users']:,} users in the first stream."
    )
    reading = (
        "*of the events*: the farm's share from then on. *that day*: how the events of the day on which it joined changed the "
        "AUC, and in brackets what all draws of users but the tolerated ones stayed below: a day is named where that is below "
        "0, and the AUC has fallen by 0.005 at least."
    )
    lines = [
        f"# {found['title']}",
        "",
        *_wrapped(found["about"]),
        "",
        *_summary(tries),
        "",
        "A clean stream, and the last farm of the table in the same stream (seed 1):",
        "",
        "![the clean stream](clean.png)",
        "",
        "![with a farm](farm.png)",
        "",
        *_wrapped(reading),
        "",
        "| seed | farm | of the events | joins | named | that day | AUC as of each kept day's begin, and at the end |",
        "|---|---|---|---|---|---|---|",
        *map(_row, tries),
        "",
        *_wrapped(how),
    ]
    return "\n".join(lines) + "\n"


def _summary(tries: Sequence[Tried]) -> list[str]:
    clean = [each for each in tries if each["farm"] is None]
    alarms = sum(each["named"] is not None for each in clean)
    lines = [
        "| farm | of the events | streams | named with its day | another day named | nothing named |",
        "|---|---|---|---|---|---|",
        f"| none | 0% | {len(clean)} | | **{alarms}** (false alarms) | {len(clean) - alarms} |",
    ]
    for farm in _farms(tries):
        some = [each for each in tries if each["farm"] == farm]
        right = sum(each["named"] == each["joins"] for each in some)
        none = sum(each["named"] is None for each in some)
        lines.append(
            f"| {_name(farm)} | {mean(each['of_events'] for each in some):.0%} | {len(some)} | **{right}** "
            f"| {len(some) - right - none} | {none} |"
        )
    return lines


def _farms(tries: Sequence[Tried]) -> list[dict[str, Any]]:
    farms: list[dict[str, Any]] = []
    for each in tries:
        if each["farm"] is not None and each["farm"] not in farms:
            farms.append(each["farm"])
    return farms


def _name(farm: dict[str, Any]) -> str:
    return f"{farm['clicks']} clicks a day for {farm['share']:.0%} of the users"


def _row(each: Tried) -> str:
    aucs = " ".join(f"{auc:.3f}" for auc in each["aucs"])
    farm = each["farm"]
    name = "none" if farm is None else f"{farm['share']:.0%} x {farm['clicks']}"
    day = "" if farm is None else f"{each['change']:+.4f} ({each['at_most']:+.4f})"
    named = each["named"] or "nothing"
    if each["named"] != each["joins"]:
        named = f"**{named}**"
    cells = (each["seed"], name, f"{each['of_events']:.0%}", each["joins"] or "", named, day, aucs)
    return f"| {' | '.join(map(str, cells))} |"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 130, break_long_words=False, break_on_hyphens=False)
