"""What training minimises: the CTR loss and the regulariser of memory utilization."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from model.nn.addressing import shares

_EVENTS_A_SLOT = 4

CtrLoss = Literal["bce", "half_softmax"]
Regulariser = Literal["share", "raw", "none"]


def ctr_loss(logits: Tensor, labels: Tensor, kind: CtrLoss = "bce", *, reduce: bool = True) -> Tensor:
    """The loss of two logits [..., 2] against labels [...] in {0, 1}: the mean, or each sample's own, [...].

    bce             binary cross entropy of z_0 - z_1
    half_softmax    the authors': mean over both entries of softmax + 1e-8, which is half of the above
    """
    if kind == "bce":
        losses = binary_cross_entropy_with_logits(logits[..., 0] - logits[..., 1], labels, reduction="none")
    else:
        probabilities = torch.softmax(logits, dim=-1) + 1e-8
        target = torch.stack([labels, 1.0 - labels], dim=-1)
        losses = -(torch.log(probabilities) * target).mean(-1)
    return losses.mean() if reduce else losses


def utilization_loss(utilization_BM: Tensor, kind: Regulariser, weight: float, *, reduce: bool = True) -> Tensor:
    """L_reg: how unequally the slots were written (Eq. 8); the mean, or each memory's own, [B].

    share   weight * sum_i (g_i / sum(g) - 1/m)^2: independent of batch size and of history length; 0 for memories of fewer
            than 4 m events, which only writes spread over all slots could level, and those make the slots alike
    raw     the authors': weight * sum_i (g_i - mean_i g)^2 / (m^2 B)
    """
    batch, slots = utilization_BM.shape
    if kind == "none":
        losses = utilization_BM.new_zeros(batch)
    elif kind == "share":
        enough = utilization_BM.detach().sum(-1) > _EVENTS_A_SLOT * slots - 0.5
        losses = weight * (shares(utilization_BM) - 1.0 / slots).square().sum(-1) * enough
    else:
        spread = utilization_BM - utilization_BM.mean(-1, keepdim=True)
        losses = weight * spread.square().mean(-1) / slots / batch
    return losses.mean() if reduce else losses
