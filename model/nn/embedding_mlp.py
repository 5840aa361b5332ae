"""Embedding&MLP: the memory is the pooled events, and the head sees nothing else of a user."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.nn.ctr import PooledCtr
from model.nn.state import pool
from model.nn.step import MemoryStep
from uic.models import Mlp


class PoolState(NamedTuple):
    """The pooled events, and how many there were."""

    event_pool: Tensor  # [B, X]
    applied: Tensor  # [B, 1]


class PoolStep(MemoryStep[PoolState]):
    """Adds an event to the pool."""

    kind = PoolState
    variant: Mlp

    def __init__(self, variant: Mlp) -> None:
        super().__init__()
        self.variant = variant
        # Nothing is trained here, and a model moved to another device takes the initial state along.
        self.register_buffer("empty_X", torch.zeros(variant.event_width))
        self.empty_X: Tensor

    def initial_state(self, batch: int) -> PoolState:
        return PoolState(self.empty_X.expand(batch, -1), self.empty_X.new_zeros(batch, 1))

    def advance(self, state: PoolState, event: Tensor) -> tuple[PoolState, None]:
        applied_B1 = state.applied + 1.0
        return PoolState(pool(state.event_pool, event, applied_B1, self.variant.pooling), applied_B1), None


class MlpCtr(PooledCtr[PoolState]):
    """Embedding&MLP: the head sees [candidate, pooled events], and their product where the variant says so."""

    step: PoolStep

    def __init__(self, variant: Mlp, **tables: Any) -> None:  # item_rows, category_rows, head_features
        super().__init__(variant, PoolStep(variant), variant.event_width if variant.product else 0, **tables)

    def read(self, state: PoolState, candidate_BNX: Tensor) -> list[Tensor]:
        return [candidate_BNX * state.event_pool.unsqueeze(1)] if self.step.variant.product else []
