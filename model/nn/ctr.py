"""The one interface of every model: embeddings, what it sees of a history, and the head that scores candidates from that.

    CtrModel     anything that is trained and compared: `blank`, `logits`
    MemoryCtr    sees a memory of fixed size, packed [P, F]: it can be exported, streamed and served as well
    PooledCtr    a compared model with a memory: its head sees [candidate, pooled events, what it reads]
    HistoryCtr   sees raw events: model/nn/history.py

model/nn/models.py makes a model of a variant.
"""

from typing import Any, Generic

import torch
from torch import Tensor, nn

from model.nn.auxiliary import AuxiliaryNet
from model.nn.embedding import EventEmbedding
from model.nn.head import CtrHead, Mlp
from model.nn.mimn import MimnState, MimnStep
from model.nn.state import S, pack, unpack
from model.nn.step import MemoryStep
from uic.memory import MemoryLayout
from uic.models import AnyVariant, Memory
from uic.variant import Variant


class CtrModel(nn.Module):
    """A model that is trained and compared.

    `Seen` is what it sees of the histories at P places: packed memories [P, F], or raw events (History).
    """

    variant: AnyVariant
    embedding: EventEmbedding

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary: AuxiliaryNet | None = None  # while it is trained with the auxiliary loss

    def blank(self, places: int) -> Any:  # Seen
        """What is seen of users without events."""
        raise NotImplementedError

    def logits(self, seen: Any, item_rows_PN: Tensor, category_rows_PN: Tensor, features: Tensor | None = None) -> Tensor:
        """Two logits a candidate, [P, N, 2], from what is seen."""
        raise NotImplementedError

    def utilization(self, seen: Any) -> Tensor | None:
        """How much each slot was written, [P, M], where the model balances that."""
        return None


class MemoryCtr(CtrModel, Generic[S]):
    """A model with a memory that does not depend on the candidate: `step` folds events into a state, `score` reads any
    candidates from it."""

    layout: MemoryLayout
    step: MemoryStep[S]

    def initial_state(self, batch: int) -> S:
        return self.step.initial_state(batch)

    def unpack(self, state_BF: Tensor) -> S:
        return unpack(self.step.kind, state_BF, self.layout)

    def score(self, state: S, item_rows_BN: Tensor, category_rows_BN: Tensor, features: Tensor | None = None) -> Tensor:
        """Two logits a candidate, [B, N, 2]."""
        raise NotImplementedError

    def blank(self, places: int) -> Tensor:
        return pack(self.initial_state(1)).expand(places, -1)

    def logits(self, seen: Tensor, item_rows_PN: Tensor, category_rows_PN: Tensor, features: Tensor | None = None) -> Tensor:
        return self.score(self.unpack(seen), item_rows_PN, category_rows_PN, features)


class MimnCtr(MemoryCtr[MimnState]):
    """MIMN with its embeddings and head, as it is trained and exported."""

    variant: Variant
    step: MimnStep

    def __init__(self, variant: Variant, *, item_rows: int, category_rows: int, head_features: int = 0) -> None:
        super().__init__()
        self.variant = variant
        self.layout = MemoryLayout(variant)
        self.embedding = EventEmbedding(item_rows, category_rows, variant.event_width // 2)
        self.step = MimnStep(variant)
        self.head = CtrHead(variant, head_features)
        self.predicts_from = variant.output_width

    def score(self, state: MimnState, item_rows_BN: Tensor, category_rows_BN: Tensor, features: Tensor | None = None) -> Tensor:
        return self.head(self.step, state, self.embedding(item_rows_BN, category_rows_BN), features)  # type: ignore[no-any-return]  # torch: Module returns Any

    def utilization(self, seen: Tensor) -> Tensor | None:
        return self.unpack(seen).utilization


class PooledCtr(MemoryCtr[S]):
    """A compared model with a memory; a subclass makes its `step` and says what `read` finds for a candidate."""

    variant: Memory

    def __init__(
        self, variant: Memory, step: MemoryStep[S], reads: int, *, item_rows: int, category_rows: int, head_features: int = 0
    ) -> None:
        super().__init__()
        self.variant = variant
        self.layout = MemoryLayout(variant)
        self.embedding = EventEmbedding(item_rows, category_rows, variant.event_width // 2)
        self.step = step
        self.mlp = Mlp(2 * variant.event_width + reads + head_features)

    def read(self, state: S, candidate_BNX: Tensor) -> list[Tensor]:
        """What the head sees beside candidate and pooled events: tensors [B, N, *], together as wide as `reads`."""
        raise NotImplementedError

    def inputs(self, state: S, candidate_BNX: Tensor, features_BNC: Tensor | None = None) -> Tensor:
        """What the MLP sees, [B, N, I]."""
        pooled_BX: Tensor = state.event_pool  # type: ignore[attr-defined]  # every state of uic/models.py has one
        parts = [candidate_BNX, pooled_BX.unsqueeze(1).expand_as(candidate_BNX), *self.read(state, candidate_BNX)]
        return torch.cat(parts if features_BNC is None else [*parts, features_BNC], dim=-1)

    def score(self, state: S, item_rows_BN: Tensor, category_rows_BN: Tensor, features: Tensor | None = None) -> Tensor:
        return self.mlp(self.inputs(state, self.embedding(item_rows_BN, category_rows_BN), features))  # type: ignore[no-any-return]  # torch: Module returns Any


def probability(logits: Tensor) -> Tensor:
    """P(click) of two logits [..., 2]: the softmax's first, as the sigmoid of their difference."""
    return torch.sigmoid(logits[..., 0] - logits[..., 1])
