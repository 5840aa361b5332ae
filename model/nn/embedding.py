"""Embedding tables of items and categories, the same in every model."""

import torch
from torch import Tensor, nn


class EventEmbedding(nn.Module):
    """Item and category rows to event vectors [.., X]: both embeddings side by side; the padding row is zero and never trains.

    Tables are drawn as the authors': glorot-uniform over [rows, E].

    A table's gradient is as large as the table, or, after `give_rows`, as large as the rows that were read: what a step of
    training costs then does not depend on how many rows there are (model/training/optimiser.py).
    """

    def __init__(self, item_rows: int, category_rows: int, width: int) -> None:
        super().__init__()
        self.items = _table(item_rows, width)
        self.categories = _table(category_rows, width)

    def give_rows(self, large: int) -> None:
        """Let tables of so many rows or more have sparse gradients, which name the rows that were read; padding never is."""
        for table in (self.items, self.categories):
            table.sparse = table.num_embeddings >= large

    def forward(self, item_rows: Tensor, category_rows: Tensor) -> Tensor:
        return torch.cat([self.items(item_rows), self.categories(category_rows)], dim=-1)


def _table(rows: int, width: int) -> nn.Embedding:
    table = nn.Embedding(rows, width, padding_idx=0)
    with torch.no_grad():
        nn.init.xavier_uniform_(table.weight)
        table.weight[0] = 0.0
    return table
