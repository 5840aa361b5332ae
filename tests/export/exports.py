"""The memories that are exported, and models of them from a seed."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from model.nn.ctr import MemoryCtr
from model.nn.mimn import MimnStep
from model.nn.models import make_memory
from onnx_export.bundle import write_bundle
from uic.bundle import Bundle
from uic.models import AnyVariant, Delta, Gru4Rec, Mlp, Rum, Sdim
from uic.variant import preset

ITEM_IDS = np.arange(100, 137, dtype=np.int64)[::-1].copy()
CATEGORY_IDS = np.array([7, -3, 2**62, 5], dtype=np.int64)
SIZES: dict[str, Any] = {"event_width": 8, "controller_units": 6, "slot_width": 8, "output_width": 5}
VARIANTS: dict[str, tuple[AnyVariant, list[str]]] = {
    "default": (preset("default", slots=4, **SIZES), ["hour", "position"]),
    "official": (preset("official", slots=5, top_channels=2, **SIZES), []),
    "paper": (preset("paper", slots=3, key_memory=True, temperature=True, **SIZES), []),
    "seen": (preset("default", slots=3, head_controller=True, read_feedback=False, **SIZES), ["hour"]),
    "ablated": (preset("default", slots=2, mur="none", miu=False, **SIZES), []),
}
COMPARED: dict[str, tuple[AnyVariant, list[str]]] = {
    "mlp": (Mlp(event_width=8), []),
    "gru4rec": (Gru4Rec(event_width=8, units=6), ["hour"]),
    "rum": (Rum(event_width=8, controller_units=6, slots=3), []),
    "sdim": (Sdim(event_width=8, hashes=3, bits=2, pooling="sum"), ["hour"]),
    "delta": (Delta(event_width=8, heads=2, key_width=5, value_width=3), []),
}


class Exported(NamedTuple):
    """A bundle and the model it was exported from."""

    model: MemoryCtr[Any]
    bundle: Bundle


def make_model(variant: AnyVariant, features: list[str], seed: int = 3) -> MemoryCtr[Any]:
    torch.manual_seed(seed)
    model = make_memory(
        variant, item_rows=len(ITEM_IDS) + 2, category_rows=len(CATEGORY_IDS) + 2, head_features=len(features)
    ).eval()
    with torch.no_grad():
        # As far from zero as training brings them, so that every part of the graphs matters.
        if isinstance(model.step, MimnStep):
            model.step.to_heads.weight *= 3.0
        for table in (model.embedding.items, model.embedding.categories):
            table.weight[1:] = torch.randn(table.weight[1:].shape) * 0.5
    return model


def export(model: MemoryCtr[Any], target: Path, features: list[str], **changes: Any) -> Bundle:
    facts: dict[str, Any] = {
        "item_ids": ITEM_IDS,
        "category_ids": CATEGORY_IDS,
        "behaviours": ["click"],
        "features": features,
        "lineage": "lineage-a",
        "parent": None,
        "training_cut_off_ms": 1,
        "training": {"seed": 3},
    }
    return write_bundle(model, target, **{**facts, **changes})
