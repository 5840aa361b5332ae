"""MIMN over many events at once, its backward pass written by hand: the numbers of `MimnStep.advance`, several times faster.

Autograd remembers every small operation of a step and visits each again. Here a step saves what its gradient needs and nothing
is traced. Two modules do it, `walk` and `walk_back` in each: `compiled` user after user in machine code, `stepped` event after
event in operations of torch, for other devices and numbers. `supports` says for which variants this is written; the others
take one step after the other.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from model.nn.fused import compiled, stepped
from model.nn.fused.backward import Gradients
from model.nn.fused.shapes import Gru, Plan, State, Walked, Weights, head_rows
from model.nn.gru import GruCell
from uic.variant import Variant

if TYPE_CHECKING:
    from model.nn.mimn import MimnState, MimnStep

_MOST_POSITIONS_AS_PRODUCT = 256


def supports(variant: Variant) -> bool:
    """Whether the backward pass of this variant is written here."""
    one_channel_before = variant.top_channels == 1 and variant.miu_memory == "before"
    return variant.mur in ("none", "shift") and (not variant.miu or one_channel_before)


def run(
    step: "MimnStep", state: "MimnState", events_BTX: Tensor, going: Sequence[int], way: "Way | None" = None
) -> "list[MimnState]":
    """The memories after each position, as `MemoryStep.run` gives them; `way` is chosen by what the events are."""
    v = step.variant
    events_TBX = events_BTX.transpose(0, 1).contiguous()
    rows = torch.tensor(head_rows(v.slot_width), device=events_BTX.device)
    controller, controller_TBG = _projected(step.controller, events_TBX)
    channel, channel_TBG = _projected(step.channel, events_TBX) if v.miu else (None, None)
    w = Weights(
        controller=controller,
        heads=step.to_heads.weight[rows],
        bias=step.to_heads.bias[rows],
        keys_MD=torch.tanh(step.key_memory) if v.key_memory else None,
        channel=channel,
    )
    before = State(state.controller, state.read, state.slots, state.utilization, state.channels)
    plan, way = Plan.of(v, going, step.shifts_M3M), way or _way(events_BTX)
    if torch.is_grad_enabled():
        of_channel = (None, None) if channel is None else channel
        given = (controller_TBG, channel_TBG, *before, *controller, *of_channel, w.heads, w.bias, w.keys_MD)
        out = _Scan.apply(plan, way, *given)
        after = [State(*out[5 * t : 5 * t + 5]) for t in range(len(going))]
        adds_TBD, places = out[5 * len(going)], out[5 * len(going) + 1 :]
    else:
        after, adds_TBD, places, _ = way.walk(plan, w, before, controller_TBG, channel_TBG, save=False)
    applied_TB1 = state.applied + torch.arange(1, len(going) + 1, device=events_BTX.device).view(-1, 1, 1)
    applied = applied_TB1.unbind(0)
    add_pools = _pooled(v, state.add_pool, adds_TBD, state.applied, applied_TB1)
    event_pools = _pooled(v, state.event_pool, events_TBX, state.applied, applied_TB1)
    return [
        type(state)(
            controller=each.h_BH,
            read=each.read_BD,
            slots=each.slots_BMD,
            utilization=each.written_BM,
            add_pool=_first(add_pools[t], n),
            event_pool=_first(event_pools[t], n),
            applied=_first(applied[t], n),
            channels=each.channels_BMD,
            last_channels=None if state.last_channels is None else _chosen(each.written_BM, places[t]),
        )
        for t, (each, n) in enumerate(zip(after, going, strict=True))
    ]


class Way(Protocol):
    """Something that walks through the events of a scan and back."""

    def walk(
        self, plan: Plan, w: Weights, before: State, controller_TBG: Tensor, channel_TBG: Tensor | None, *, save: bool
    ) -> Walked[Any]: ...

    def walk_back(
        self, plan: Plan, w: Weights, saved: Any, d_after: Sequence[Sequence[Tensor | None]], d_adds_TBD: Tensor | None
    ) -> Gradients: ...


def _way(events: Tensor) -> Way:
    """Compiled where that can be: float32 on a CPU, and numba installed."""
    return compiled if events.dtype == torch.float32 and events.device.type == "cpu" and compiled.has_compiler() else stepped


class _Scan(torch.autograd.Function):
    """A scan as autograd sees it: five tensors a position (channels only where there are any), the add vectors, the places."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, way: Way, *given: Any) -> Any:  # tensors, and None where a variant has none
        controller_TBG, channel_TBG, *rest = given
        joint, state, channel_joint, channel_state, heads, bias, keys_MD = rest[5:]
        channel = None if channel_joint is None else Gru(channel_joint, channel_state)
        w = Weights(Gru(joint, state), heads, bias, keys_MD, channel)
        after, adds_TBD, places, saved = way.walk(plan, w, State(*rest[:5]), controller_TBG, channel_TBG, save=True)
        ctx.plan, ctx.way, ctx.weights, ctx.saved = plan, way, w, saved
        ctx.set_materialize_grads(False)
        # Under another name: what is saved must not be what is returned, or the two would hold each other forever.
        out = [None if each is None else each.detach() for state in after for each in state]
        ctx.mark_non_differentiable(*places)
        return (*out, adds_TBD, *places)

    @staticmethod
    def backward(ctx: Any, *d: Tensor | None) -> Any:
        positions = len(ctx.plan.going)
        d_after = [d[5 * t : 5 * t + 5] for t in range(positions)]
        got: Gradients = ctx.way.walk_back(ctx.plan, ctx.weights, ctx.saved, d_after, d[5 * positions])
        ctx.saved = None
        ahead, *channel = (None, None, None) if got.channel is None else got.channel
        controller = got.controller
        return (
            None, None, controller.ahead, ahead, *got.before, controller.joint, controller.state, *channel,
            got.heads, got.bias, got.keys_MD,
        )  # fmt: skip


