"""From a memory and candidates to click probabilities: the CTR head (mimn-spec 2.6)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import prelu

from model.nn.mimn import MimnState, MimnStep
from uic.variant import Variant

# The authors' batch norm never updates its statistics: what is left is a trained affine over sqrt(1 + 1e-3).
_FROZEN_DEVIATION = 1.001**0.5


class FrozenAffine(nn.Module):
    """x / sqrt(1.001) * gamma + beta: batch norm with its moving mean at 0 and variance at 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))
        self.beta = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return x / _FROZEN_DEVIATION * self.gamma + self.beta


class TargetAttention(nn.Module):
    """DIN's attention of a candidate over facts: dense 80 and 40, sigmoid, softmax without scaling, weighted sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = glorot(4 * width, 80)
        self.second = glorot(80, 40)
        self.third = glorot(40, 1)

    def forward(self, query_BNX: Tensor, facts_BTX: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """The facts as each candidate sees them, [B, N, X]."""
        seen_BNX: Tensor = torch.softmax(self.scores(query_BNX, facts_BTX, mask_BT), dim=-1) @ facts_BTX
        return seen_BNX

    def scores(self, query_BNX: Tensor, facts_BTX: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """Unnormalised attention, [B, N, T]; masked facts get -2^32 + 1.

        The first layer sees [q, f, q - f, q * f]. Its weight is split so that the parts in q or f alone are multiplied once
        a candidate or a fact, not once a pair.
        """
        q, f, difference, product = self.first.weight.chunk(4, dim=1)
        from_query_BN1 = (query_BNX @ (q + difference).mT).unsqueeze(2)
        from_facts_B1T = (facts_BTX @ (f - difference).mT).unsqueeze(1)
        pairs_BNTX = query_BNX.unsqueeze(2) * facts_BTX.unsqueeze(1)
        hidden = torch.sigmoid(from_query_BN1 + from_facts_B1T + pairs_BNTX @ product.mT + self.first.bias)
        # In mixed precision the mask's number is out of float16's range, and a softmax needs more digits than 16 bits have.
        scores_BNT: Tensor = self.third(torch.sigmoid(self.second(hidden))).squeeze(-1)
        if scores_BNT.dtype in (torch.float16, torch.bfloat16):
            scores_BNT = scores_BNT.float()
        if mask_BT is not None:
            scores_BNT = scores_BNT.masked_fill(~mask_BT.unsqueeze(1), -(2.0**32) + 1)
        return scores_BNT


class Mlp(nn.Module):
    """Affine, dense 200, PReLU, dense 80, PReLU, two logits: the same for every compared model."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.affine = FrozenAffine(inputs)
        self.first = glorot(inputs, 200)
        self.first_slope = nn.PReLU(200, init=0.1)
        self.second = glorot(200, 80)
        self.second_slope = nn.PReLU(80, init=0.1)
        self.third = glorot(80, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        """Two logits, [..., 2]; click is the first."""
        hidden = _prelu(self.first(self.affine(inputs)), self.first_slope)
        hidden = _prelu(self.second(hidden), self.second_slope)
        return self.third(hidden)  # type: ignore[no-any-return]  # torch: Module returns Any


class CtrHead(nn.Module):
    """Scores N candidates from one memory: [q, s, read-out, channels as q sees them, mean add vector * q, head features].

    With `head_controller` h_T comes before the head features.
    """

    def __init__(self, variant: Variant, features: int = 0) -> None:
        super().__init__()
        self.variant = variant
        width = variant.event_width
        if variant.miu:
            self.attention = TargetAttention(width)
        state = variant.controller_units if variant.head_controller else 0
        self.mlp = Mlp(2 * width + variant.output_width + (width if variant.miu else 0) + width + state + features)

    def inputs(self, step: MimnStep, state: MimnState, candidate_BNX: Tensor, features_BNC: Tensor | None = None) -> Tensor:
        """What the MLP sees, [B, N, I]."""
        v = self.variant
        # The authors' feature is the mean over slots of the sum of add vectors; a mean over events needs no such scale.
        added_BD = state.add_pool / v.slots if v.pooling == "sum" else state.add_pool
        parts = [
            candidate_BNX,
            state.event_pool.unsqueeze(1).expand_as(candidate_BNX),
            step.candidate_read(state, candidate_BNX),
        ]
        if v.miu:
            channels_BMD = state.channels
            assert channels_BMD is not None
            if state.last_channels is not None:
                channels_BMD = channels_BMD * state.last_channels.unsqueeze(-1)
            parts.append(self.attention(candidate_BNX, channels_BMD))
        parts.append(added_BD.unsqueeze(1) * candidate_BNX)
        if v.head_controller:
            parts.append(state.controller.unsqueeze(1).expand(-1, candidate_BNX.shape[1], -1))
        if features_BNC is not None:
            parts.append(features_BNC)
        return torch.cat(parts, dim=-1)

    def forward(self, step: MimnStep, state: MimnState, candidate_BNX: Tensor, features_BNC: Tensor | None = None) -> Tensor:
        """Two logits a candidate, [B, N, 2]; P(click) is the softmax's first."""
        return self.mlp(self.inputs(step, state, candidate_BNX, features_BNC))  # type: ignore[no-any-return]  # torch: Module returns Any


def glorot(inputs: int, outputs: int) -> nn.Linear:
    """A dense layer with glorot-uniform weights and no bias at first."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _prelu(x: Tensor, slope: nn.PReLU) -> Tensor:
    # nn.PReLU wants its channels in dimension 1; ours are in the last.
    return prelu(x.flatten(0, -2), slope.weight).view_as(x)
