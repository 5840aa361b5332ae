"""Where to read and write: content addressing and the re-balancing of the write weight (mimn-spec 2.3, steps 3 and 4)."""

import torch
from torch import Tensor

_EPSILON = 1e-8


def cosine(keys_BND: Tensor, rows: Tensor) -> Tensor:
    """cos(k, M_i) = k . M_i / (|k| |M_i| + 1e-8), [B, N, M]; rows are [B, M, D], or [M, D] where all users share them."""
    norms: Tensor = keys_BND.norm(dim=-1, keepdim=True) * rows.norm(dim=-1).unsqueeze(-2)
    return keys_BND @ rows.mT / (norms + _EPSILON)


def content_weights(keys_BND: Tensor, strength_BN1: Tensor | None, slots_BMD: Tensor, key_memory_MD: Tensor | None) -> Tensor:
    """The addressing weights of N keys over the slots, [B, N, M]; each sums to 1.

    With key memory K the similarity is the mean of cos(k, K_i) and cos(k, M_i); with strength beta the softmax is over
    beta * similarity (the authors' code). Without both it is Eq. 1 and 2 of the paper.
    """
    similarity = cosine(keys_BND, slots_BMD)
    if key_memory_MD is not None:
        similarity = 0.5 * (similarity + cosine(keys_BND, key_memory_MD))
    if strength_BN1 is not None:
        similarity = strength_BN1 * similarity
    return torch.softmax(similarity, dim=-1)


def circular_shifts(slots: int) -> Tensor:
    """[M, 3M]: w times it is w itself, w moved on by one slot, and w moved back by one, side by side."""
    stay = torch.eye(slots)
    return torch.cat([stay, stay.roll(1, dims=1), stay.roll(-1, dims=1)], dim=1)


class ShiftAndSharpen:
    """C(w) = sharp(shift(w)): a three-tap circular shift, then a power, as the authors' code re-balances the write weight.

    shift(w)_i = s_0 w_i + s_1 w_{i-1} + s_2 w_{i+1} with s = softmax(taps); sharp(v) = v^power / sum v^power.
    """

    def __init__(self, taps_B3: Tensor, power_B1: Tensor, shifts_M3M: Tensor) -> None:
        self._taps_B13 = torch.softmax(taps_B3, dim=-1).unsqueeze(-2)
        self._power_B1 = power_B1
        self._shifts_M3M = shifts_M3M

    def __call__(self, weights_BM: Tensor) -> Tensor:
        shifted_B3M = torch.unflatten(weights_BM @ self._shifts_M3M, -1, (3, -1))
        mixed_BM = (self._taps_B13 @ shifted_B3M).squeeze(-2)
        # Divided by the largest first: the quotient is the same, but a power of 84 underflows to 0/0 without it.
        relative_BM = mixed_BM / mixed_BM.detach().amax(-1, keepdim=True)
        powered_BM = relative_BM**self._power_B1
        return powered_BM / powered_BM.sum(-1, keepdim=True)


def shares(utilization_BM: Tensor) -> Tensor:
    """g / sum(g): the share of each slot in all writes so far, zeros before the first."""
    return utilization_BM / utilization_BM.sum(-1, keepdim=True).clamp_min(1e-6)