def _projected(cell: GruCell, events_TBX: Tensor) -> tuple[Gru, Tensor]:
    """The weights that remain of a GRU, and what the events add to gates and candidate, [T, B, 3H]."""
    ahead = cell.project(events_TBX)
    second = ahead.candidate_rest.shape[1] - cell.units
    of_second, of_state = ahead.candidate_rest.tensor_split([second], dim=1)
    joint = torch.cat([ahead.gates_rest, torch.nn.functional.pad(of_second, [0, cell.units])])
    return Gru(joint, of_state), torch.cat([ahead.gates, ahead.candidate], -1)


def _first(tensor: Tensor, users: int) -> Tensor:
    return tensor if len(tensor) == users else tensor[:users]


def _chosen(like_BM: Tensor, place_B: Tensor) -> Tensor:
    return torch.zeros_like(like_BM).scatter(1, place_B.unsqueeze(1), 1.0)


def _pooled(v: Variant, pool_BX: Tensor, new_TBX: Tensor, applied_B1: Tensor, applied_TB1: Tensor) -> tuple[Tensor, ...]:
    """The sum or mean of all vectors so far, after each position."""
    sums_TBX = _sums(new_TBX)
    if v.pooling == "sum":
        return (pool_BX + sums_TBX).unbind(0)
    return ((pool_BX * applied_B1 + sums_TBX) / applied_TB1).unbind(0)


def _sums(new_TBX: Tensor) -> Tensor:
    """Running sums. Over few positions a product with a triangle of ones is many times faster than cumsum across rows."""
    positions = len(new_TBX)
    if positions > _MOST_POSITIONS_AS_PRODUCT:
        return new_TBX.cumsum(0)
    triangle_TT = torch.ones(positions, positions, dtype=new_TBX.dtype, device=new_TBX.device).tril()
    return (triangle_TT @ new_TBX.flatten(1)).view_as(new_TBX)
