"""The whole model: embedding tables, the MIMN step, the CTR head."""

import torch
from torch import Tensor, nn

from model.nn.head import CtrHead
from model.nn.mimn import MimnState, MimnStep
from uic.memory import MemoryLayout
from uic.variant import Variant


class EventEmbedding(nn.Module):
    """Item and category rows to event vectors [.., X]: both embeddings side by side; the padding row is zero and never trains.

    Tables are drawn as the authors': glorot-uniform over [rows, E].
    """

    def __init__(self, item_rows: int, category_rows: int, width: int) -> None:
        super().__init__()
        self.items = _table(item_rows, width)
        self.categories = _table(category_rows, width)

    def forward(self, item_rows: Tensor, category_rows: Tensor) -> Tensor:
        return torch.cat([self.items(item_rows), self.categories(category_rows)], dim=-1)


class MimnCtr(nn.Module):
    """MIMN with its embeddings and head, as it is trained and exported.

    The memory does not depend on the candidate: `step` folds events into a state, `score` reads any candidates from it.
    """

    def __init__(self, variant: Variant, *, item_rows: int, category_rows: int, head_features: int = 0) -> None:
        super().__init__()
        self.variant = variant
        self.layout = MemoryLayout(variant)
        self.embedding = EventEmbedding(item_rows, category_rows, variant.event_width // 2)
        self.step = MimnStep(variant)
        self.head = CtrHead(variant, head_features)

    def initial_state(self, batch: int) -> MimnState:
        return self.step.initial_state(batch)

    def score(self, state: MimnState, item_rows_BN: Tensor, category_rows_BN: Tensor, features: Tensor | None = None) -> Tensor:
        """Two logits a candidate, [B, N, 2]."""
        return self.head(self.step, state, self.embedding(item_rows_BN, category_rows_BN), features)  # type: ignore[no-any-return]  # torch: Module returns Any


def probability(logits: Tensor) -> Tensor:
    """P(click) of two logits [..., 2]: the softmax's first, as the sigmoid of their difference."""
    return torch.sigmoid(logits[..., 0] - logits[..., 1])


def _table(rows: int, width: int) -> nn.Embedding:
    table = nn.Embedding(rows, width, padding_idx=0)
    with torch.no_grad():
        nn.init.xavier_uniform_(table.weight)
        table.weight[0] = 0.0
    return table
