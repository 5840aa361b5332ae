"""Every model by the variant that describes it."""

from typing import Any

from model.nn.arnn import ArnnCtr
from model.nn.ctr import CtrModel, MemoryCtr, MimnCtr
from model.nn.delta import DeltaCtr
from model.nn.dien import DienCtr
from model.nn.din import DinCtr
from model.nn.embedding_mlp import MlpCtr
from model.nn.gru4rec import Gru4RecCtr
from model.nn.rum import RumCtr
from model.nn.sdim import SdimCtr
from uic.models import AnyVariant, memory_of

MODELS: dict[str, type[CtrModel]] = {
    "mimn": MimnCtr,
    "mlp": MlpCtr,
    "din": DinCtr,
    "gru4rec": Gru4RecCtr,
    "arnn": ArnnCtr,
    "rum": RumCtr,
    "dien": DienCtr,
    "sdim": SdimCtr,
    "delta": DeltaCtr,
}


def make(variant: AnyVariant, *, item_rows: int, category_rows: int, head_features: int = 0) -> CtrModel:
    """The untrained model of a variant, over tables of these sizes."""
    kind: Any = MODELS[variant.model]  # each class takes its own variant
    model: CtrModel = kind(variant, item_rows=item_rows, category_rows=category_rows, head_features=head_features)
    return model


def make_memory(variant: AnyVariant, *, item_rows: int, category_rows: int, head_features: int = 0) -> MemoryCtr[Any]:
    """The same for a model with a memory; raises BadInput for one that needs the raw events."""
    memory_of(variant)
    model = make(variant, item_rows=item_rows, category_rows=category_rows, head_features=head_features)
    assert isinstance(model, MemoryCtr)
    return model
