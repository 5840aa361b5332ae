"""Models that look at raw events again for every candidate: what they see, and what they have in common."""

from typing import NamedTuple

import torch
from torch import Tensor

from model.nn.ctr import CtrModel
from model.nn.embedding import EventEmbedding
from model.nn.head import Mlp
from uic.models import History


class Events(NamedTuple):
    """What a history model sees at P places: the rows of up to L events, and which of them are real.

    `negatives`: rows of items and categories that were not the event, while the auxiliary loss is trained.
    """

    item_PL: Tensor
    category_PL: Tensor
    mask_PL: Tensor
    negatives: tuple[Tensor, Tensor] | None = None


class HistoryCtr(CtrModel):
    """A compared model without a memory; a subclass says what its head sees.

    Padded events may lie anywhere and change nothing, unless `runs_through_padding`: then recurrences take their zero vectors
    for events, as the authors' code does.
    """

    variant: History
    runs_through_padding = False

    def __init__(self, variant: History, inputs: int, *, item_rows: int, category_rows: int, head_features: int = 0) -> None:
        super().__init__()
        self.variant = variant
        self.embedding = EventEmbedding(item_rows, category_rows, variant.event_width // 2)
        self.mlp = Mlp(inputs + head_features)

    def see(self, events_PLX: Tensor, mask_PL: Tensor, pooled_PNX: Tensor, candidate_PNX: Tensor) -> list[Tensor]:
        """What the head sees, tensors [P, N, *]; padded events are zero vectors."""
        raise NotImplementedError

    def inputs(self, events_PLX: Tensor, mask_PL: Tensor, candidate_PNX: Tensor, features_PNC: Tensor | None = None) -> Tensor:
        """What the MLP sees, [P, N, I]; `mask_PL` is boolean."""
        events_PLX = events_PLX * mask_PL.unsqueeze(-1)
        pooled_PX = events_PLX.sum(1)
        if self.variant.pooling == "mean":
            pooled_PX = pooled_PX / mask_PL.sum(1, keepdim=True).clamp_min(1)
        pooled_PNX = pooled_PX.unsqueeze(1).expand_as(candidate_PNX)
        parts = self.see(events_PLX, mask_PL, pooled_PNX, candidate_PNX)
        return torch.cat(parts if features_PNC is None else [*parts, features_PNC], dim=-1)

    def steps(self, mask_PL: Tensor) -> Tensor:
        """Where a recurrence takes a step."""
        return torch.ones_like(mask_PL) if self.runs_through_padding else mask_PL

    def blank(self, places: int) -> Events:
        rows = torch.zeros(places, 1, dtype=torch.long, device=self.embedding.items.weight.device)
        return Events(rows, rows, rows.bool())

    def logits(self, seen: Events, item_rows_PN: Tensor, category_rows_PN: Tensor, features: Tensor | None = None) -> Tensor:
        events_PLX = self.embedding(seen.item_PL, seen.category_PL)
        candidate_PNX = self.embedding(item_rows_PN, category_rows_PN)
        return self.mlp(self.inputs(events_PLX, seen.mask_PL, candidate_PNX, features))  # type: ignore[no-any-return]  # torch: Module returns Any
