"""Training: epochs over users, truncated back-propagation along their histories, the best epoch by validation AUC.

The optimiser steps whenever `samples_per_step` samples have been seen. The loss of a step is the mean over its samples of the
CTR loss and the utilization loss of the very memory that the sample is scored from, so `targets: all` minimises exactly what
scoring every sample from a scan of its own would.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from model.data.dataset import Dataset
from model.nn.addressing import shares
from model.nn.ctr import CtrModel, MimnCtr
from model.nn.losses import ctr_loss, utilization_loss
from model.training.config import TrainConfig
from model.training.device import autocast, loss_scaler
from model.training.evaluate import Scored, score
from model.training.histories import Histories, Negatives, Places, user_batch
from model.training.optimiser import average_and_cut, optimiser_of
from model.training.reading import Seen, readings, score_places
from model.training.run import Run
from uic.errors import BadInput

_DAY_MS = 86_400_000


class Progress(NamedTuple):
    """Where an epoch stands."""

    epoch: int
    samples: int
    of_samples: int
    loss: float


def train(
    run: Run,
    dataset: Dataset,
    on_progress: Callable[[Progress], None],
    on_epoch: Callable[[dict[str, Any]], None],
    *,
    watched: NDArray[np.bool_] | None = None,
) -> None:
    """Train a run until its epochs or its patience are used up, going on from the last whole epoch if there is one.

    `watched` are samples, such as the test's, whose figures are noted after every epoch too. Nothing is chosen by them: they
    are for tables that show what choosing by them, as the authors did, would have shown.
    """
    config = run.plan.config.resolved()
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    model = run.model()
    _start_from_parent(run, model)
    model.to(config.device)
    if isinstance(model, MimnCtr):
        model.step.regularises_content = config.regulariser_reach == "content"
    optimiser, scaler = optimiser_of(model, config), loss_scaler(config.precision, config.device)
    histories = Histories.of(dataset, run.vocabularies.items, run.vocabularies.categories)
    chosen, held_out = training_samples(histories, run)
    places = histories.places(chosen, run.plan.features, most=config.most_targets)
    valid = histories.places(held_out, run.plan.features)
    if not len(places) or not len(valid):
        raise BadInput(f"{dataset.path}: expected samples to train and validate on, got {len(places)} and {len(valid)} places")
    without, latest = config.history == "none", config.history_events
    trained_on, places = (histories, places) if latest is None else histories.latest(places, latest)

    metrics, first = _resume(run, model, optimiser, scaler)
    if metrics != run.metrics:
        # Killed after last.pt and before metrics.json: no later epoch may come to write it.
        run.write_metrics(metrics)
    if metrics["epochs"] and first - 1 - metrics["best_epoch"] >= config.patience:
        return
    with SummaryWriter(str(run.path / "tensorboard"), purge_step=first) as board:
        for epoch in range(first, config.epochs + 1):
            began = time.monotonic()
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * config.decay ** (epoch - 1)
            loss = train_epoch(model, optimiser, trained_on, places, config, epoch, on_progress, scaler)
            scored = score(model, histories, valid, without_history=without, latest=latest)
            measured = scored.measure("valid")
            entry = {"epoch": epoch, "loss": loss, "valid": measured.to_json(), "seconds": time.monotonic() - began}
            if watched is not None:
                shown = histories.places(watched, run.plan.features)
                entry["watched"] = score(model, histories, shown, without_history=without, latest=latest).measure().to_json()
            metrics["epochs"].append(entry)
            is_best = measured.auc > metrics.get("best_auc", -np.inf)
            if is_best:
                metrics |= {"best_auc": measured.auc, "best_epoch": epoch}
            metrics["finished"] = epoch == config.epochs or epoch - metrics["best_epoch"] >= config.patience
            _save(run, model, optimiser, scaler, metrics, scored if is_best else None)
            _write_board(board, entry, scored)
            on_epoch(entry | {"is_best": is_best})
            if metrics["finished"]:
                break


def train_epoch(
    model: CtrModel,
    optimiser: torch.optim.Optimizer,
    histories: Histories,
    places: Places,
    config: TrainConfig,
    epoch: int,
    on_progress: Callable[[Progress], None],
    scaler: torch.amp.GradScaler | None = None,
) -> float:
    """One pass over all places; returns the mean loss of its samples. The order depends on seed and epoch alone.

    The model is where it is to be trained; `scaler` goes from epoch to epoch, as the optimiser does.
    """
    config = config.resolved()
    scaler = loss_scaler(config.precision, config.device) if scaler is None else scaler
    model.train()
    rng = np.random.default_rng((config.seed, epoch))
    seen, pending, total = 0, 0, 0.0
    optimiser.zero_grad(set_to_none=True)

    def step() -> None:
        scaler.unscale_(optimiser)
        average_and_cut(model, pending, config.clip_norm)
        scaler.step(optimiser)
        scaler.update()
        optimiser.zero_grad(set_to_none=True)

    for part, history, auxiliary in _reads(model, histories, places, config, rng):
        loss = sample_losses(model, history, part, config).sum()
        if auxiliary is not None:
            loss = loss + config.auxiliary_weight * part.samples * auxiliary
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        pending += part.samples
        seen += part.samples
        total += loss.item()
        if pending >= config.samples_per_step:
            step()
            pending = 0
            on_progress(Progress(epoch, seen, places.samples, total / seen))
    if pending:
        step()
    if not np.isfinite(total):
        raise BadInput(f"epoch {epoch}: the loss is {total}; lower train.learning_rate (now {config.learning_rate})")
    return total / seen


def sample_losses(model: CtrModel, seen: Any, places: Places, config: TrainConfig) -> Tensor:
    """The loss of each sample of these places, [S]: CTR loss and utilization loss of the memory it is scored from."""
    with autocast(config.precision, model.embedding.items.weight.device):
        logits = score_places(model, seen, places)
    logits = logits.float()
    mask = torch.from_numpy(places.mask_PN).to(logits.device)
    labels = torch.from_numpy(places.label_PN).to(logits.device)
    losses_PN = ctr_loss(logits, labels, config.loss, reduce=False)
    written_PM = model.utilization(seen) if config.history == "full" else None
    if written_PM is not None:
        losses_PN = losses_PN + utilization_loss(
            written_PM, config.regulariser, config.regulariser_weight, reduce=False
        ).unsqueeze(-1)
    return losses_PN[mask]


def training_samples(histories: Histories, run: Run) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which samples a run trains on, and which it validates on.

    The dataset's own splits; or, where the run has a window [since, until), its samples of whichever split: the latest tenth of
    them is held out for validation. Samples of excluded days are not trained on; their events stay in the histories.
    """
    table, plan = histories.samples, run.plan
    time_ms = table["time_ms"].to_numpy()
    if plan.since_ms is None and plan.until_ms is None:
        chosen, held_out = (table["split"] == "train").to_numpy(), (table["split"] == "valid").to_numpy()
    else:
        window = np.ones(len(table), dtype=bool)
        if plan.since_ms is not None:
            window &= time_ms >= plan.since_ms
        if plan.until_ms is not None:
            window &= time_ms < plan.until_ms
        cut_ms = np.quantile(time_ms[window], 0.9, method="higher") if window.any() else 0
        chosen, held_out = window & (time_ms < cut_ms), window & (time_ms >= cut_ms)
    for day in plan.config.exclude_days:
        start_ms = int(np.datetime64(day, "D").astype("datetime64[ms]").astype(np.int64))
        chosen &= ~((time_ms >= start_ms) & (time_ms < start_ms + _DAY_MS))
    return chosen, held_out


