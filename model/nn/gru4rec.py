"""GRU4REC: the memory is the state of a GRU over the events (mimn-spec 5)."""

from typing import Any, NamedTuple

from torch import Tensor

from model.nn.ctr import PooledCtr
from model.nn.gru import EventInput, GruCell
from model.nn.state import pool
from model.nn.step import MemoryStep
from uic.models import Gru4Rec


class GruState(NamedTuple):
    """The GRU's state beside the pooled events."""

    hidden: Tensor  # [B, H]
    event_pool: Tensor  # [B, X]
    applied: Tensor  # [B, 1]


class GruStep(MemoryStep[GruState]):
    """One step of the GRU."""

    kind = GruState
    resets = ("hidden",)
    variant: Gru4Rec

    def __init__(self, variant: Gru4Rec) -> None:
        super().__init__()
        self.variant = variant
        self.gru = GruCell(variant.event_width, 0, variant.units)

    def initial_state(self, batch: int) -> GruState:
        zeros = self.gru.gates.bias.new_zeros
        return GruState(zeros(batch, self.variant.units), zeros(batch, self.variant.event_width), zeros(batch, 1))

    def each(self, events_BTX: Tensor) -> list[EventInput]:
        return EventInput(events_BTX, self.gru.project(events_BTX)).each()

    def cut(self, event: EventInput, users: int) -> EventInput:
        return event.first(users)

    def advance(self, state: GruState, event: EventInput) -> tuple[GruState, None]:
        applied_B1 = state.applied + 1.0
        after = GruState(
            hidden=self.gru(event.controller, None, state.hidden),
            event_pool=pool(state.event_pool, event.event, applied_B1, self.variant.pooling),
            applied=applied_B1,
        )
        return after, None


class Gru4RecCtr(PooledCtr[GruState]):
    """GRU4REC: the head sees [candidate, pooled events, h_T]."""

    step: GruStep

    def __init__(self, variant: Gru4Rec, **tables: Any) -> None:  # item_rows, category_rows, head_features
        super().__init__(variant, GruStep(variant), variant.units, **tables)

    def read(self, state: GruState, candidate_BNX: Tensor) -> list[Tensor]:
        return [state.hidden.unsqueeze(1).expand(-1, candidate_BNX.shape[1], -1)]
