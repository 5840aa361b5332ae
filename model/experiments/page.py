"""A result as a page: `NAME.json` in full, `NAME.md` to read, `NAME.png` to look at. Nothing on the page is typed by hand."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from model import plots
from model.experiments.arms import Json
from uic.artefact import write_atomically

_NOTHING = "–"
_SAME = 0.01


def write(result: Json, out: Path) -> list[Path]:
    """Write the three files; returns them."""
    out.mkdir(parents=True, exist_ok=True)
    name = result["experiment"]
    picture = _picture(result, out / f"{name}.png")
    write_atomically(out / f"{name}.json", json.dumps(result, indent=2) + "\n")
    write_atomically(out / f"{name}.md", page(result))
    return [out / f"{name}.md", out / f"{name}.json", picture]


def page(result: Json) -> str:
    """The page in Markdown: page.md.j2, filled in."""
    targets = result["asked"]["targets"]
    shares, writes, days = (result.get(name) for name in ("slot_shares", "slot_writes", "history_by_days"))
    environment = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)  # Markdown, not HTML
    template = environment.from_string(Path(__file__).with_name("page.md.j2").read_text(encoding="utf-8"))
    words = {
        "most": {"all": "every sample", "last": "the last"}.get(str(targets), f"at most {targets}, spread evenly,"),
        "rows": _rows(result),
        "claims": _claims(result),
        "days_tested": result["data"].get("days"),
        "by_day": _by_day(result),
        "shares": shares and _shares(shares, writes or {}),
        "writes": writes and _writes(writes),
        "days": days and _table(list(days["mean_events"]), [[f"{n:.1f}" for n in days["mean_events"].values()]]),
        "shuffled_places": max((row.get("shuffled_places", 0) for row in result["rows"]), default=0),
        "has_paper": any(row["paper"] for row in result["rows"]),
        "slot_shares": shares,
        "slot_memories": max((each["memories"] for each in (writes or {}).values()), default=0),
        "long_run": (grown := result.get("long_run")),
        "ages": grown and _ages(grown),
        "tensors": grown and _tensors(grown),
        "chosen": _chosen(result),
        "history_by_days": days,
    }
    return template.render({**result, **words})


def _rows(result: Json) -> str:
    papers = list(dict.fromkeys(column for row in result["rows"] for column in row["paper"]))
    head = ["", "AUC", "user AUC", "logloss", "lost by shuffling", "validation AUC", "best on test*", "s / run"]
    lines = []
    for row in result["rows"]:
        lines.append(
            [
                row["arm"], _spread(row["auc"]), _spread(row["user_auc"]), _spread(row["logloss"]),
                _spread(row.get("lost_by_shuffling"), sign=True), _spread(row["valid_auc"]), _spread(row.get("best_test_auc")),
                f"{sum(run['seconds'] for run in row['runs']) / len(row['runs']):.0f}",
                *(f"{row['paper'][column]:.4f}" if column in row["paper"] else _NOTHING for column in papers),
            ]
        )  # fmt: skip
    return _table([*head, *(f"paper, {column}" for column in papers)], lines)


def _by_day(result: Json) -> str | None:
    if not (days := result["data"].get("days")):
        return None
    return _table(["AUC", *days], [[row["arm"], *(_spread(row["days"][day]) for day in days)] for row in result["rows"]])


def _chosen(result: Json) -> str | None:
    if "chosen" not in result:
        return None
    rows = {row["arm"]: row for row in result["rows"]}
    lines = [
        [group, arm, *(_spread(rows[arm][name]) for name in ("valid_auc", "auc"))] for group, arm in result["chosen"].items()
    ]
    return _table(["model", "chosen by the validation", "validation AUC", "AUC"], lines)


def _claims(result: Json) -> str:
    lines = []
    has_days = bool(result["data"].get("days"))
    for claim in result["claims"]:
        lines.append(
            [
                f"{claim['better']} over {claim['worse']}", _interval(claim["auc"]), f"**{claim['auc']['verdict']}**",
                _interval(claim["user_auc"]), claim["user_auc"]["verdict"], f"{claim['repeats_for_it']} of {claim['repeats']}",
                *([f"{claim['days_for_it']} of {claim['days']}"] if has_days else []),
            ]
        )  # fmt: skip
    return _table(["claim", "AUC", "", "user AUC", "", "repeats for it", *(["days for it"] if has_days else [])], lines)


def _shares(counted: Json, written: Json) -> str:
    slots = max(len(each["shares"]) for each in counted.values())
    head = ["", "evenness", *(f"slot {place}" for place in range(1, slots + 1))]
    both = [
        (f"{arm}: {kind}", of_arm[arm])
        for arm in counted
        for kind, of_arm in (("written", written), ("counted", counted))
        if arm in of_arm
    ]
    lines = [[name, _spread(each["evenness"]), *(f"{share:.3f}" for share in each["shares"])] for name, each in both]
    return _table(head, lines)


def _writes(writes: Json) -> str:
    columns = {
        "looks_at": "an event looks at", "an_event": "an event writes", "a_memory": "all events write",
        "told_apart": "told apart", "nearby": "near the favourite", "miscounted": "miscounted", "cosine": "cosine",
    }  # fmt: skip
    lines = [[arm, *(f"{each[name]['mean']:.2f}" for name in columns)] for arm, each in writes.items()]
    return _table(["", *columns.values()], lines)


def _ages(grown: Json) -> str:
    lines = [
        [arm, *(f"{each['auc']:.4f}" for each in moments), f"{moments[-1]['moved']:.4f}"] for arm, moments in grown.items()
    ]
    events = [f"{each['events']:,} events" for each in next(iter(grown.values()))]
    return _table(["AUC after", *events, "scores moved"], lines)


def _tensors(grown: Json) -> str:
    lines = [
        [f"{arm}: {name}", *(f"{each['distance'][name]:.3f}" for each in moments[1:])]
        for arm, moments in grown.items()
        for name in moments[0]["distance"]
    ]
    events = [f"{each['events']:,} events" for each in next(iter(grown.values()))[1:]]
    return _table(["distance after", *events], lines)


def _picture(result: Json, out: Path) -> Path:
    auc = {row["arm"]: [run["test"]["auc"] for run in row["runs"]] for row in result["rows"]}
    title = f"{result['title']} ({result['data']['name']})"
    if days := result.get("history_by_days"):
        control = auc.pop("candidate only")
        lengths = {int(arm.split()[0].replace(",", "")): values for arm, values in auc.items()}
        return plots.lengths(lengths, control, {int(k): v for k, v in days["mean_events"].items()}, title, out)
    if shares := result.get("slot_shares"):
        return plots.mean_shares(_drawn(shares, result.get("slot_writes", {})), title, out)
    if grown := result.get("long_run"):
        courses = {arm: {each["events"]: each["auc"] for each in moments} for arm, moments in grown.items()}
        return plots.courses(courses, title, out)
    if result["data"].get("days"):
        by_day = {row["arm"]: {day: each["mean"] for day, each in row["days"].items()} for row in result["rows"]}
        return plots.by_day(by_day, title, out)
    return plots.repeats(auc, title, "test AUC of each repeat, and their mean", out)


def _drawn(counted: Json, written: Json) -> dict[str, list[float]]:
    """What was written, and what was counted of it where that is something else."""
    drawn = {}
    for arm, each in counted.items():
        if arm in written:
            drawn[f"{arm}: written"] = written[arm]["shares"]
        if arm not in written or written[arm]["miscounted"]["mean"] > _SAME:
            drawn[f"{arm}: counted"] = each["shares"]
    return drawn


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _spread(value: Json | None, *, sign: bool = False) -> str:
    if value is None:
        return _NOTHING
    mean = f"{value['mean']:+.4f}" if sign else f"{value['mean']:.4f}"
    return mean if value["deviation"] is None else f"{mean} ± {value['deviation']:.4f}"


def _interval(value: Json) -> str:
    return f"{value['difference']:+.4f} [{value['low']:+.4f}, {value['high']:+.4f}]"
