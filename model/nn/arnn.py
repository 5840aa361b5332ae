"""ARNN: a GRU over the events, whose states the candidate attends to (mimn-spec 5).

The state after every event is needed again for every candidate, so there is no memory of fixed size.
"""

from typing import Any

from torch import Tensor

from model.nn.gru import GruCell
from model.nn.head import TargetAttention
from model.nn.history import HistoryCtr
from model.nn.walk import Walk
from uic.errors import BadInput
from uic.models import Arnn


class ArnnCtr(HistoryCtr):
    """ARNN: the head sees [candidate, pooled events, h_T, the states as the candidate attends to them]."""

    def __init__(self, variant: Arnn, **tables: Any) -> None:  # item_rows, category_rows, head_features
        super().__init__(variant, 2 * variant.event_width + 2 * variant.units, **tables)
        if variant.units != variant.event_width:
            raise BadInput(
                f"model.units: an event of {variant.event_width} floats attends to states of as many, got {variant.units}"
            )
        self.gru = GruCell(variant.event_width, 0, variant.units)
        self.attention = TargetAttention(variant.event_width)

    def see(self, events_PLX: Tensor, mask_PL: Tensor, pooled_PNX: Tensor, candidate_PNX: Tensor) -> list[Tensor]:
        walk = Walk.over(self.steps(mask_PL))
        states_PLH = walk.run(self.gru, events_PLX)
        last_PNH = walk.last(states_PLH).unsqueeze(1).expand(-1, candidate_PNX.shape[1], -1)
        return [candidate_PNX, pooled_PNX, last_PNH, self.attention(candidate_PNX, states_PLH, mask_PL)]
