"""The report page of the demo: figures, plots, and what to think of them."""

import json
import platform
from pathlib import Path
from typing import Any

from uic.artefact import write_atomically

_TEMPLATE = Path(__file__).with_name("report.html.j2")
_PLOTS = {
    "controls.png": "AUC of the model and of its controls on the test samples. Dotted: guessing.",
    "agreement.png": "Each test sample scored from the bytes that the stream stored, against the offline forward pass.",
    "training.png": "Validation AUC by epoch.",
    "utilization.png": "Shares of writes, slots sorted within each memory, with and without the regulariser (paper: Fig. 6).",
    "bytes.png": "Bytes of one memory against 10 bytes for each raw behaviour.",
}


def summary_rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures of the summary, in words."""
    return [
        ("test samples scored from stored memories", f"{figures['samples']:,}"),
        ("largest difference to the offline probability", f"{figures['largest_difference']:.1e} (limit 1e-4)"),
        ("memories verified against the numpy oracle", f"{figures['verified_users']:,} users, all equal"),
        ("events streamed", f"{figures['events']:,} at {figures['events_per_s']:,.0f} events/s"),
        ("bytes a user, memory", f"{figures['bytes_per_user']:,.0f}, whatever the history"),
        ("bytes a user, raw behaviours at 10 bytes each", f"{figures['raw_bytes_per_user']:,.0f} on average here"),
        ("a memory is smaller from", f"{figures['break_even_events']:,.0f} behaviours on"),
        ("memory over raw at 1,000 behaviours", f"{figures['bytes_per_user'] / 10_000:.2f}"),
        ("time", f"{figures['total_s']:.0f} s"),
    ]  # fmt: skip


def write_report(folder: Path, figures: dict[str, Any], seconds: dict[str, float]) -> Path:
    """Write report.html, figures.json and the last plots into `folder`; returns the page."""
    import jinja2

    from model import plots

    auc = {name: row["auc"] for name, row in figures["rows"].items()}
    plots.bars(auc, f"Test AUC ({figures['label']})", "AUC", folder / "controls.png", baseline=0.5)
    memory = figures["bytes_per_user"]
    sizes = {"memory, any history": memory} | {f"raw, {n:,} behaviours": 10.0 * n for n in (100, 300, 1000)}
    plots.bars(sizes, "Bytes a user", "bytes", folder / "bytes.png", form="{:,.0f}")
    kept = {name: value for name, value in figures.items() if name not in ("users", "stats")}
    write_atomically(folder / "figures.json", json.dumps({**kept, "seconds": seconds}, indent=2) + "\n")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        rows=figures["rows"],
        label=figures["label"],
        leaks=figures["leak_auc"],
        summary=summary_rows(figures),
        seconds=seconds,
        plots=_PLOTS,
        machine=f"{platform.machine()}, {platform.system()} {platform.release()}, Python {platform.python_version()}",
    )
    write_atomically(folder / "report.html", page)
    return folder / "report.html"
