"""A linear-attention memory under the gated delta rule: `heads` matrices that are corrected, not only added to.

    k, v, q   = keys, values and queries of the event or candidate; k and q have length 1
    S         = alpha S                                          forgets, alpha in (0, 1) from the event
    S'        = S + beta k (v - S^T k)^T                         what is kept under k moves to v, beta in (0, 1) from the event
    read      = S^T q

With beta = 1 a key reads back exactly what was written last under it; MIMN's erase and add are the same idea over slots.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from model.nn.ctr import PooledCtr
from model.nn.head import glorot
from model.nn.state import pool
from model.nn.step import MemoryStep
from uic.models import Delta

# Untrained, a memory keeps 0.98 of itself at each event.
_KEEPS = 4.0
_FLOOR = 1e-12


class DeltaState(NamedTuple):
    """The matrices of all heads, their keys one below the other, beside the pooled events."""

    associations: Tensor  # [B, heads * K, V]
    event_pool: Tensor  # [B, X]
    applied: Tensor  # [B, 1]


class DeltaEvent(NamedTuple):
    """An event, and its key, value and both gates in every head."""

    event: Tensor  # [B, X]
    key: Tensor  # [B, G, K]
    value: Tensor  # [B, G, V]
    keep: Tensor  # [B, G], alpha
    write: Tensor  # [B, G], beta


class DeltaStep(MemoryStep[DeltaState]):
    """Corrects the matrices by one event."""

    kind = DeltaState
    variant: Delta

    def __init__(self, variant: Delta) -> None:
        super().__init__()
        v = self.variant = variant
        self.to_keys = glorot(v.event_width, v.heads * v.key_width)
        self.to_values = glorot(v.event_width, v.heads * v.value_width)
        self.to_gates = glorot(v.event_width, 2 * v.heads)
        with torch.no_grad():
            self.to_gates.bias[: v.heads] = _KEEPS

    def initial_state(self, batch: int) -> DeltaState:
        zeros, v = self.to_gates.bias.new_zeros, self.variant
        associations = zeros(batch, v.heads * v.key_width, v.value_width)
        return DeltaState(associations, zeros(batch, v.event_width), zeros(batch, 1))

    def keys(self, layer: nn.Linear, vectors: Tensor) -> Tensor:
        """Keys or queries of length 1, [..., G, K]."""
        keys = torch.unflatten(layer(vectors), -1, (self.variant.heads, -1))
        return keys / (keys.square().sum(-1, keepdim=True) + _FLOOR).sqrt()

    def each(self, events_BTX: Tensor) -> list[DeltaEvent]:
        heads = self.variant.heads
        keep, write = torch.sigmoid(self.to_gates(events_BTX)).tensor_split(2, dim=-1)
        values = torch.unflatten(self.to_values(events_BTX), -1, (heads, -1))
        parts = (events_BTX, self.keys(self.to_keys, events_BTX), values, keep, write)
        return [DeltaEvent(*event) for event in zip(*(part.unbind(1) for part in parts), strict=True)]

    def cut(self, event: DeltaEvent, users: int) -> DeltaEvent:
        return DeltaEvent(*(part[:users] for part in event))

    def advance(self, state: DeltaState, event: DeltaEvent) -> tuple[DeltaState, None]:
        kept_BGKV = event.keep[..., None, None] * torch.unflatten(state.associations, 1, (self.variant.heads, -1))
        known_BG1V = event.key.unsqueeze(-2) @ kept_BGKV
        change_BG1V = event.write[..., None, None] * (event.value.unsqueeze(-2) - known_BG1V)
        applied_B1 = state.applied + 1.0
        after = DeltaState(
            associations=(kept_BGKV + event.key.unsqueeze(-1) * change_BG1V).flatten(1, 2),
            event_pool=pool(state.event_pool, event.event, applied_B1, self.variant.pooling),
            applied=applied_B1,
        )
        return after, None


class DeltaCtr(PooledCtr[DeltaState]):
    """The delta rule: the head sees [candidate, pooled events, what every head reads under the candidate's query]."""

    step: DeltaStep

    def __init__(self, variant: Delta, **tables: Any) -> None:  # item_rows, category_rows, head_features
        super().__init__(variant, DeltaStep(variant), variant.heads * variant.value_width, **tables)
        self.to_queries = glorot(variant.event_width, variant.heads * variant.key_width)

    def read(self, state: DeltaState, candidate_BNX: Tensor) -> list[Tensor]:
        query_BGNK = self.step.keys(self.to_queries, candidate_BNX).transpose(1, 2)
        associations_BGKV = torch.unflatten(state.associations, 1, (self.step.variant.heads, -1))
        return [(query_BGNK @ associations_BGKV).transpose(1, 2).flatten(2)]
