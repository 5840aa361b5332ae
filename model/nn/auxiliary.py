"""The auxiliary loss of DIEN and MIMN: what is known after an event must tell the next event from one that did not happen.

    L_aux = mean of  -log p(o_t, x_{t+1}) - log(1 - p(o_t, negative_{t+1}))             over the events that have a next one

p is a small net of its own (mimn-spec 2.7). It trains embeddings and recurrence alone: nothing of it is exported.
"""

import torch
from torch import Tensor, nn

from model.nn.head import FrozenAffine, glorot

_FLOOR = 1e-6


class AuxiliaryNet(nn.Module):
    """P(the event follows) from an output [..., O] and an event [..., X]: affine, dense 100 and 50, sigmoid, softmax."""

    def __init__(self, output_width: int, event_width: int) -> None:
        super().__init__()
        self.affine = FrozenAffine(output_width + event_width)
        self.first = glorot(output_width + event_width, 100)
        self.second = glorot(100, 50)
        self.third = glorot(50, 2)

    def forward(self, outputs: Tensor, events: Tensor) -> Tensor:
        hidden = torch.sigmoid(self.first(self.affine(torch.cat([outputs, events], -1))))
        return torch.softmax(self.third(torch.sigmoid(self.second(hidden))), -1)[..., 0] + _FLOOR

    def losses(self, outputs: Tensor, following: Tensor, negatives: Tensor) -> Tensor:
        """The loss of each output, [...], given the event that followed and one that did not."""
        return -torch.log(self(outputs, following)) - torch.log(1.0 - self(outputs, negatives))
