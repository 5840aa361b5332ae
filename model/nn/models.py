"""Every model by the variant that describes it."""

from typing import Any

from model.nn.arnn import ArnnCtr
from model.nn.auxiliary import AuxiliaryNet
from model.nn.ctr import CtrModel, MemoryCtr, MimnCtr
from model.nn.delta import DeltaCtr
from model.nn.dien import DienCtr
from model.nn.din import DinCtr
from model.nn.embedding_mlp import MlpCtr
from model.nn.gru4rec import Gru4RecCtr
from model.nn.rum import RumCtr
from model.nn.sdim import SdimCtr
from uic.errors import BadInput
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


def make(
    variant: AnyVariant, *, item_rows: int, category_rows: int, head_features: int = 0, auxiliary: bool = False
) -> CtrModel:
    """The untrained model of a variant, over tables of these sizes; with the net of the auxiliary loss where that is trained.

    Raises BadInput where a model has no auxiliary loss.
    """
    kind: Any = MODELS[variant.model]  # each class takes its own variant
    model: CtrModel = kind(variant, item_rows=item_rows, category_rows=category_rows, head_features=head_features)
    if auxiliary:
        if not isinstance(model, MimnCtr | DienCtr):
            raise BadInput(
                f"train.auxiliary_weight: expected 0, since {variant.model} has no auxiliary loss; mimn and dien have"
            )
        model.auxiliary = AuxiliaryNet(model.predicts_from, variant.event_width)
    return model


def make_memory(variant: AnyVariant, *, item_rows: int, category_rows: int, head_features: int = 0) -> MemoryCtr[Any]:
    """The same for a model with a memory; raises BadInput for one that needs the raw events."""
    memory_of(variant)
    model = make(variant, item_rows=item_rows, category_rows=category_rows, head_features=head_features)
    assert isinstance(model, MemoryCtr)
    return model
