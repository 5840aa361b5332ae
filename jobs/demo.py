"""`uic demo`: the whole product on MovieLens 100K, from the raw log to scores from stored memories, and a report of it."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from jobs.settings import Settings
from uic import artefact
from uic.errors import UicError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from jobs.run import Summary
    from model.data.dataset import Dataset
    from model.training.evaluate import Scored
    from model.training.run import Run
    from uic.bundle import Bundle

KIND = "demo"
PROBABILITY_LIMIT = 1e-4
RAW_BYTES_PER_BEHAVIOUR = 10  # the paper's raw behaviours, derived from its 6 TB for 600 M users of 1,000 each


class DemoFailed(UicError):
    """The demo ran, but a figure that must hold does not."""


@dataclass
class Demo:
    """What the demo has made and measured so far; the report and the summary are written from it."""

    folder: Path
    console: Console
    seconds: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    def stage(self, name: str, work: Callable[[], Any]) -> Any:
        """Run one part with its heading and its time."""
        self.console.rule(f"[bold]{name}", align="left")
        started = time.monotonic()
        result = work()
        self.seconds[name] = time.monotonic() - started
        return result


def demo_command(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("demo"),
    source: Annotated[Path | None, typer.Option(help="MovieLens 100K folder or zip; default: fetched.")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Train little: the figures of quality mean nothing then.")] = False,
    epochs: Annotated[int, typer.Option(help="Epochs of the model.")] = 6,
) -> None:
    """Prepare, train, export, stream every event through Flink, score from the stored bytes, verify, report. A few minutes.

    Run it again whenever you like: the dataset and finished trainings are used again, everything else is made anew.
    """
    settings: Settings = ctx.obj
    artefact.check_may_write(folder, KIND, replace=True)
    folder.mkdir(parents=True, exist_ok=True)
    artefact.mark(folder, KIND)
    demo = Demo(folder, Console(soft_wrap=True, highlight=False))
    started = time.monotonic()
    dataset = demo.stage("1 prepare MovieLens 100K", lambda: _prepare(demo, source))
    run = demo.stage("2 train MIMN", lambda: _train(demo, settings, dataset, "mimn", epochs=1 if fast else epochs))
    demo.stage("3 train its controls", lambda: _train_controls(demo, settings, dataset, run, fast=fast))
    bundle = demo.stage("4 export to ONNX", lambda: _export(demo, run))
    scored = demo.stage("5 score offline", lambda: _score_offline(demo, dataset, run, 200 if fast else 2000))
    demo.stage("6 stream every event through Flink", lambda: _stream(demo, settings, dataset, scored))
    demo.stage("7 score from the stored bytes", lambda: _score_stored(demo, bundle, scored))
    demo.stage("8 verify every memory", lambda: _verify(demo, settings))
    demo.figures["total_s"] = time.monotonic() - started
    _finish(demo)


def _prepare(demo: Demo, source: Path | None) -> "Dataset":
    from jobs.data import prepare_ml100k, summarise
    from model.data.dataset import KIND as DATASET
    from model.data.dataset import Dataset

    path = demo.folder / "data"
    if artefact.kind_of(path) == DATASET and source is None:
        demo.console.print(f"used again: {path}")
        dataset = Dataset.open(path)
    else:
        dataset = prepare_ml100k(path, source=source, overwrite=True, report=demo.console.print)
    summarise(demo.console, dataset)
    demo.figures |= {"label": dataset.label, "leak_auc": dataset.stats["leak_auc"]["test"], "stats": dataset.stats}
    return dataset


def _train(demo: Demo, settings: Settings, dataset: "Dataset", name: str, **asked: Any) -> "Run":
    from jobs.train import open_run, train_config, train_with_progress
    from model.training.run import KIND as RUN

    config = train_config(settings, **asked)
    path = demo.folder / "runs" / name

    def open_it(*, overwrite: bool) -> "Run":
        return open_run(path, dataset, config, lambda: settings.model.variant().to_json(), overwrite=overwrite)

    try:
        run = open_it(overwrite=False)
    except UicError:
        # Trained with other settings, or on another dataset: begin anew.
        run = open_it(overwrite=artefact.kind_of(path) == RUN)
    train_with_progress(demo.console, run, dataset)
    return run


def _train_controls(demo: Demo, settings: Settings, dataset: "Dataset", run: "Run", *, fast: bool) -> None:
    """A model without histories, and one without the utilisation loss for the plot of slot utilisation."""
    from jobs.train import describe, plot_utilization
    from model import plots

    demo.console.print("candidate only: the same model without any history")
    without = _train(demo, settings, dataset, "candidate-only", epochs=1 if fast else 2, history="none")
    demo.console.print("without the regulariser: L_reg times 0, for the plot of slot utilisation")
    bare = _train(demo, settings, dataset, "without-regulariser", epochs=1 if fast else 3, regulariser_weight=0.0)
    plot_utilization([run.path, bare.path], demo.folder / "report" / "utilization.png")
    curves = [(describe(each.plan), [entry["valid"]["auc"] for entry in each.metrics["epochs"]]) for each in (run, bare)]
    curves.append(("candidate only", [entry["valid"]["auc"] for entry in without.metrics["epochs"]]))
    plots.epochs(curves, demo.folder / "report" / "training.png")


def _export(demo: Demo, run: "Run") -> "Bundle":
    from onnx_export.bundle import export_run
    from onnx_export.parity import check_parity, record_parity

    bundle = export_run(run, demo.folder / "bundle", replace=True)
    parity = check_parity(run.best_memory(), bundle)
    record_parity(bundle, parity)
    for pair, value in parity.excess.items():
        demo.console.print(f"  {pair:22} largest difference {value:.3f} of the tolerance, over {parity.events} events")
    if parity.note is not None:
        demo.console.print(f"  {parity.note}")
    if not parity.holds:
        raise DemoFailed(f"parity of numpy, PyTorch and ONNX Runtime does not hold: {'; '.join(parity.faults)}")
    demo.figures["parity"] = parity.excess
    return bundle


def _score_offline(demo: Demo, dataset: "Dataset", run: "Run", most: int) -> "Scored":
    """Every test sample from the batched forward pass, and the controls."""
    from jobs.train import evaluate
    from model.training.evaluate import score
    from model.training.histories import Histories

    rows = evaluate(run.path, dataset, "test", controls=True, most=most)["rows"]
    without = evaluate(demo.folder / "runs" / "candidate-only", dataset, "test", controls=False, most=most)["rows"]
    rows["candidate only (trained without history)"] = next(iter(without.values()))
    demo.figures["rows"] = rows
    _print_rows(demo)
    histories = Histories.of(dataset, *run.vocabularies)
    places = histories.places((histories.samples["split"] == "test").to_numpy(), run.plan.features)
    demo.figures["users"] = histories.users
    return score(run.best_model(), histories, places)


def _stream(demo: Demo, settings: Settings, dataset: "Dataset", scored: "Scored") -> None:
    """All events through the update job, which also keeps the memories at the positions of the test samples."""
    from jobs.events import write_events
    from jobs.job_settings import JobSettings
    from jobs.launch import launch

    count, files = write_events(dataset, demo.folder / "events", replace=True)
    demo.console.print(f"{count:,} events in {files} files")
    for old in ("job", "store"):
        shutil.rmtree(demo.folder / old, ignore_errors=True)
    keep_at = demo.folder / "keep-at.jsonl"
    users = demo.figures["users"]
    pairs = zip(scored.places.user_P, scored.places.position_P, strict=True)
    lines = [json.dumps({"user_id": users[user], "sequence": int(position)}) for user, position in pairs if position > 0]
    keep_at.write_text("\n".join(lines) + "\n")
    stream = settings.stream
    summary: Summary = launch(
        JobSettings(
            events=demo.folder / "events", bundle=demo.folder / "bundle", store=demo.folder / "store",
            job_dir=demo.folder / "job", backend=stream.backend, checkpoint_interval_s=stream.checkpoint_interval_s,
            lateness_s=stream.lateness_s, max_ahead_s=stream.max_ahead_s, keep_at=keep_at, flink=settings.flink,
        )
    )  # fmt: skip
    demo.console.print(summary.text())
    if not summary.is_complete:
        raise DemoFailed("the stream was stopped before its end; run the demo again")
    demo.figures |= {"events": summary.applied, "events_per_s": summary.done / max(summary.seconds, 1e-9)}


def _score_stored(demo: Demo, bundle: "Bundle", scored: "Scored") -> None:
    """Every test sample from the bytes that the job published at exactly its position."""
    import numpy as np

    from model import plots
    from uic.runtime import OnnxScore
    from uic.store.rocksdb import RocksStore

    places, users = scored.places, demo.figures["users"]
    store = RocksStore.open_to_read(demo.folder / "store")
    states = np.empty((len(places), bundle.layout.size_F), dtype=np.float32)
    try:
        for row, (user, position) in enumerate(zip(places.user_P, places.position_P, strict=True)):
            blob = store.read_kept(users[user], int(position)) if position > 0 else None
            if blob is None and position > 0:
                raise DemoFailed(f"user {users[user]!r}: no memory was kept after {position} events")
            states[row] = bundle.initial.state_F if blob is None else bundle.published.decode(blob).state_F
        latest = [len(store.read(user) or b"") for user in store.users()]
    finally:
        store.close()
    onnx = OnnxScore(bundle)
    parts = []
    for start in range(0, len(places), 1024):
        rows = slice(start, start + 1024)
        parts.append(onnx(states[rows], places.item_PN[rows], places.category_PN[rows], places.mask_PN[rows]))
    stored = np.concatenate(parts)
    mask = places.mask_PN
    difference = float(np.abs(stored - scored.probability_PN)[mask].max())
    demo.figures |= {"samples": int(mask.sum()), "largest_difference": difference}
    _bytes_per_user(demo, latest, np.array(demo.figures["stats"]["events"] / demo.figures["stats"]["users"]))
    plots.agreement(stored[mask], scored.probability_PN[mask], demo.folder / "report" / "agreement.png")
    _write_probabilities(demo, scored, stored)
    demo.console.print(f"{mask.sum():,} samples scored from stored bytes; largest difference to offline: {difference:.1e}")
    if not difference <= PROBABILITY_LIMIT:
        raise DemoFailed(f"probabilities from stored memories differ by {difference:.2e}, allowed are {PROBABILITY_LIMIT:g}")


def _bytes_per_user(demo: Demo, latest: list[int], mean_history: "NDArray[np.generic]") -> None:
    size = sum(latest) / max(len(latest), 1)
    demo.figures |= {
        "stored_users": len(latest),
        "bytes_per_user": size,
        "raw_bytes_per_user": float(mean_history) * RAW_BYTES_PER_BEHAVIOUR,
        "break_even_events": size / RAW_BYTES_PER_BEHAVIOUR,
    }


def _write_probabilities(demo: Demo, scored: "Scored", stored: "NDArray[np.float32]") -> None:
    """Every test sample with both probabilities, for whoever wants to compute the figures anew."""
    import pandas as pd

    places, mask = scored.places, scored.places.mask_PN
    place = mask.nonzero()[0]
    table = pd.DataFrame(
        {
            "user": demo.figures["users"][places.user_P[place]],
            "position": places.position_P[place],
            "sample": places.sample_PN[mask],
            "label": places.label_PN[mask],
            "offline": scored.probability_PN[mask],
            "stored": stored[mask],
        }
    )
    table.to_parquet(demo.folder / "report" / "probabilities.parquet", index=False)


def _verify(demo: Demo, settings: Settings) -> None:
    from jobs.verify import verify

    verdict = verify(
        demo.folder / "events", demo.folder / "bundle", demo.folder / "store", oracle="numpy",
        lateness_ms=1000 * settings.stream.lateness_s, max_ahead_ms=1000 * settings.stream.max_ahead_s,
    )  # fmt: skip
    demo.console.print(
        f"{verdict.users:,} users compared with the numpy oracle, largest difference {verdict.worst:.3f} of the tolerance, "
        f"{len(verdict.mismatches)} mismatches"
    )
    demo.figures |= {"verified_users": verdict.users, "verified_worst": verdict.worst}
    if not verdict.holds:
        first = dict(list(verdict.mismatches.items())[:3])
        raise DemoFailed(f"{len(verdict.mismatches)} users differ from the offline fold: {first}")


def _print_rows(demo: Demo) -> None:
    table = Table("scored from", "samples", "AUC", "user AUC", "logloss", title=f"test, {demo.figures['label']}, targets: all")
    for name, row in demo.figures["rows"].items():
        table.add_row(name, f"{row['samples']:,}", f"{row['auc']:.4f}", f"{row['user_auc']:.4f}", f"{row['logloss']:.4f}")
    demo.console.print(table)


def _finish(demo: Demo) -> None:
    from jobs.report import summary_rows, write_report

    demo.console.rule("[bold]Summary", align="left")
    _print_rows(demo)
    for name, value in summary_rows(demo.figures):
        demo.console.print(f"  {name:44} {value}")
    report = write_report(demo.folder / "report", demo.figures, demo.seconds)
    demo.console.print(f"\nreport: {report}")
    folder = demo.folder
    demo.console.print(f"next:   uic user show 196 --bundle {folder}/bundle --store {folder}/store")
    demo.console.print(f"        uic score --user 196 --items 242,302,1 --bundle {folder}/bundle --store {folder}/store")
