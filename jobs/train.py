"""`uic train`, `uic evaluate` and `uic plot utilization`: what modellers do."""

import datetime
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from jobs.settings import Settings
from uic import artefact
from uic.clock import in_ms
from uic.errors import BadInput

if TYPE_CHECKING:  # torch and pandas take seconds to load, and `uic --help` must not
    from model.data.dataset import Dataset
    from model.nn.ctr import CtrModel
    from model.training.config import TrainConfig
    from model.training.histories import Places
    from model.training.run import Run, RunPlan

plot_app = typer.Typer(help="Plots of trained runs.", no_args_is_help=True)
Split = Literal["train", "valid", "test"]


@plot_app.callback()
def _plot() -> None:
    """Plots of trained runs."""


def train_command(
    ctx: typer.Context,
    data: Annotated[Path, typer.Option(help="A dataset that `uic data prepare` wrote.")],
    out: Annotated[Path, typer.Option(help="The run's folder; run again to go on where it stopped.")],
    model: Annotated[
        str | None, typer.Option(help="mimn, mlp, din, gru4rec, arnn, rum, dien, sdim or delta; else model.name of uic.yaml.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="default, official or paper; else model.preset of uic.yaml.")] = None,
    epochs: Annotated[int | None, typer.Option(help="At most so many.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights and order.")] = None,
    targets: Annotated[
        str | None, typer.Option(help="all: every sample of a user; last: the user's last; a number: so many of a user.")
    ] = None,
    history: Annotated[str | None, typer.Option(help="full, or none: the candidate-only control.")] = None,
    mur: Annotated[str | None, typer.Option(help="Write-weight re-balancing: none, shift or transfer.")] = None,
    regulariser_weight: Annotated[float | None, typer.Option(help="Of the utilisation loss; 0 switches it off.")] = None,
    exclude_day: Annotated[list[str] | None, typer.Option(help="Day (YYYY-MM-DD) not trained on; repeatable.")] = None,
    init_from: Annotated[Path | None, typer.Option(help="Train on from this bundle, within its lineage.")] = None,
    since: Annotated[str | None, typer.Option(help="Only samples from this time on (ISO, UTC), of any split.")] = None,
    until: Annotated[str | None, typer.Option(help="Only samples before this time (ISO, UTC), of any split.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Throw an older run in the folder away.")] = False,
) -> None:
    """Train MIMN, or a model it is compared with, on a dataset. Killed at any moment, it goes on from the last whole epoch.

    Every model sees the same samples through the same embeddings and head. Those with a memory of fixed size (mimn, mlp,
    gru4rec, rum, sdim, delta) can be exported, streamed and served; din, arnn and dien look at raw events for every candidate.

    Example: uic train --data data/ml-100k --out runs/dien --model dien --epochs 8
    """
    from model.data.dataset import Dataset
    from uic.models import NAMES
    from uic.variant import preset as known_preset

    settings: Settings = ctx.obj
    asked = {
        "epochs": epochs, "seed": seed, "targets": targets, "history": history,
        "regulariser_weight": regulariser_weight, "exclude_days": None if exclude_day is None else tuple(exclude_day),
    }  # fmt: skip
    if init_from is not None and (model is not None or preset is not None or mur is not None):
        raise BadInput(
            "--init-from: the variant is the bundle's, which --model, --preset and --mur would change; leave them out"
        )
    chosen = settings.model
    if model is not None:
        if model not in NAMES:
            raise BadInput(f"--model: expected one of {', '.join(NAMES)}, got {model!r}")
        chosen = chosen.model_copy(update={"name": model})
    if preset is not None:
        known_preset(preset)
        chosen = chosen.model_copy(update={"preset": preset})
    if mur is not None:
        chosen = chosen.model_copy(update={"switches": {**chosen.switches, "mur": mur}})
    settings = settings.model_copy(update={"model": chosen})
    config = train_config(settings, **{name: value for name, value in asked.items() if value is not None})
    console = Console(soft_wrap=True, highlight=False)
    dataset = Dataset.open(data)
    run = open_run(
        out, dataset, config, lambda: chosen.variant().to_json(), init_from=init_from,
        since_ms=_time_ms("--since", since), until_ms=_time_ms("--until", until), overwrite=overwrite,
    )  # fmt: skip
    train_with_progress(console, run, dataset)
    metrics = run.metrics
    console.print(
        f"best epoch {metrics['best_epoch']}: validation AUC {metrics['best_auc']:.4f} "
        f"({dataset.label}, targets: {run.plan.config.targets}); {out}"
    )
    if run.plan.config.history == "full" and run.plan.variant.get("model", "mimn") == "mimn":
        console.print(f"slot utilisation: {plot_utilization([out], out / 'utilization.png')}")


def train_config(settings: Settings, **asked: Any) -> "TrainConfig":
    """What the preset means, the section `train` over it, what was asked over both; raises BadInput with what is wrong."""
    from pydantic import TypeAdapter, ValidationError

    from model.training.config import PRESETS, TrainConfig

    try:
        return TypeAdapter(TrainConfig).validate_python({**PRESETS[settings.model.preset], **settings.train, **asked})
    except ValidationError as error:
        wrong = "; ".join(
            f"train.{'.'.join(map(str, one['loc']))}: {one['msg']} (got {one['input']!r})" for one in error.errors()
        )
        raise BadInput(wrong) from None


def open_run(
    out: Path,
    dataset: "Dataset",
    config: "TrainConfig",
    variant: Callable[[], dict[str, Any]],
    *,
    init_from: Path | None = None,
    since_ms: int | None = None,
    until_ms: int | None = None,
    overwrite: bool = False,
) -> "Run":
    """The run in `out`: the one begun there if it trains the same, else a new one."""
    from model.data.vocabulary import Vocabularies
    from model.training.run import KIND, Run, RunPlan
    from uic.bundle import Bundle

    parent = None if init_from is None else Bundle.open(init_from)
    times = dataset.stats["times"]
    # A window takes samples of any split: without an end it reaches past the last event.
    open_end_ms = times["valid_from_ms"] if since_ms is None else times["last_ms"] + 1
    cut_off_ms = open_end_ms if until_ms is None else until_ms
    plan = RunPlan(
        variant=variant() if parent is None else parent.manifest.variant,
        train=config.resolved().to_json(),
        dataset={
            "path": str(dataset.path.absolute()),
            "digest": dataset.digest,
            "label": dataset.label,
            "source": dataset.stats["source"]["name"],
            "behaviours": list(dataset.stats["parameters"]["behaviours"]),
            "training_cut_off_ms": int(cut_off_ms),
        },
        features=list(dataset.features),
        lineage=uuid.uuid4().hex if parent is None else parent.manifest.lineage,
        parent=None if parent is None else parent.manifest.version,
        since_ms=since_ms,
        until_ms=until_ms,
    )
    if not overwrite and artefact.kind_of(out) == KIND:
        run = Run.open(out)
        differences = run.plan.differences(plan)
        if differences:
            raise BadInput(
                f"{out}: a run with other settings is there: {'; '.join(differences)}. "
                "Choose another folder, or pass --overwrite to throw it away"
            )
        return run.with_epochs(config.epochs)
    vocabularies = dataset.vocabularies
    if parent is not None:
        if list(dataset.features) != parent.manifest.head_features:
            raise BadInput(
                f"{init_from}: head features {parent.manifest.head_features}, the dataset has {list(dataset.features)}"
            )
        vocabularies = Vocabularies(
            parent.items.extended(vocabularies.items.ids), parent.categories.extended(vocabularies.categories.ids)
        )
    return Run.create(out, plan, vocabularies, parent=parent, replace=overwrite)


def train_with_progress(console: Console, run: "Run", dataset: "Dataset") -> None:
    """Train a run to its end, showing every epoch."""
    from model.training.train import Progress as EpochProgress
    from model.training.train import train

    trained = len(run.metrics["epochs"])
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("preparing", total=None)

        def on_progress(at: EpochProgress) -> None:
            bar.update(task, description=f"epoch {at.epoch} loss {at.loss:.4f}", completed=at.samples, total=at.of_samples)

        def on_epoch(entry: dict[str, Any]) -> None:
            valid = entry["valid"]
            console.print(
                f"epoch {entry['epoch']:3}  loss {entry['loss']:.4f}  validation AUC {valid['auc']:.4f}  "
                f"user AUC {valid['user_auc']:.4f}  logloss {valid['logloss']:.4f}  {entry['seconds']:.0f} s"
                + ("  best" if entry["is_best"] else "")
            )
            bar.reset(task)

        train(run, dataset, on_progress, on_epoch)
    if len(run.metrics["epochs"]) == trained:
        console.print(f"{run.path}: already trained to its end")


def evaluate_command(
    target: Annotated[Path, typer.Argument(help="A run, or a bundle.")],
    data: Annotated[Path, typer.Option(help="The dataset.")],
    split: Annotated[Split, typer.Option(help="Which of its splits.")] = "test",
    controls: Annotated[bool, typer.Option(help="Also with histories taken away, shuffled, or another user's.")] = True,
    most: Annotated[int, typer.Option(help="At most so many places for the shuffled controls.")] = 2000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """AUC, logloss and per-user AUC of a model on a split, with controls that tell what the history is worth.

    Example: uic evaluate runs/first --data data/ml-100k
    """
    from model.data.dataset import Dataset

    dataset = Dataset.open(data)
    results = evaluate(target, dataset, split, controls=controls, most=most)
    console = Console(soft_wrap=True, highlight=False)
    if as_json:
        console.print_json(data=results)
        return
    table = Table("scored from", "samples", "AUC", "user AUC", "logloss", title=f"{target.name} on {split} ({dataset.label})")
    for name, row in results["rows"].items():
        table.add_row(name, f"{row['samples']:,}", f"{row['auc']:.4f}", f"{row['user_auc']:.4f}", f"{row['logloss']:.4f}")
    console.print(table)
    console.print(f"targets: {results['targets']}; dataset {dataset.stats['source']['name']}, results are {dataset.label}")


def evaluate(target: Path, dataset: "Dataset", split: Split, *, controls: bool, most: int) -> dict[str, Any]:
    """Metrics of a run's best epoch or of a bundle, row by row; the shuffled rows over the same sampled places."""
    import torch

    from model.training import controls as control
    from model.training.evaluate import score
    from model.training.histories import Histories
    from model.training.run import Run
    from model.training.weights import model_of
    from uic.bundle import KIND as BUNDLE
    from uic.bundle import Bundle

    torch.set_num_threads(1)
    if artefact.kind_of(target) == BUNDLE:
        bundle = Bundle.open(target)
        model: CtrModel = model_of(bundle)
        items, categories = bundle.items, bundle.categories
        features, targets, without = bundle.manifest.head_features, bundle.manifest.training.get("targets", "all"), False
        latest = None
    else:
        run = Run.open(target)
        model, (items, categories) = run.best_model(), run.vocabularies
        features, targets, without = run.plan.features, run.plan.config.targets, run.plan.config.history == "none"
        latest = run.plan.config.history_events
    histories: Histories = Histories.of(dataset, items, categories)
    places: Places = histories.places((histories.samples["split"] == split).to_numpy(), features)
    rows = {"memory at its position": score(model, histories, places, without_history=without, latest=latest).measure(split)}
    if controls and not without:
        few = control.sampled(places, most)
        rows["initial memory (no history)"] = score(model, histories, places, without_history=True).measure(split)
        if len(few) < len(places):
            rows["memory, sampled places"] = score(model, histories, few).measure(split)
        rows["shuffled history, sampled places"] = control.shuffled_order(model, histories, few).measure(split)
        rows["another user's history, sampled places"] = control.another_users(model, histories, few).measure(split)
    return {"split": split, "label": dataset.label, "targets": targets, "rows": {k: v.to_json() for k, v in rows.items()}}


@plot_app.command("utilization")
def utilization_command(
    runs: Annotated[list[Path], typer.Argument(help="Runs to lay over each other, such as with and without regulariser.")],
    out: Annotated[Path, typer.Option(help="The picture.")] = Path("utilization.png"),
) -> None:
    """Plot how evenly the slots are written: per user sorted shares, mean and deciles (the paper's Fig. 6).

    Example: uic plot utilization runs/with runs/without --out fig6.png
    """
    typer.echo(plot_utilization(runs, out))


def plot_utilization(runs: list[Path], out: Path) -> Path:
    """Draw the picture and return where it is."""
    from model.plots import utilization
    from model.training.run import Run

    opened = [Run.open(path) for path in runs]
    named = [(f"{describe(run.plan)}, epoch {run.metrics.get('best_epoch')}", run.utilization_shares()) for run in opened]
    return utilization(named, out)


def describe(plan: "RunPlan") -> str:
    """A run in a few words, for legends."""
    config = plan.config
    loss = f"L_reg {config.regulariser_weight:g}" if config.regulariser_weight and config.regulariser != "none" else "no L_reg"
    if plan.variant.get("model", "mimn") != "mimn":
        return f"{plan.variant['model']}, {plan.variant['preset']}"
    return f"{plan.variant['preset']}, MUR {plan.variant['mur']}, {loss}"


def _time_ms(option: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        parsed = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"{option}: expected a date or time such as 2017-12-01 or 2017-12-01T06:00, got {text!r}") from None
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=datetime.UTC)
    return in_ms(parsed)
