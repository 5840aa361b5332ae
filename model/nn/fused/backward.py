"""The gradient of a scan of MIMN, written by hand; d_x is the gradient of x.

What depends on saved values alone is computed for all positions at once before the walk back, and gradients of weights are one
product each after it: the walk itself takes as few operations as the recurrence asks for.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from model.nn.fused.shapes import CLIP, TINY, Balance, Gru, GruSaved, Plan, Saved, Weights, grown, stacked

_softmax_backward = torch.ops.aten._softmax_backward_data


class GruGradients(NamedTuple):
    """Gradients of a GRU over a scan: of what was projected ahead [T, B, 3H], and of its weights."""

    ahead: Tensor
    joint: Tensor
    state: Tensor


class Gradients(NamedTuple):
    """Gradients of everything that a scan takes."""

    controller: GruGradients
    channel: GruGradients | None
    heads: Tensor
    bias: Tensor
    keys_MD: Tensor | None
    before: tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]


class _GruBack:
    """The walk back through one GRU.

    With z the update gate, r the reset gate and c the candidate:  h' = c + z (h - c),  c = tanh(.. + W_s (r h)).
    """

    def __init__(self, w: Gru, saved: Sequence[GruSaved]) -> None:
        self._w, self._saved = w, saved
        h, c = torch.cat([each.h for each in saved]), torch.cat([each.candidate for each in saved])
        self.units = h.shape[-1]
        r, z = torch.cat([each.gates for each in saved]).chunk(2, -1)
        factors = ((1.0 - c.square()) * (1.0 - z), (h - c) * z * (1.0 - z), h * r * (1.0 - r), r, z)
        self._factors = by_step(factors, [len(each.h) for each in saved])
        self._d_pre: list[Tensor] = []
        self._at: list[int] = []

    def step(self, t: int, d_after: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of [second; h] as one, and what the state has beside."""
        of_candidate, of_update, of_reset, r, z = self._factors[t]
        d_candidate = d_after * of_candidate
        d_reset_h = d_candidate @ self._w.state
        d_pre = torch.cat([d_reset_h * of_reset, d_after * of_update, d_candidate], -1)
        self._d_pre.append(d_pre)
        self._at.append(t)
        return d_pre @ self._w.joint, torch.addcmul(d_after * z, d_reset_h, r)

    def gradients(self, users: int, positions: int) -> GruGradients:
        """After the walk. Positions it did not reach have no gradient."""
        d_pre = torch.cat(self._d_pre)
        saved = [self._saved[t] for t in self._at]
        d_joint = d_pre.t() @ torch.cat([each.joint for each in saved])
        d_state = d_pre[:, 2 * self.units :].t() @ torch.cat([each.reset_h for each in saved])
        d_ahead = stacked(self._d_pre[::-1], users)
        before, behind = self._at[-1], positions - 1 - self._at[0]
        if before or behind:
            d_ahead = pad(d_ahead, [0, 0, 0, 0, before, behind])
        return GruGradients(d_ahead, d_joint, d_state)


