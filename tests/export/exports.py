"""The variants that are exported, and models of them from a seed."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from model.nn.ctr import MimnCtr
from onnx_export.bundle import write_bundle
from uic.bundle import Bundle
from uic.variant import Variant, preset

ITEM_IDS = np.arange(100, 137, dtype=np.int64)[::-1].copy()
CATEGORY_IDS = np.array([7, -3, 2**62, 5], dtype=np.int64)
SIZES: dict[str, Any] = {"event_width": 8, "controller_units": 6, "slot_width": 8, "output_width": 5}
VARIANTS: dict[str, tuple[Variant, list[str]]] = {
    "default": (preset("default", slots=4, **SIZES), ["hour", "position"]),
    "official": (preset("official", slots=5, top_channels=2, **SIZES), []),
    "paper": (preset("paper", slots=3, key_memory=True, temperature=True, **SIZES), []),
    "ablated": (preset("default", slots=2, mur="none", miu=False, **SIZES), []),
}


class Exported(NamedTuple):
    """A bundle and the model it was exported from."""

    model: MimnCtr
    bundle: Bundle


def make_model(variant: Variant, features: list[str], seed: int = 3) -> MimnCtr:
    torch.manual_seed(seed)
    model = MimnCtr(
        variant, item_rows=len(ITEM_IDS) + 2, category_rows=len(CATEGORY_IDS) + 2, head_features=len(features)
    ).eval()
    with torch.no_grad():
        # As far from zero as training brings them, so that every part of the graphs matters.
        model.step.to_heads.weight *= 3.0
        for table in (model.embedding.items, model.embedding.categories):
            table.weight[1:] = torch.randn(table.weight[1:].shape) * 0.5
    return model


def export(model: MimnCtr, target: Path, features: list[str], **changes: Any) -> Bundle:
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
