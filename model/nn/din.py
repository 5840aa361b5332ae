"""DIN: the candidate attends to the events themselves (mimn-spec 5)."""

from typing import Any

from torch import Tensor

from model.nn.head import TargetAttention
from model.nn.history import HistoryCtr
from uic.models import Din


class DinCtr(HistoryCtr):
    """DIN: the head sees [candidate, pooled events, the events as the candidate attends to them]."""

    def __init__(self, variant: Din, **tables: Any) -> None:  # item_rows, category_rows, head_features
        super().__init__(variant, 3 * variant.event_width, **tables)
        self.attention = TargetAttention(variant.event_width)

    def see(self, events_PLX: Tensor, mask_PL: Tensor, pooled_PNX: Tensor, candidate_PNX: Tensor) -> list[Tensor]:
        return [candidate_PNX, pooled_PNX, self.attention(candidate_PNX, events_PLX, mask_PL)]
