"""The compiled scan: buffers around the loops of compiled_forward.py and compiled_backward.py, and gradients of the layers.

For float32 on a CPU; `walk` and `walk_back` give the numbers of those in stepped.py. The first use on a machine compiles, which
takes some seconds (machine_code.py says where that is kept).
"""

import importlib.util
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.nn.fused.backward import Gradients, GruGradients
from model.nn.fused.shapes import Plan, State, Walked, Weights, shares_seen, stacked

if TYPE_CHECKING:
    from model.nn.fused.compiled_forward import Int64, Kept, Layers, States, Switches
    from uic.memory import Float32

_PARTS_A_THREAD = 4


@cache
def has_compiler() -> bool:
    """Whether numba is here: it comes with the extra for training, and an export does without."""
    return importlib.util.find_spec("numba") is not None


class _Saved(NamedTuple):
    states: "States"
    kept: "Kept"


def walk(
    plan: Plan, w: Weights, before: State, controller_TBG: Tensor, channel_TBG: Tensor | None, *, save: bool
) -> Walked[_Saved]:
    """All events of all users, one user after the other."""
    from model.nn.fused import compiled_forward as loops

    v, (positions, users, _) = plan.variant, controller_TBG.shape
    width, rows = v.slot_width, len(w.bias)

    def memories(first: Tensor | None) -> "Float32":
        if first is None:
            return np.zeros((0, 0, 0, 0), np.float32)
        # Zeros, which cost nothing, since beyond a user's last event nobody writes.
        made = np.zeros((positions + 1, users, *first.shape[1:]), np.float32)
        made[0] = first[:users].detach().numpy()
        return made

    def kept_of(*shape: int) -> "Float32":
        return np.zeros((positions if save else 1, users, *shape), np.float32)

    states = loops.States(*map(memories, before))
    kept = loops.Kept(
        controller=kept_of(3 * v.controller_units),
        channel=kept_of(3 * width if v.miu else 0),
        channel_joint=kept_of(2 * width if v.miu else 0),
        heads=kept_of(rows),
        weights=kept_of(8, v.slots),
        cosines=kept_of(2, 2 * v.slots if v.key_memory else v.slots),
        adds=np.zeros((positions, users, width), np.float32),
        place=np.zeros((positions, users), np.int64),
    )
    layers, lengths = _layers(w, is_forward=True), _lengths(plan.going, users)
    inputs = (_array(controller_TBG), _array(channel_TBG, 3))
    _share_out(users, lambda part: loops.walk(_switches(plan), layers, lengths, part, *inputs, states, kept, save))
    tensors = [torch.from_numpy(each) if len(each) else None for each in states]
    place_TB = torch.from_numpy(kept.place)
    return Walked(
        after=[State._make(None if of is None else of[t + 1, :n] for of in tensors) for t, n in enumerate(plan.going)],
        adds_TBD=torch.from_numpy(kept.adds),
        places=[place_TB[t, :n] for t, n in enumerate(plan.going)] if v.miu else [],
        saved=_Saved(states, kept),
    )


