"""What passes between the two directions of the fused scan; letters as in uic/memory.py.

The rows of the head layer are put in another order than the authors': what goes through one nonlinearity lies side by side.

    keys of both heads 2D | add vector D | erase vector D | strength of both heads 2 | power 1 | shift taps 3
"""

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from uic.variant import Variant

S = TypeVar("S")
CLIP = 20.0
TINY = 1e-30


def head_rows(width: int) -> list[int]:
    """Rows of `MimnStep.to_heads` in the order used here."""
    write, erase, add = width + 6, 2 * (width + 6), 2 * (width + 6) + width
    keys = [*range(width), *range(write, write + width)]
    scalars = [width, write + width, write + width + 5, *range(write + width + 2, write + width + 5)]
    return [*keys, *range(add, add + width), *range(erase, erase + width), *scalars]


class Plan(NamedTuple):
    """What a scan follows: the variant, how many users go on at each position, and constants of the step."""

    variant: Variant
    going: Sequence[int]
    shifts_M3M: Tensor
    scale_3: Tensor  # strengths and power are scale * softplus + offset
    offset_3: Tensor
    epsilon: Tensor

    @classmethod
    def of(cls, variant: Variant, going: Sequence[int], shifts_M3M: Tensor) -> "Plan":
        # With key memory the similarity is the mean of two cosines: the half of it is taken here.
        scale = (1.0 if variant.key_memory else 2.0) if variant.temperature else 0.0
        offset = scale if variant.temperature else (0.5 if variant.key_memory else 1.0)
        new = shifts_M3M.new_tensor
        return cls(variant, going, shifts_M3M, new([scale, scale, 4.0]), new([offset, offset, 4.0]), new(1e-8))


class Gru(NamedTuple):
    """The weights of a GRU for what is not projected ahead, [second; state] -> gates and candidate."""

    joint: Tensor  # [3H, second + H]; what the candidate takes of the state is zero here
    state: Tensor  # [H, H], what the candidate takes of reset * state


class Weights(NamedTuple):
    """The trained tensors of a step, as the scan takes them."""

    controller: Gru
    heads: Tensor  # [P, H + M], or [P, H] where the heads do not see g; rows as above
    bias: Tensor  # [P]
    keys_MD: Tensor | None  # tanh of the key memory
    channel: Gru | None


class State(NamedTuple):
    """The recurrent part of a memory."""

    h_BH: Tensor
    read_BD: Tensor
    slots_BMD: Tensor
    written_BM: Tensor  # g
    channels_BMD: Tensor | None

    def first(self, users: int) -> "State":
        channels = None if self.channels_BMD is None else self.channels_BMD[:users]
        return State(self.h_BH[:users], self.read_BD[:users], self.slots_BMD[:users], self.written_BM[:users], channels)


class GruSaved(NamedTuple):
    """What the gradient of one GRU step needs."""

    joint: Tensor
    h: Tensor
    reset_h: Tensor
    gates: Tensor
    candidate: Tensor


class Balance(NamedTuple):
    """One shift and sharpening, and what its gradient needs."""

    weights_BM: Tensor
    shifted_B3M: Tensor
    mixed_BM: Tensor
    log_BM: Tensor


class Saved(NamedTuple):
    """What the gradient of one step needs."""

    before: State
    gru: GruSaved
    seen: Tensor
    raw: Tensor
    tanh: Tensor  # keys and add vector
    erase_BD: Tensor
    softplus_B3: Tensor
    strengths_B21: Tensor
    power_B1: Tensor
    key_norms_B21: Tensor
    norms_B1R: Tensor
    denominators_B2R: Tensor
    cosines_B2R: Tensor
    similarity_B2M: Tensor
    weights_B2M: Tensor
    taps_B13: Tensor | None
    balanced: Balance | None
    increment: Balance | None
    write_BM1: Tensor
    change_BMD: Tensor
    place_B1D: Tensor | None
    channel: GruSaved | None


class Walked(NamedTuple, Generic[S]):
    """What a walk through the events of a scan gives."""

    after: list[State]  # the memories after each position
    adds_TBD: Tensor  # the add vectors
    places: list[Tensor]  # which channel each event advanced, [B] a position; none where there are no channels
    saved: S  # what the gradient needs


def shares_seen(variant: Variant, written_BM: Tensor) -> Tensor:
    """What the head parameters see of g."""
    if variant.utilization == "share":
        return written_BM / written_BM.sum(-1, keepdim=True).clamp_min(1e-6)
    return written_BM / 400.0


def grown(tensor: Tensor, users: int) -> Tensor:
    """With zeros for the users who went on no further."""
    return tensor if tensor.shape[0] == users else pad(tensor, [0, 0] * (tensor.dim() - 1) + [0, users - tensor.shape[0]])


def stacked(parts: Sequence[Tensor], users: int) -> Tensor:
    """[T, B, ...] of tensors [b, ...] with b falling; zero where there is none."""
    return torch.stack([grown(each, users) for each in parts])
