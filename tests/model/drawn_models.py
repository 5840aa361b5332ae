"""The MIMNs that the laws of model/nn are checked on: presets and ablations, small, from a seed."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.nn.mimn import MimnState, MimnStep
from uic.variant import Variant, preset

SIZES: dict[str, Any] = {"event_width": 6, "controller_units": 5, "slots": 4, "slot_width": 6, "output_width": 3}
VARIANTS: dict[str, Variant] = {
    "default": preset("default", **SIZES),
    "official": preset("official", **SIZES),
    "paper": preset("paper", **SIZES),
    "paper, key memory and temperature": preset("paper", key_memory=True, temperature=True, **SIZES),
    "no miu": preset("default", miu=False, **SIZES),
    "no mur": preset("default", mur="none", **SIZES),
    "two channels, after the write": preset("default", top_channels=2, miu_memory="after", **SIZES),
    "three slots, official without miu": preset("official", miu=False, **{**SIZES, "slots": 3}),
    "two slots, no mur": preset("official", mur="none", **{**SIZES, "slots": 2}),
}


def make_step(variant: Variant, seed: int = 0) -> MimnStep:
    """A step in float64 with weights large enough that every path of it matters."""
    torch.manual_seed(seed)
    step = MimnStep(variant).double()
    with torch.no_grad():
        step.to_heads.weight *= 3.0
    return step


def make_events(step: MimnStep, users: int, length: int, seed: int = 0) -> Tensor:
    """Random events [B, T, X]."""
    return torch.randn(users, length, step.variant.event_width, generator=torch.Generator().manual_seed(seed)).double()


@torch.no_grad()
def fold(step: MimnStep, events_BTX: Tensor) -> MimnState:
    """The memory after single events, one by one."""
    state = step.initial_state(events_BTX.shape[0])
    for t in range(events_BTX.shape[1]):
        state = step(state, events_BTX[:, t])
    return state


def tensors(state: MimnState) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state._asdict().items() if tensor is not None}


def largest_difference(one: MimnState, other: MimnState) -> float:
    assert tensors(one).keys() == tensors(other).keys()
    return max((value - tensors(other)[name]).abs().max().item() for name, value in tensors(one).items())


def slot_distances(slots_BMD: Tensor) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """|M_i - M_j| of every pair of slots, relative to the user's mean slot norm, [B, pairs]."""
    first, second = torch.triu_indices(slots_BMD.shape[1], slots_BMD.shape[1], 1)
    distance_BP = (slots_BMD[:, first] - slots_BMD[:, second]).norm(dim=-1)
    return (distance_BP / slots_BMD.norm(dim=-1).mean(-1, keepdim=True)).double().numpy()
