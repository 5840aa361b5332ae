"""DIEN: interest extraction by a GRU, interest evolution by a second one that the candidate's attention drives (mimn-spec 5).

    h_1..h_T  = GRU(x_1..x_T)
    a_t       = softmax_t(attention(q, h_t))
    h'_t      = AUGRU(h_t, a_t):  u <- (1 - a_t) u,  h' = u h'_{t-1} + (1 - u) c        so a_t = 0 still moves the state

Without the user embedding of the original, and with PReLU, as the authors of MIMN have it.
"""

from typing import Any

import torch
from torch import Tensor

from model.nn.gru import GruCell
from model.nn.head import TargetAttention
from model.nn.history import HistoryCtr
from model.nn.walk import Walk
from uic.errors import BadInput
from uic.models import Dien


class DienCtr(HistoryCtr):
    """DIEN: the head sees [candidate, h'_T, pooled events, candidate * pooled events]."""

    def __init__(self, variant: Dien, **tables: Any) -> None:  # item_rows, category_rows, head_features
        super().__init__(variant, 3 * variant.event_width + variant.units, **tables)
        if variant.units != variant.event_width:
            raise BadInput(
                f"model.units: an event of {variant.event_width} floats attends to states of as many, got {variant.units}"
            )
        self.extraction = GruCell(variant.event_width, 0, variant.units)
        self.attention = TargetAttention(variant.event_width)
        self.predicts_from = variant.units
        self.evolution = GruCell(variant.units, 0, variant.units)

    def interests(self, events_PLX: Tensor, mask_PL: Tensor) -> Tensor:
        """The state of the first GRU after each event, [P, L, H]: what the auxiliary loss predicts the next event from."""
        return Walk.over(self.steps(mask_PL)).run(self.extraction, events_PLX)

    def see(self, events_PLX: Tensor, mask_PL: Tensor, pooled_PNX: Tensor, candidate_PNX: Tensor) -> list[Tensor]:
        places, candidates, _ = candidate_PNX.shape
        walk = Walk.over(self.steps(mask_PL))
        interests_PLH = walk.run(self.extraction, events_PLX)
        attention_PNL = torch.softmax(self.attention.scores(candidate_PNX, interests_PLH, mask_PL), dim=-1)
        if candidates > 1:
            # One row a candidate: each drives a walk of its own over the same interests.
            interests_PLH = interests_PLH.repeat_interleave(candidates, dim=0)
            walk = Walk.over(self.steps(mask_PL).repeat_interleave(candidates, dim=0))
        evolved = walk.last(walk.run(self.evolution, interests_PLH, attention_PNL.flatten(0, 1)))
        return [candidate_PNX, evolved.view(places, candidates, -1), pooled_PNX, candidate_PNX * pooled_PNX]
