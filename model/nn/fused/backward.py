"""The gradient of a scan of MIMN, written by hand; d_x is the gradient of x.

What depends on saved values alone is computed for all positions at once before the walk back, and gradients of weights are one
product each after it: the walk itself takes as few operations as the recurrence asks for.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

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
        sizes = [len(each.h) for each in saved]
        h, c = torch.cat([each.h for each in saved]), torch.cat([each.candidate for each in saved])
        self.units = h.shape[-1]
        r, z = torch.cat([each.gates for each in saved]).chunk(2, -1)
        factors = ((1.0 - c.square()) * (1.0 - z), (h - c) * z * (1.0 - z), h * r * (1.0 - r))
        self._factors = list(zip(*(torch.split(factor, sizes) for factor in factors), strict=True))
        self._d_pre: list[Tensor] = []
        self._at: list[int] = []

    def step(self, t: int, d_after: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of [second; h] as one, and what the state has beside."""
        s, units = self._saved[t], self.units
        of_candidate, of_update, of_reset = self._factors[t]
        d_pre = d_after.new_empty(len(s.h), 3 * units)
        d_candidate = torch.mul(d_after, of_candidate, out=d_pre[:, 2 * units :])
        d_reset_h = d_candidate @ self._w.state
        torch.mul(d_reset_h, of_reset, out=d_pre[:, :units])
        torch.mul(d_after, of_update, out=d_pre[:, units : 2 * units])
        self._d_pre.append(d_pre)
        self._at.append(t)
        d_h = torch.addcmul(d_after * s.gates[:, units:], d_reset_h, s.gates[:, :units])
        return d_pre @ self._w.joint, d_h

    def gradients(self, users: int, positions: int) -> GruGradients:
        """After the walk. Positions it did not reach have no gradient."""
        d_ahead = self._w.joint.new_zeros(positions, users, 3 * self.units)
        d_pre = torch.cat(self._d_pre)
        saved = [self._saved[t] for t in self._at]
        d_joint = d_pre.t() @ torch.cat([each.joint for each in saved])
        d_state = d_pre[:, 2 * self.units :].t() @ torch.cat([each.reset_h for each in saved])
        d_ahead[self._at[-1] : self._at[0] + 1] = stacked(self._d_pre[::-1], users)
        return GruGradients(d_ahead, d_joint, d_state)