def walk_back(
    plan: Plan, w: Weights, saved: Sequence[Saved], d_after: Sequence[Sequence[Tensor | None]], d_adds_TBD: Tensor | None
) -> Gradients:
    """Gradients of a scan, given those of the memories after each position (None: there is none) and of the add vectors."""
    v, users = plan.variant, len(saved[0].raw)
    width, slots = v.slot_width, v.slots
    heads_PH = w.heads[:, : v.controller_units]
    controller = _GruBack(w.controller, [each.gru for each in saved])
    channel = None if w.channel is None else _GruBack(w.channel, [each.channel for each in saved if each.channel is not None])
    known = _known_ahead(plan, w, saved)
    balances = any(given[3] is not None for given in d_after)
    shifts_3MM = plan.shifts_M3M.t()

    last = saved[-1].before
    d_h, d_read, d_slots, d_written = (torch.zeros_like(each) for each in last[:4])
    d_channels: Tensor | None = None
    all_d_raw, of_keys, of_key_norms = [], [], []
    for t in range(len(saved) - 1, -1, -1):
        k, ahead = saved[t], known[t]
        n, slots_BMD = len(k.raw), k.before.slots_BMD
        if n != len(d_h):
            d_h, d_read, d_slots, d_written = (grown(each, n) for each in (d_h, d_read, d_slots, d_written))
            d_channels = None if d_channels is None else grown(d_channels, n)
        d_h, d_read, d_slots, d_written = (
            each if new is None else each + new
            for each, new in zip((d_h, d_read, d_slots, d_written), d_after[t][:4], strict=True)
        )
        if (new := d_after[t][4]) is not None:
            d_channels = new if d_channels is None else d_channels + new
        if channel is not None and d_channels is not None and k.place_B1D is not None:
            # The slot that feeds the channel has no gradient: of [slot; state] the second half counts.
            d_joint, d_one = channel.step(t, d_channels.gather(1, k.place_B1D).squeeze(1))
            d_channels = d_channels.scatter(1, k.place_B1D, (d_one + d_joint[:, width:]).unsqueeze(1))

        d_change_BMD = k.write_BM1 * d_slots
        d_write_BM = (d_slots * k.change_BMD).sum(-1)
        d_add_BD = d_change_BMD.sum(1)
        if d_adds_TBD is not None:
            d_add_BD = d_add_BD + d_adds_TBD[t, :n]
        d_erase_BD = (d_change_BMD * slots_BMD).sum(1)  # of minus the erase vector; the factor has the sign
        d_slots = torch.addcmul(d_slots, d_change_BMD, k.erase_BD.unsqueeze(1), value=-1)
        d_power_B1, d_taps_B3 = ahead.no_power_B1, ahead.no_taps_B3
        if k.balanced is not None and k.increment is not None and k.taps_B13 is not None:
            d_mixed_BM, d_taps_B3, d_power_B1 = _unbalance(d_write_BM, k.balanced, ahead.mixed_BM)
            d_write_BM = (k.taps_B13.mT * d_mixed_BM.unsqueeze(1)).view(n, -1) @ shifts_3MM
            if balances:
                # The increment of g is C of the write weight as a constant: gradients reach taps and power alone.
                _, more_taps, more_power = _unbalance(d_written, k.increment, k.power_B1 / k.increment.mixed_BM)
                d_taps_B3, d_power_B1 = d_taps_B3 + more_taps, d_power_B1 + more_power
            d_taps_B3 = _softmax_backward(d_taps_B3, k.taps_B13.view(n, 3), -1, d_taps_B3.dtype) * ahead.taps_B3
            d_power_B1 = d_power_B1 * ahead.power_B1
        elif balances:
            d_write_BM = d_write_BM + d_written

        d_read_B1D = d_read.unsqueeze(1)
        d_weights_B2M = torch.cat([torch.bmm(d_read_B1D, slots_BMD.mT), d_write_BM.unsqueeze(1)], 1)
        d_scaled_B2M = _softmax_backward(d_weights_B2M, k.weights_B2M, -1, d_write_BM.dtype)
        d_strength_B2 = (d_scaled_B2M * k.similarity_B2M).sum(-1) * ahead.strengths_B2
        # [B, 2, 1 or 2, M]: against the slots, and against the key memory where there is one.
        d_dots_B2R = (d_scaled_B2M.unsqueeze(2) * ahead.dots_B2SM).view(n, 2, -1)
        minus_B2R = d_dots_B2R * k.cosines_B2R  # minus the gradient of the denominators
        d_key_norms_B21 = torch.bmm(minus_B2R, k.norms_B1R.mT)
        d_norms_B1R = torch.bmm(k.key_norms_B21.mT, minus_B2R)
        keys_B2D, of_slots_B2M = k.tanh[:, : 2 * width].view(n, 2, width), d_dots_B2R[..., :slots]
        d_keys_B2D = torch.baddbmm(ahead.unit_keys_B2D * d_key_norms_B21, of_slots_B2M, slots_BMD, beta=-1)
        if w.keys_MD is not None:
            of_keys.append(d_dots_B2R[..., slots:])
            of_key_norms.append(d_norms_B1R[:, 0, slots:])
            d_keys_B2D = d_keys_B2D + of_keys[-1] @ w.keys_MD
        # Slots are read, compared with both keys, and their norms divide: the first two as one product, which costs no more.
        factors_B3M, rows_B3D = (
            torch.cat(parts, 1) for parts in ((k.weights_B2M[:, :1], of_slots_B2M), (d_read_B1D, keys_B2D))
        )
        d_slots = torch.baddbmm(d_slots, factors_B3M.mT, rows_B3D)
        of_norms_BM1 = (d_norms_B1R[:, 0, :slots] * ahead.norms_BM).unsqueeze(-1)
        d_slots = torch.addcmul(d_slots, slots_BMD, of_norms_BM1, value=-1)

        d_tanh = torch.cat([d_keys_B2D.view(n, -1), d_add_BD], -1) * ahead.tanh
        d_raw = torch.cat([d_tanh, d_erase_BD * ahead.erase_BD, d_strength_B2, d_power_B1, d_taps_B3], -1)
        all_d_raw.append(d_raw)
        d_joint, d_h = controller.step(t, torch.addmm(d_h, d_raw, heads_PH))
        d_read, d_h = d_joint[:, :width], d_h + d_joint[:, width:]

    d_raw = torch.cat(all_d_raw)
    d_keys = None
    if w.keys_MD is not None:
        keys_ED = torch.cat([each.tanh[:, : 2 * width] for each in reversed(saved)]).view(-1, width)
        norms_M1 = w.keys_MD.norm(dim=-1, keepdim=True).clamp_min(TINY)
        d_norms_M1 = torch.cat(of_key_norms).sum(0).unsqueeze(-1)
        d_keys = torch.cat(of_keys).flatten(0, 1).t() @ keys_ED - w.keys_MD * d_norms_M1 / norms_M1
    return Gradients(
        controller=controller.gradients(users, len(saved)),
        channel=None if channel is None or d_channels is None else channel.gradients(users, len(saved)),
        heads=d_raw.t() @ torch.cat([each.seen for each in reversed(saved)]),
        bias=d_raw.sum(0),
        keys_MD=d_keys,
        before=(d_h, d_read, d_slots, d_written, d_channels),
    )


