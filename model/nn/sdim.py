"""SDIM: events kept as sums in hash buckets, read by the buckets that the candidate falls into (Cao et al., CIKM'22).

    signature of x in hash g:  the signs of x R_g,  R_g fixed at random                 `bits` of them name a bucket
    update:  S_g[signature(x)] += x                                                     one addition a hash
    read:    mean over g of S_g[signature(q)] / |S_g[signature(q)]|

What shares the candidate's signature points its way, so the sum is target attention with the hash as its weight.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.nn.ctr import PooledCtr
from model.nn.state import pool
from model.nn.step import MemoryStep
from uic.models import Sdim

# The norm of an empty bucket is 0.
_FLOOR = 1e-12


class SdimState(NamedTuple):
    """The buckets of all hashes one after the other, beside the pooled events."""

    buckets: Tensor  # [B, G * K, X]
    event_pool: Tensor  # [B, X]
    applied: Tensor  # [B, 1]


class SdimStep(MemoryStep[SdimState]):
    """Adds an event to its bucket in every hash."""

    kind = SdimState
    variant: Sdim

    def __init__(self, variant: Sdim) -> None:
        super().__init__()
        v = self.variant = variant
        self.register_buffer("hyperplanes", torch.randn(v.event_width, v.hashes * v.bits))
        self.hyperplanes: Tensor
        self.register_buffer("powers", 2 ** torch.arange(v.bits), persistent=False)
        self.powers: Tensor
        self.register_buffer("places", torch.arange(2**v.bits), persistent=False)
        self.places: Tensor

    def buckets_of(self, vectors: Tensor) -> Tensor:
        """1 at the bucket of each hash that the vectors [..., X] fall into, [..., G * K]."""
        device = vectors.device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            # Rounded to 16 bits, a candidate would look into another bucket than the same event fell into.
            with torch.autocast(device, enabled=False):
                return self.buckets_of(vectors)
        signs = torch.unflatten(vectors.detach() @ self.hyperplanes > 0, -1, (self.variant.hashes, self.variant.bits))
        bucket_G1 = (signs * self.powers).sum(-1, keepdim=True)
        return (bucket_G1 == self.places).flatten(-2).to(vectors.dtype)

    def initial_state(self, batch: int) -> SdimState:
        zeros, v = self.hyperplanes.new_zeros, self.variant
        buckets = zeros(batch, v.hashes * 2**v.bits, v.event_width)
        return SdimState(buckets, zeros(batch, v.event_width), zeros(batch, 1))

    def each(self, events_BTX: Tensor) -> list[tuple[Tensor, Tensor]]:
        return list(zip(events_BTX.unbind(1), self.buckets_of(events_BTX).unbind(1), strict=True))

    def cut(self, event: tuple[Tensor, Tensor], users: int) -> tuple[Tensor, Tensor]:
        return event[0][:users], event[1][:users]

    def advance(self, state: SdimState, event: tuple[Tensor, Tensor]) -> tuple[SdimState, None]:
        event_BX, of_B = event
        applied_B1 = state.applied + 1.0
        after = SdimState(
            buckets=state.buckets + of_B.unsqueeze(-1) * event_BX.unsqueeze(-2),
            event_pool=pool(state.event_pool, event_BX, applied_B1, self.variant.pooling),
            applied=applied_B1,
        )
        return after, None


class SdimCtr(PooledCtr[SdimState]):
    """SDIM: the head sees [candidate, pooled events, the candidate's buckets]."""

    step: SdimStep

    def __init__(self, variant: Sdim, **tables: Any) -> None:  # item_rows, category_rows, head_features
        super().__init__(variant, SdimStep(variant), variant.event_width, **tables)

    def read(self, state: SdimState, candidate_BNX: Tensor) -> list[Tensor]:
        hashes = self.step.variant.hashes
        of_BNGK = torch.unflatten(self.step.buckets_of(candidate_BNX), -1, (hashes, -1))
        buckets_BGKX = torch.unflatten(state.buckets, 1, (hashes, -1))
        sums_BGNX = of_BNGK.transpose(1, 2) @ buckets_BGKX
        norms = (sums_BGNX.square().sum(-1, keepdim=True) + _FLOOR).sqrt()
        return [(sums_BGNX / norms).mean(1)]
