"""From a trained run to a bundle: weights, graphs, vocabulary, the initial memory, and a manifest with their digests."""

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.nn.ctr import MemoryCtr
from model.training.run import Run
from onnx_export.graphs import write_graphs
from uic import artefact
from uic.bundle import KIND, MANIFEST, REQUIRED, Bundle, Manifest, digest
from uic.codec import Codec
from uic.errors import BadInput
from uic.memory import MemoryLayout, UserMemory


def export_run(run: Run, target: Path, *, replace: bool = False) -> Bundle:
    """Export the best epoch of a run; the bundle appears whole or not at all.

    Raises BadInput for a control, and for a model that needs the raw events.
    """
    model = run.best_memory()
    if run.plan.config.history == "none":
        raise BadInput(f"{run.path}: trained without histories (the candidate-only control): no memory may be scored with it")
    if (latest := run.plan.config.history_events) is not None:
        raise BadInput(
            f"{run.path}: trained on the latest {latest} events before each sample; a memory never forgets the others, so no "
            "stream makes what this model knows. Train without train.history_events"
        )
    stats = run.plan.dataset
    metrics = run.metrics
    best = next((entry for entry in metrics["epochs"] if entry["epoch"] == metrics.get("best_epoch")), None)
    training = {
        "dataset": stats,
        "config": run.plan.train,
        "epochs": len(metrics["epochs"]),
        "best": best,
        "targets": run.plan.config.targets,
        "since_ms": run.plan.since_ms,
        "until_ms": run.plan.until_ms,
    }
    names = Path(stats["path"]) / "names.json"
    return write_bundle(
        model,
        target,
        item_ids=run.vocabularies.items.ids,
        category_ids=run.vocabularies.categories.ids,
        behaviours=stats["behaviours"],
        features=run.plan.features,
        lineage=run.plan.lineage,
        parent=run.plan.parent,
        training_cut_off_ms=stats["training_cut_off_ms"],
        training=training,
        names=names if names.exists() else None,
        replace=replace,
    )


def write_bundle(
    model: MemoryCtr[Any],
    target: Path,
    *,
    item_ids: "np.typing.NDArray[np.int64]",
    category_ids: "np.typing.NDArray[np.int64]",
    behaviours: list[str],
    features: list[str],
    lineage: str,
    parent: int | None,
    training_cut_off_ms: int,
    training: dict[str, Any],
    names: Path | None = None,
    replace: bool = False,
) -> Bundle:
    """Write a bundle of this model and open it; see uic/bundle.py for what each file is."""
    layout = model.layout
    version = time.time_ns() // 1_000_000
    with artefact.new_directory(target, KIND, replace=replace) as partial:
        graphs = write_graphs(model, len(features), partial)
        np.savez(partial / "vocabulary.npz", item_ids=item_ids, category_ids=category_ids)
        np.savez(partial / "weights.npz", **dense_weights(model))
        (partial / "initial.bin").write_bytes(Codec(layout).encode(initial_memory(model, layout, version)))
        if names is not None:
            shutil.copyfile(names, partial / "names.json")
        manifest = Manifest(
            version=version,
            layout=layout.layout_name,
            lineage=lineage,
            parent=parent,
            training_cut_off_ms=training_cut_off_ms,
            variant=model.variant.to_json(),
            ring_size=layout.ring_size,
            embedding=model.variant.event_width // 2,
            behaviours=behaviours,
            head_features=features,
            memory_tensors=[{"name": spec.name, "shape": list(spec.shape)} for spec in layout.tensors],
            graphs=graphs,
            training=training,
            files={path.name: digest(path) for path in sorted(partial.iterdir())},
        )
        assert set(REQUIRED) <= set(manifest.files)
        (partial / MANIFEST).write_text(manifest.to_json())
    return Bundle.open(target)


def dense_weights(model: MemoryCtr[Any]) -> dict[str, "np.typing.NDArray[np.float32]"]:
    """Every parameter and buffer but the embedding tables, which have a file of their own, and what training alone needs."""
    state = model.state_dict()
    return {name: value.cpu().numpy() for name, value in state.items() if not name.startswith(("embedding.", "auxiliary."))}


def initial_memory(model: MemoryCtr[Any], layout: MemoryLayout, version: int) -> UserMemory:
    """The memory of a user without events."""
    with torch.no_grad():
        state_F = model.blank(1)[0].cpu().numpy()
    return UserMemory(state_F=state_F, fingerprints=bytes(16 * layout.ring_size), bundle_version=version)
