"""Weights between a bundle and a model: to evaluate a bundle with torch, and to train on from one."""

from typing import Any

import numpy as np
import torch

from model.nn.ctr import CtrModel, MemoryCtr
from model.nn.models import make_memory
from uic.bundle import Bundle
from uic.errors import BadInput
from uic.models import variant_from_json


def load_weights(model: CtrModel, bundle: Bundle) -> None:
    """Put a bundle's weights into a model whose vocabularies begin with the bundle's; new rows start at the unknown row."""
    state = model.state_dict()
    for name, value in bundle.weights().items():
        if name not in state or state[name].shape != value.shape:
            have = list(state[name].shape) if name in state else "no such parameter"
            raise BadInput(f"{bundle.path}: parameter {name} is {list(value.shape)}, the model has {have}")
        state[name] = torch.from_numpy(value.copy())
    for name, table in zip(("items", "categories"), bundle.embeddings(), strict=True):
        rows = state[f"embedding.{name}.weight"]
        known = torch.from_numpy(np.array(table))
        rows[: len(known)] = known
        # An id that was unknown until now goes on from what unknown ids have learned.
        rows[len(known) :] = known[1]
    model.load_state_dict(state)


def model_of(bundle: Bundle) -> MemoryCtr[Any]:
    """A bundle as a torch model."""
    model = make_memory(
        variant_from_json(bundle.manifest.variant),
        item_rows=bundle.items.table_rows,
        category_rows=bundle.categories.table_rows,
        head_features=len(bundle.manifest.head_features),
    )
    load_weights(model, bundle)
    return model