def _unbalance(d_BM: Tensor, b: Balance, of_mixed_BM: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the mixed weights, the taps and the power; `of_mixed_BM` is the power over the mixed weights."""
    d_scaled_BM = _softmax_backward(d_BM, b.weights_BM, -1, d_BM.dtype)
    d_power_B1 = (d_scaled_BM * b.log_BM).sum(-1, keepdim=True)
    d_mixed_BM = d_scaled_BM * of_mixed_BM
    return d_mixed_BM, torch.bmm(b.shifted_B3M, d_mixed_BM.unsqueeze(-1)).squeeze(-1), d_power_B1


class _Known(NamedTuple):
    """What a step's gradients are multiplied by, known before the walk: slopes (0 where clipped) and quotients."""

    tanh: Tensor  # of keys and add vector
    erase_BD: Tensor  # with the sign of its place in the equation
    strengths_B2: Tensor
    power_B1: Tensor
    taps_B3: Tensor
    dots_B2SM: Tensor  # strength over denominators
    unit_keys_B2D: Tensor
    norms_BM: Tensor  # 1 over those of the slots
    mixed_BM: Tensor  # power over mixed weights
    no_power_B1: Tensor
    no_taps_B3: Tensor


def _known_ahead(plan: Plan, w: Weights, saved: Sequence[Saved]) -> list[_Known]:
    width, slots = plan.variant.slot_width, plan.variant.slots
    sizes = [len(each.raw) for each in saved]
    tanh, erase = torch.cat([each.tanh for each in saved]), torch.cat([each.erase_BD for each in saved])
    inside = (torch.cat([each.raw for each in saved]).abs() <= CLIP).to(tanh.dtype)
    # softplus' = sigmoid(x) = 1 - exp(-softplus(x))
    scalars = plan.scale_3 * (1.0 - torch.exp(-torch.cat([each.softplus_B3 for each in saved])))
    scalars = scalars * inside[:, 4 * width : 4 * width + 3]
    denominators = torch.cat([each.denominators_B2R for each in saved]).view(len(tanh), 2, -1, slots)
    strengths = torch.cat([each.strengths_B21 for each in saved])
    key_norms = torch.cat([each.key_norms_B21 for each in saved])
    norms = torch.cat([each.norms_B1R[:, 0, :slots] for each in saved])
    mixed = norms if plan.variant.mur == "none" else torch.cat([each.balanced.mixed_BM for each in saved if each.balanced])
    nothing = torch.zeros_like(scalars)
    parts = (
        (1.0 - tanh.square()) * inside[:, : 3 * width],
        erase * (erase - 1.0) * inside[:, 3 * width : 4 * width],
        scalars[:, :2],
        scalars[:, 2:],
        inside[:, 4 * width + 3 :],
        strengths.unsqueeze(2) / denominators,
        tanh[:, : 2 * width].view(-1, 2, width) / key_norms.clamp_min(TINY),
        1.0 / norms.clamp_min(TINY),
        torch.cat([each.power_B1 for each in saved]) / mixed,
        nothing[:, :1],
        nothing,
    )
    return [_Known(*each) for each in by_step(parts, sizes)]


def by_step(tensors: Sequence[Tensor], sizes: list[int]) -> list[tuple[Tensor, ...]]:
    """Tensors over all events of a scan, cut into its steps."""
    return list(zip(*(torch.split(tensor, sizes) for tensor in tensors), strict=True))