def _reads(
    model: CtrModel, histories: Histories, places: Places, config: TrainConfig, rng: np.random.Generator
) -> Iterator[Seen]:
    if config.history == "none":
        for rows in np.array_split(rng.permutation(len(places)), max(1, places.samples // config.samples_per_step)):
            yield Seen(places.take(rows), model.blank(len(rows)))
        return
    users, counts = np.unique(places.user_P, return_counts=True)
    last = places.position_P[np.cumsum(counts) - 1]
    # Users of like length go together, so that little is waited for; noise makes other company each epoch.
    order = np.argsort(last * rng.uniform(0.8, 1.25, size=len(users)), kind="stable")
    negatives = Negatives.of(histories) if config.auxiliary_weight else None
    device = str(model.embedding.items.weight.device)
    groups = [order[start : start + config.batch_users] for start in range(0, len(order), config.batch_users)]
    for place in rng.permutation(len(groups)):
        batch = user_batch(histories, places, users[groups[place]], device)
        batch = batch if negatives is None else negatives.drawn(batch, rng)
        # So many places make a step of the optimiser; without it those who see raw events would step more seldom than asked.
        at_once = max(1, config.samples_per_step // places.item_PN.shape[1])
        yield from readings(model, batch, config.chunk, at_once)


def _start_from_parent(run: Run, model: CtrModel) -> None:
    parent = run.load("parent.pt")
    if parent is not None:
        model.load_state_dict(parent["model"])


def _resume(
    run: Run, model: CtrModel, optimiser: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> tuple[dict[str, Any], int]:
    saved = run.load("last.pt")
    if saved is None:
        return {"epochs": [], "finished": False}, 1
    model.load_state_dict(saved["model"])
    optimiser.load_state_dict(saved["optimiser"])
    if "scaler" in saved:
        scaler.load_state_dict(saved["scaler"])
    return saved["metrics"], len(saved["metrics"]["epochs"]) + 1


def _save(
    run: Run,
    model: CtrModel,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    metrics: dict[str, Any],
    best: Scored | None,
) -> None:
    # best before last: a kill in between repeats the epoch and writes the same best again.
    if best is not None:
        run.save("best.pt", {"model": model.state_dict(), "epoch": metrics["best_epoch"]})
        if best.utilization_PM.size:
            utilization = torch.from_numpy(best.utilization_PM)
            run.write_utilization_shares(np.sort(shares(utilization).numpy(), axis=-1)[:, ::-1])
    state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "metrics": metrics}
    run.save("last.pt", state | {"scaler": scaler.state_dict()} if scaler.is_enabled() else state)
    run.write_metrics(metrics)


def _write_board(board: SummaryWriter, entry: dict[str, Any], scored: Scored) -> None:
    epoch = entry["epoch"]
    board.add_scalar("loss/train", entry["loss"], epoch)
    for name in ("auc", "logloss", "user_auc"):
        board.add_scalar(f"{name}/valid", entry["valid"][name], epoch)
    if scored.utilization_PM.any():
        board.add_histogram("utilization/share", shares(torch.from_numpy(scored.utilization_PM)), epoch)
