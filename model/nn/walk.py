"""A GRU over histories of any length and padding: real events only, packed by length.

Events are taken rank by rank (every user's first, then every second, ...) with the longest histories in front, so that the
users still going are a prefix at each rank and no step is spent on padding, wherever it lies.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from model.nn.gru import GruCell, GruInput


class Walk(NamedTuple):
    """The order in which the real events of [B, T] are taken.

    place_E    place of each in the flattened [B * T], rank after rank
    going      how many users have an event of each rank
    last_B     place of each user's last event; -1 where there is none
    """

    place_E: Tensor
    going: list[int]
    last_B: Tensor
    shape: tuple[int, int]

    @classmethod
    def over(cls, mask_BT: Tensor) -> "Walk":
        """The walk over the places where the mask is true."""
        users, total = mask_BT.shape
        lengths_B = mask_BT.sum(1)
        # Longest first; users of one length in their own order.
        row_B = torch.empty_like(lengths_B)
        row_B[torch.argsort(lengths_B, descending=True, stable=True)] = torch.arange(users, device=mask_BT.device)
        rank_BT = mask_BT.long().cumsum(1) - 1
        real_E = mask_BT.flatten().nonzero().squeeze(1)
        order_E = torch.argsort((rank_BT * users + row_B.unsqueeze(1)).flatten()[real_E])
        going = torch.bincount(rank_BT.flatten()[real_E]).tolist()
        position_T = torch.arange(total, device=mask_BT.device)
        last_B = torch.where(mask_BT, position_T, -1).amax(1)
        last_B = torch.where(last_B < 0, -1, last_B + total * torch.arange(users, device=mask_BT.device))
        return cls(real_E[order_E], going, last_B, (users, total))

    def run(self, cell: GruCell, inputs_BTX: Tensor, attention_BT: Tensor | None = None) -> Tensor:
        """The state after each real event, [B, T, H]; zero at padded places."""
        flat = self.flat(inputs_BTX)
        projected = cell.project(flat)
        sizes = list(self.going)
        gates, candidates = projected.gates.split(sizes), projected.candidate.split(sizes)  # type: ignore[no-untyped-call]
        attention = None if attention_BT is None else self.flat(attention_BT.unsqueeze(-1)).split(sizes)  # type: ignore[no-untyped-call]
        states: list[Tensor] = []
        h = inputs_BTX.new_zeros(sizes[0] if sizes else 0, cell.units)
        for rank, users in enumerate(sizes):
            event = GruInput(gates[rank], candidates[rank], projected.gates_rest, projected.candidate_rest)
            h = cell(event, None, h[:users] if users < len(h) else h, None if attention is None else attention[rank])
            states.append(h)
        users, total = self.shape
        out = inputs_BTX.new_zeros(users * total, cell.units)
        if states:
            out = out.index_copy(0, self.place_E, torch.cat(states))
        return out.view(users, total, cell.units)

    def flat(self, inputs_BTX: Tensor) -> Tensor:
        """The real events of [B, T, X] in the order of the walk, [E, X]."""
        return inputs_BTX.reshape(-1, inputs_BTX.shape[-1])[self.place_E]

    def last(self, states_BTH: Tensor) -> Tensor:
        """Each user's state after the last event, [B, H]; zero without one."""
        final_BH = states_BTH.flatten(0, 1)[self.last_B.clamp_min(0)]
        return final_BH * (self.last_B >= 0).unsqueeze(1)