def walk_back(
    plan: Plan, w: Weights, saved: _Saved, d_after: Sequence[Sequence[Tensor | None]], d_adds_TBD: Tensor | None
) -> Gradients:
    """Gradients of a scan, given those of the memories after each position (None: there is none) and of the add vectors."""
    from model.nn.fused import compiled_backward as loops

    v, (states, kept) = plan.variant, saved
    positions, users, units = len(d_after), states.h.shape[1], v.controller_units
    at_5T = np.full((5, positions), -1, np.int64)
    rows: list[Float32] = []
    for number, memories in enumerate(states):
        given = [(t, each) for t, of_position in enumerate(d_after) if (each := of_position[number]) is not None]
        at_5T[number, [t for t, _ in given]] = range(len(given))
        rows.append(_array(stacked([each for _, each in given], users) if given else None, memories.ndim))

    def zeros(*shape: int) -> "Float32":
        return np.zeros((positions, users, *shape), np.float32)

    found = loops.Found(
        controller=zeros(3 * units),
        channel=zeros(3 * v.slot_width) if v.miu else zeros(0),
        heads=zeros(len(w.bias)),
        key_dots=zeros(2, v.slots),
        key_norms=zeros(v.slots),
        first=type(states)(*(np.zeros(each.shape[1:], np.float32) for each in states)),
    )
    layers, lengths = _layers(w, is_forward=False), _lengths(plan.going, users)
    gradients = loops.Given._make([at_5T, *rows, _array(d_adds_TBD, 3)])
    _share_out(users, lambda part: loops.walk_back(_switches(plan), layers, lengths, part, states, kept, gradients, found))

    d_heads, h, read = _events(found.heads), _events(states.h[1:]), _events(states.read[:-1])
    of_heads = [d_heads.t() @ h]
    if v.mur == "shift":
        of_heads.append(d_heads.t() @ _events(shares_seen(v, torch.from_numpy(states.written[:-1]))))
    d_keys = None
    if w.keys_MD is not None:
        keys, d_dots = _events(kept.heads), _events(found.key_dots)
        width, slots = v.slot_width, v.slots
        d_keys = d_dots[:, :slots].t() @ keys[:, :width] + d_dots[:, slots:].t() @ keys[:, width : 2 * width]
        d_norms_M1 = _events(found.key_norms).sum(0).unsqueeze(-1)
        d_keys = d_keys + w.keys_MD * d_norms_M1 / w.keys_MD.norm(dim=-1, keepdim=True).clamp_min(1e-30)
    channel = None
    if v.miu:
        joint = _events(kept.channel_joint)
        channel = _of_gru(found.channel, kept.channel, [joint], joint[:, v.slot_width :])
    first_h = _events(states.h[:-1])
    return Gradients(
        controller=_of_gru(found.controller, kept.controller, [read, first_h], first_h),
        channel=channel,
        heads=torch.cat(of_heads, 1),
        bias=d_heads.sum(0),
        keys_MD=d_keys,
        before=State._make(torch.from_numpy(each) if len(each) else None for each in found.first),
    )


def _of_gru(d_pre: "Float32", gates: "Float32", joint: list[Tensor], h: Tensor) -> GruGradients:
    d_pre_EG, units = _events(d_pre), h.shape[-1]
    reset_h = _events(gates)[:, :units] * h
    d_joint = torch.cat([d_pre_EG.t() @ each for each in joint], 1)
    # What the candidate takes of the state itself is zero there: it takes reset * state.
    return GruGradients(torch.from_numpy(d_pre), d_joint, d_pre_EG[:, 2 * units :].t() @ reset_h)


def _switches(plan: Plan) -> "Switches":
    from model.nn.fused.compiled_forward import Switches

    v = plan.variant
    scale, offset = (np.float32(each[0].item()) for each in (plan.scale_3, plan.offset_3))
    return Switches(v.slots, v.mur == "shift", v.utilization == "share", scale, offset)


def _layers(w: Weights, *, is_forward: bool) -> "Layers":
    from model.nn.fused.compiled_forward import Layers

    units, channel = w.controller.state.shape[0], w.channel
    turned = Tensor.t if is_forward else lambda each: each
    return Layers(
        controller_joint=_array(turned(w.controller.joint)),
        controller_state=_array(turned(w.controller.state)),
        heads=_array(w.heads.t() if is_forward else w.heads[:, :units]),
        bias=_array(w.bias),
        keys_MD=_array(w.keys_MD, 2),
        channel_joint=_array(
            None if channel is None else channel.joint.t() if is_forward else channel.joint[:, -len(channel.state) :], 2
        ),
        channel_state=_array(None if channel is None else turned(channel.state), 2),
    )


def _lengths(going: Sequence[int], users: int) -> "Int64":
    """How many events each user has, the longest first.

    >>> _lengths([3, 1, 1], 3).tolist()
    [3, 1, 1]
    """
    lengths: Int64 = (np.asarray(going) > np.arange(users)[:, None]).sum(1)
    return lengths


def _array(tensor: Tensor | None, dimensions: int = 0) -> "Float32":
    """Its numbers side by side; an empty array of so many dimensions where there is no tensor."""
    if tensor is None:
        return np.zeros((0,) * dimensions, np.float32)
    return tensor.detach().contiguous().numpy()


def _events(array_TBX: "Float32 | Tensor") -> Tensor:
    """[T * B, ...], what is not there being zero."""
    tensor = array_TBX if isinstance(array_TBX, Tensor) else torch.from_numpy(array_TBX)
    return tensor.reshape(tensor.shape[0] * tensor.shape[1], -1)


def _share_out(users: int, work: Callable[[tuple[int, int]], None]) -> None:
    """All users, in as many threads as torch has."""
    threads = min(torch.get_num_threads(), users)
    if threads <= 1:
        work((0, users))
        return
    cuts = np.linspace(0, users, min(users, _PARTS_A_THREAD * threads) + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, pairwise(cuts)))
