"""Golden vectors of the compared models: the whole model on left-padded histories, as the authors ran it (mimn-spec 5).

Their GRUs run through the zero vectors of padded positions; RUM puts controller and slots back at them; attention masks them.
"""

from typing import Any, cast

import torch
from torch import Tensor

from model.golden_weights import Arrays, Weights
from model.nn.arnn import ArnnCtr
from model.nn.auxiliary import AuxiliaryNet
from model.nn.ctr import CtrModel, PooledCtr
from model.nn.dien import DienCtr
from model.nn.din import DinCtr
from model.nn.gru4rec import Gru4RecCtr
from model.nn.history import HistoryCtr
from model.nn.losses import ctr_loss
from model.nn.models import make
from model.nn.rum import RumCtr
from model.nn.sequence import scan
from uic.models import AnyVariant, Arnn, Dien, Din, Gru4Rec, Mlp, Rum

COMPARED = ("DNN", "PNN", "DIN", "GRU4REC", "ARNN", "RUM", "DIEN")


def check_compared(name: str, golden: Arrays, meta: dict[str, Any]) -> Arrays:
    """All that a golden file of this model holds, computed by ours."""
    rows, width = meta["n_mid"], 2 * meta["E"]
    model = make(_variant(name, width, golden), item_rows=rows, category_rows=rows).double()
    # One joint table for items and categories, as the authors have it.
    model.embedding.categories = model.embedding.items
    weights = Weights(golden)
    weights.put("mid_embedding_var", model.embedding.items.weight)
    _put(weights, model)

    mask_BT = golden["in/mask"]
    events_BTX = model.embedding(golden["in/item_his"], golden["in/cate_his"]) * mask_BT.unsqueeze(-1)
    candidate_B1X = model.embedding(golden["in/item"], golden["in/cate"]).unsqueeze(1)
    out: Arrays = {}
    if isinstance(model, HistoryCtr):
        model.runs_through_padding = True
        weights.mlp(model.mlp)
        inputs_B1I = model.inputs(events_BTX, mask_BT > 0, candidate_B1X)
        logits_B2 = model.mlp(inputs_B1I)[:, 0]
    else:
        memory = cast(PooledCtr[Any], model)
        weights.mlp(memory.mlp)
        state = scan(memory.step, events_BTX, mask_BT, "reset" if name == "RUM" else "run").state
        inputs_B1I = memory.inputs(state, candidate_B1X)
        logits_B2 = memory.mlp(inputs_B1I)[:, 0]
        if isinstance(model, RumCtr):
            out = {"final_M": state.slots, "final_controller_state": state.controller}
    loss = ctr_loss(logits_B2, golden["in/target"][:, 0], "half_softmax")
    if meta.get("aux"):
        assert isinstance(model, DienCtr)
        interests_BTH = model.interests(events_BTX, mask_BT > 0)
        out["aux_loss"] = auxiliary_loss(golden, weights, model, interests_BTH, events_BTX)
        loss = loss + out["aux_loss"]
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    out |= {"inp": inputs_B1I[:, 0], "y_hat": torch.softmax(logits_B2, dim=-1) + 1e-8, "loss": loss}
    return {**{f"out/{key}": value for key, value in out.items()}, **weights.gradients()}


def auxiliary_loss(golden: Arrays, weights: Weights, model: CtrModel, outputs_BTO: Tensor, events_BTX: Tensor) -> Tensor:
    """The authors': the mean over all positions but the first, of padded ones too, which count nothing."""
    net = AuxiliaryNet(outputs_BTO.shape[-1], events_BTX.shape[-1]).double()
    weights.auxiliary(net)
    mask_BT = golden["in/mask"]
    negatives_BTX = model.embedding(golden["in/neg_item"], golden["in/neg_cate"]) * mask_BT.unsqueeze(-1)
    return (net.losses(outputs_BTO[:, :-1], events_BTX[:, 1:], negatives_BTX[:, 1:]) * mask_BT[:, 1:]).mean()


def _variant(name: str, width: int, golden: Arrays) -> AnyVariant:
    if name == "RUM":
        units, slots = golden["W/o2p/fully_connected/weights"].shape[0], golden["W/init/init_M"].shape[0]
        return Rum(event_width=width, pooling="sum", controller_units=units, slots=slots)
    if name in ("DNN", "PNN"):
        return Mlp(event_width=width, pooling="sum", product=name == "PNN")
    if name == "DIN":
        return Din(event_width=width, pooling="sum")
    kinds: dict[str, type[Gru4Rec | Arnn | Dien]] = {"GRU4REC": Gru4Rec, "ARNN": Arnn, "DIEN": Dien}
    return kinds[name](event_width=width, pooling="sum", units=width)


def _put(weights: Weights, model: CtrModel) -> None:
    """All but embeddings and MLP."""
    if isinstance(model, DinCtr | ArnnCtr | DienCtr | RumCtr):
        weights.attention(model.attention)
    if isinstance(model, Gru4RecCtr):
        weights.gru("gru1/gru_cell", model.step.gru)
    if isinstance(model, ArnnCtr):
        weights.gru("gru1/gru_cell", model.gru)
    if isinstance(model, DienCtr):
        weights.gru("gru1/gru_cell", model.extraction)
        weights.gru(weights.scope("gru2/.*", "gates/kernel"), model.evolution)
    if isinstance(model, RumCtr):
        weights.rum(model.step)
