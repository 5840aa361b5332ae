"""The GRU of the authors' code (TensorFlow 1), which is not torch.nn.GRUCell.

    [rho, u] = sigmoid([x; h] W_g + b_g)        b_g starts at 1
    c        = tanh([x; rho * h] W_c + b_c)      the reset gate acts before the product with W_c
    h'       = u * h + (1 - u) * c

torch.nn.GRUCell computes rho * (W h + b) instead: another function.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class GruInput(NamedTuple):
    """What the first part of the input adds before the nonlinearities, and the weights that remain for the rest.

    The weights are cut here, once a sequence: cut in every step, each step's gradient would be padded to the whole matrix.
    """

    gates: Tensor  # [..., 2H]
    candidate: Tensor  # [..., H]
    gates_rest: Tensor  # [2H, second + H]
    candidate_rest: Tensor  # [H, second + H]


class GruCell(nn.Module):
    """A GRU cell whose input may be given in two parts, the first of them projected ahead for a whole sequence."""

    def __init__(self, first_width: int, second_width: int, units: int) -> None:
        super().__init__()
        self.first_width = first_width
        self.second_width = second_width
        self.units = units
        inputs = first_width + second_width + units
        self.gates = nn.Linear(inputs, 2 * units)
        self.candidate = nn.Linear(inputs, units)
        for layer, bias in ((self.gates, 1.0), (self.candidate, 0.0)):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.constant_(layer.bias, bias)

    def ignore_second(self) -> None:
        """Set the weights of the second input part to zero, where every optimiser leaves them: their gradient is zero too.

        The shapes stay, so whoever computes with the weights needs no other line.
        """
        second = slice(self.first_width, self.first_width + self.second_width)

        def zero(gradient: Tensor) -> Tensor:
            gradient = gradient.clone()
            gradient[:, second] = 0.0
            return gradient

        for layer in (self.gates, self.candidate):
            with torch.no_grad():
                layer.weight[:, second] = 0.0
            layer.weight.register_hook(zero)  # type: ignore[no-untyped-call]  # torch: it has no types

    def project(self, first: Tensor) -> GruInput:
        """The share of the first input part and of the biases; the same for one event and for a whole sequence."""
        cut = self.first_width
        return GruInput(
            linear(first, self.gates.weight[:, :cut], self.gates.bias),
            linear(first, self.candidate.weight[:, :cut], self.candidate.bias),
            self.gates.weight[:, cut:],
            self.candidate.weight[:, cut:],
        )

    def forward(self, projected: GruInput, second: Tensor | None, h: Tensor, attention: Tensor | None = None) -> Tensor:
        """The next state [..., H]; `projected` may have more leading dimensions than `second` and `h` can broadcast to.

        With attention a [..., 1] the update gate is (1 - a) u (DIEN's AUGRU, as the authors wrote it).
        """
        rest = h if second is None else torch.cat([second, h], -1)
        gates = torch.sigmoid(projected.gates + linear(rest, projected.gates_rest))
        reset, update = gates.chunk(2, dim=-1)
        if attention is not None:
            update = (1.0 - attention) * update
        reset_h = reset * h
        if second is None:
            rest = linear(reset_h, projected.candidate_rest)
        elif reset_h.shape[:-1] == second.shape[:-1]:
            rest = linear(torch.cat([second, reset_h], -1), projected.candidate_rest)
        else:
            # Candidates of one user: `second` is the user's and is multiplied once, not once a candidate.
            of_second, of_state = projected.candidate_rest.tensor_split([second.shape[-1]], dim=1)
            rest = linear(second, of_second) + linear(reset_h, of_state)
        candidate = torch.tanh(projected.candidate + rest)
        after: Tensor = candidate + update * (h - candidate)
        return after


class EventInput(NamedTuple):
    """Events with their share of the GRUs that see them computed ahead."""

    event: Tensor  # [..., X]
    controller: GruInput
    channels: GruInput | None = None

    def each(self) -> "list[EventInput]":
        """A sequence [B, T, ...] as T events [B, ...].

        Taken apart at once: picked one by one, each position's gradient would be padded to the whole sequence.
        """
        events = self.event.unbind(1)
        channels = [None] * len(events) if self.channels is None else _each(self.channels)
        return [EventInput(*parts) for parts in zip(events, _each(self.controller), channels, strict=True)]

    def first(self, users: int) -> "EventInput":
        """The same event of the first so many users."""

        def cut(gru: GruInput) -> GruInput:
            return gru._replace(gates=gru.gates[:users], candidate=gru.candidate[:users])

        return EventInput(self.event[:users], cut(self.controller), None if self.channels is None else cut(self.channels))


def _each(gru: GruInput) -> list[GruInput]:
    pairs = zip(gru.gates.unbind(1), gru.candidate.unbind(1), strict=True)
    return [gru._replace(gates=gates, candidate=candidate) for gates, candidate in pairs]