def walk_back(
    plan: Plan, w: Weights, saved: Sequence[Saved], d_after: Sequence[Sequence[Tensor | None]], d_adds_TBD: Tensor | None
) -> Gradients:
    """Gradients of a scan, given those of the memories after each position (None: there is none) and of the add vectors."""
    v, users = plan.variant, len(saved[0].raw)
    width, slots = v.slot_width, v.slots
    controller = _GruBack(w.controller, [each.gru for each in saved])
    channel = None if w.channel is None else _GruBack(w.channel, [each.channel for each in saved if each.channel is not None])
    factors = _head_factors(plan, saved, width)
    balances = any(given[3] is not None for given in d_after)

    last = saved[-1].before
    d_h, d_read, d_slots, d_written = (torch.zeros_like(each) for each in last[:4])
    d_channels: Tensor | None = None
    all_d_raw, of_keys, of_key_norms = [], [], []
    for t in range(len(saved) - 1, -1, -1):
        k, of_head = saved[t], factors[t]
        n, s = len(k.raw), k.before
        d_h, d_read, d_slots, d_written = (
            grown(each, n) if new is None else grown(each, n) + new
            for each, new in zip((d_h, d_read, d_slots, d_written), d_after[t][:4], strict=True)
        )
        d_channels = None if d_channels is None else grown(d_channels, n)
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
        d_erase_BD = (d_change_BMD * s.slots_BMD).sum(1)  # of minus the erase vector; the factor has the sign
        d_slots = torch.addcmul(d_slots, d_change_BMD, k.erase_BD.unsqueeze(1), value=-1)
        d_raw = torch.zeros_like(k.raw)
        torch.mul(d_add_BD, of_head[:, 2 * width : 3 * width], out=d_raw[:, 2 * width : 3 * width])
        torch.mul(d_erase_BD, of_head[:, 3 * width : 4 * width], out=d_raw[:, 3 * width : 4 * width])
        if k.balanced is not None and k.increment is not None and k.taps_B13 is not None:
            d_mixed_BM, d_taps_B3, d_power_B1 = _unbalance(d_write_BM, k.balanced, k.power_B1)
            d_write_BM = (k.taps_B13.mT * d_mixed_BM.unsqueeze(1)).flatten(1) @ plan.shifts_M3M.t()
            if balances:
                # The increment of g is C of the write weight as a constant: gradients reach taps and power alone.
                _, more_taps, more_power = _unbalance(d_written, k.increment, k.power_B1)
                d_taps_B3, d_power_B1 = d_taps_B3 + more_taps, d_power_B1 + more_power
            d_taps_B3 = _softmax_backward(d_taps_B3, k.taps_B13.squeeze(1), -1, d_taps_B3.dtype)
            torch.mul(d_taps_B3, of_head[:, 4 * width + 3 :], out=d_raw[:, 4 * width + 3 :])
            torch.mul(d_power_B1, of_head[:, 4 * width + 2 : 4 * width + 3], out=d_raw[:, 4 * width + 2 : 4 * width + 3])
        elif balances:
            d_write_BM = d_write_BM + d_written

        d_weights_B2M = torch.stack([torch.bmm(s.slots_BMD, d_read.unsqueeze(-1)).squeeze(-1), d_write_BM], 1)
        d_scaled_B2M = _softmax_backward(d_weights_B2M, k.weights_B2M, -1, d_write_BM.dtype)
        if v.temperature:
            d_strength_B2 = (d_scaled_B2M * k.similarity_B2M).sum(-1)
            torch.mul(d_strength_B2, of_head[:, 4 * width : 4 * width + 2], out=d_raw[:, 4 * width : 4 * width + 2])
        d_cosines_B2M = d_scaled_B2M * k.strengths_B21
        if w.keys_MD is not None:
            d_cosines_B2M = d_cosines_B2M.repeat(1, 1, 2)
        d_dots_B2R = d_cosines_B2M / k.denominators_B2R
        minus_B2R = d_dots_B2R * k.cosines_B2R  # minus the gradient of the denominators
        d_key_norms_B21 = (minus_B2R * k.norms_B1R).sum(-1, keepdim=True)
        d_norms_BR = (minus_B2R * k.key_norms_B21).sum(1)
        keys_B2D = k.tanh[:, : 2 * width].view(n, 2, width)
        of_slots_B2M = d_dots_B2R[..., :slots]
        of_key_norm_B2D = keys_B2D * (d_key_norms_B21 / k.key_norms_B21.clamp_min(TINY))
        d_keys_B2D = torch.baddbmm(of_key_norm_B2D, of_slots_B2M, s.slots_BMD, beta=-1)
        if w.keys_MD is not None:
            of_keys.append(d_dots_B2R[..., slots:])
            of_key_norms.append(d_norms_BR[:, slots:])
            d_keys_B2D = d_keys_B2D + of_keys[-1] @ w.keys_MD
        torch.mul(d_keys_B2D.flatten(1), of_head[:, : 2 * width], out=d_raw[:, : 2 * width])
        # Slots are read, compared with both keys, and their norms divide.
        d_both_B3M = torch.cat([of_slots_B2M, k.weights_B2M[:, :1]], 1)
        d_slots = torch.baddbmm(d_slots, d_both_B3M.mT, torch.cat([keys_B2D, d_read.unsqueeze(1)], 1))
        of_norms_BM = d_norms_BR[:, :slots] / k.norms_B1R[:, 0, :slots].clamp_min(TINY)
        d_slots = torch.addcmul(d_slots, s.slots_BMD, of_norms_BM.unsqueeze(-1), value=-1)

        all_d_raw.append(d_raw)
        d_joint, d_h = controller.step(t, torch.addmm(d_h, d_raw, w.heads[:, : v.controller_units]))
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


def _unbalance(d_BM: Tensor, b: Balance, power_B1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the mixed weights, the taps and the power."""
    d_scaled_BM = _softmax_backward(d_BM, b.weights_BM, -1, d_BM.dtype)
    d_power_B1 = (d_scaled_BM * b.log_BM).sum(-1, keepdim=True)
    d_mixed_BM = d_scaled_BM * power_B1 / b.mixed_BM
    return d_mixed_BM, torch.bmm(b.shifted_B3M, d_mixed_BM.unsqueeze(-1)).squeeze(-1), d_power_B1


def _head_factors(plan: Plan, saved: Sequence[Saved], width: int) -> tuple[Tensor, ...]:
    """What a gradient after the nonlinearities of the heads is multiplied by before them, a row as Saved.raw has it."""
    tanh, erase = torch.cat([each.tanh for each in saved]), torch.cat([each.erase_BD for each in saved])
    # softplus' = sigmoid(x) = 1 - exp(-softplus(x))
    scalars = plan.scale_3 * (1.0 - torch.exp(-torch.cat([each.softplus_B3 for each in saved])))
    taps = torch.ones_like(scalars)
    inside = torch.cat([each.raw for each in saved]).abs() <= CLIP
    factors = torch.cat([1.0 - tanh.square(), erase * (erase - 1.0), scalars, taps], -1) * inside
    return torch.split(factors, [len(each.raw) for each in saved])
