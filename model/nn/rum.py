"""RUM: a memory network that addresses its slots by content alone (mimn-spec 5; the authors' rum.py in equations).

h'     = GRU([x; r], h)
w      = softmax(beta cos(k, M)),  beta = 1 + softplus        for a read and a write head, both over the old slots
r'     = w_read M
M'     = M * (1 - w_write e^T) + w_write a^T
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from model.nn.addressing import content_weights
from model.nn.ctr import PooledCtr
from model.nn.gru import EventInput, GruCell
from model.nn.head import TargetAttention
from model.nn.mimn import CLIP, dense, write_memory
from model.nn.state import pool
from model.nn.step import MemoryStep
from uic.models import Rum


class RumState(NamedTuple):
    """Controller, last read and slots, beside the pooled events."""

    controller: Tensor  # [B, H]
    read: Tensor  # [B, X]
    slots: Tensor  # [B, M, X]
    event_pool: Tensor  # [B, X]
    applied: Tensor  # [B, 1]


class RumStep(MemoryStep[RumState]):
    """One event read from and written to the slots."""

    kind = RumState
    resets = ("controller", "slots")
    variant: Rum

    def __init__(self, variant: Rum) -> None:
        super().__init__()
        v = self.variant = variant
        self.controller = GruCell(v.event_width, v.event_width, v.controller_units)
        self.to_heads = dense(v.controller_units, 2 * (v.event_width + 1) + 2 * v.event_width)
        self.initial_read = nn.Parameter(torch.empty(v.event_width))
        nn.init.uniform_(self.initial_read, -(bound := (6 / (1 + v.event_width)) ** 0.5), bound)
        self.register_buffer("initial_slots", torch.randn(v.slots, v.event_width) * 1e-5)
        self.initial_slots: Tensor

    def initial_state(self, batch: int) -> RumState:
        v, slots = self.variant, torch.tanh(self.initial_slots)
        return RumState(
            controller=slots.new_zeros(batch, v.controller_units),
            read=torch.tanh(self.initial_read).expand(batch, -1),
            slots=slots.expand(batch, -1, -1),
            event_pool=slots.new_zeros(batch, v.event_width),
            applied=slots.new_zeros(batch, 1),
        )

    def each(self, events_BTX: Tensor) -> list[EventInput]:
        return EventInput(events_BTX, self.controller.project(events_BTX)).each()

    def cut(self, event: EventInput, users: int) -> EventInput:
        return event.first(users)

    def advance(self, state: RumState, event: EventInput) -> tuple[RumState, None]:
        h_BH = self.controller(event.controller, state.read, state.controller)
        width = self.variant.event_width
        raw = self.to_heads(h_BH).clamp(-CLIP, CLIP)
        heads, erase, add = torch.split(raw, [2 * (width + 1), width, width], dim=-1)
        heads_B2P = torch.unflatten(heads, -1, (2, width + 1))
        strength_B21 = softplus(heads_B2P[..., width:]) + 1.0
        weights_B2M = content_weights(torch.tanh(heads_B2P[..., :width]), strength_B21, state.slots, None)
        read_BM, write_BM = weights_B2M.unbind(-2)
        applied_B1 = state.applied + 1.0
        after = RumState(
            controller=h_BH,
            read=(read_BM.unsqueeze(-2) @ state.slots).squeeze(-2),
            slots=write_memory(state.slots, write_BM, torch.sigmoid(erase), torch.tanh(add)),
            event_pool=pool(state.event_pool, event.event, applied_B1, self.variant.pooling),
            applied=applied_B1,
        )
        return after, None


class RumCtr(PooledCtr[RumState]):
    """RUM: the head sees [candidate, pooled events, h_T, the slots as the candidate attends to them]."""

    step: RumStep

    def __init__(self, variant: Rum, **tables: Any) -> None:  # item_rows, category_rows, head_features
        super().__init__(variant, RumStep(variant), variant.controller_units + variant.event_width, **tables)
        self.attention = TargetAttention(variant.event_width)

    def read(self, state: RumState, candidate_BNX: Tensor) -> list[Tensor]:
        h_BNH = state.controller.unsqueeze(1).expand(-1, candidate_BNX.shape[1], -1)
        return [h_BNH, self.attention(candidate_BNX, state.slots)]
