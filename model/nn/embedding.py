"""Embedding tables of items and categories, the same in every model."""

import torch
from torch import Tensor, nn


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


def _table(rows: int, width: int) -> nn.Embedding:
    table = nn.Embedding(rows, width, padding_idx=0)
    with torch.no_grad():
        nn.init.xavier_uniform_(table.weight)
        table.weight[0] = 0.0
    return table
