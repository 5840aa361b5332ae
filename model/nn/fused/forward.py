"""One step of MIMN without autograd: the equations of `MimnStep.advance`, in as few operations as they allow."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from model.nn.fused.shapes import CLIP, TINY, Balance, Gru, GruSaved, Plan, Saved, State, Weights, shares_seen


def step(
    plan: Plan, w: Weights, s: State, controller_BG: Tensor, channel_BG: Tensor | None, key_norms_M: Tensor | None
) -> tuple[State, Saved]:
    """The memory after an event whose share of both GRUs was projected ahead, and what its gradient needs."""
    v = plan.variant
    width = v.slot_width
    h_BH, gru = gru_step(w.controller, controller_BG, torch.cat([s.read_BD, s.h_BH], -1), s.h_BH)
    seen = h_BH
    if v.mur == "shift":
        seen = torch.cat([h_BH, shares_seen(v, s.written_BM)], -1)
    raw = torch.addmm(w.bias, seen, w.heads.t())
    p = raw.clamp(-CLIP, CLIP)
    to_tanh, to_erase, to_scales, to_taps = p.split_with_sizes((3 * width, width, 3, 3), 1)
    tanh, erase_BD, softplus_B3 = torch.tanh(to_tanh), torch.sigmoid(to_erase), softplus(to_scales)
    scales_B3 = torch.addcmul(plan.offset_3, softplus_B3, plan.scale_3)
    strengths_B21, power_B1 = scales_B3[:, :2].unsqueeze(-1), scales_B3[:, 2:]

    keys_B2D, add_BD = tanh[:, : 2 * width].view(-1, 2, width), tanh[:, 2 * width :]
    key_norms_B21 = keys_B2D.norm(dim=-1, keepdim=True)
    norms_B1R = s.slots_BMD.norm(dim=-1).unsqueeze(1)
    dots_B2R = torch.bmm(keys_B2D, s.slots_BMD.mT)
    if w.keys_MD is not None and key_norms_M is not None:
        norms_B1R = torch.cat([norms_B1R, key_norms_M.expand_as(norms_B1R)], -1)
        dots_B2R = torch.cat([dots_B2R, keys_B2D @ w.keys_MD.t()], -1)
    denominators_B2R = torch.addcmul(plan.epsilon, key_norms_B21, norms_B1R)
    cosines_B2R = similarity_B2M = dots_B2R / denominators_B2R
    if w.keys_MD is not None:
        similarity_B2M = cosines_B2R[..., : v.slots] + cosines_B2R[..., v.slots :]
    weights_B2M = torch.softmax(strengths_B21 * similarity_B2M, -1)

    write_BM = weights_B2M[:, 1]
    taps_B13 = balanced = increment = None
    if v.mur == "shift":
        taps_B13 = torch.softmax(to_taps, -1).unsqueeze(1)
        balanced = balance(plan, write_BM, taps_B13, power_B1)
        write_BM = balanced.weights_BM
        increment = balance(plan, write_BM, taps_B13, power_B1)
    written_BM = s.written_BM + (write_BM if increment is None else increment.weights_BM)
    read_BD = torch.bmm(weights_B2M[:, :1], s.slots_BMD).squeeze(1)
    change_BMD = torch.addcmul(add_BD.unsqueeze(1), s.slots_BMD, erase_BD.unsqueeze(1), value=-1)
    write_BM1 = write_BM.unsqueeze(-1)
    slots_BMD = torch.addcmul(s.slots_BMD, write_BM1, change_BMD)

    channels_BMD, place_B1D, channel = s.channels_BMD, None, None
    if channels_BMD is not None and channel_BG is not None and w.channel is not None:
        place_B1D = weights_B2M[:, 0].argmax(-1).view(-1, 1, 1).expand(-1, -1, width)
        before_BD = channels_BMD.gather(1, place_B1D).squeeze(1)
        joint = torch.cat([s.slots_BMD.gather(1, place_B1D).squeeze(1), before_BD], -1)
        after_BD, channel = gru_step(w.channel, channel_BG, joint, before_BD)
        channels_BMD = channels_BMD.scatter(1, place_B1D, after_BD.unsqueeze(1))
    saved = Saved(
        s, gru, seen, raw, tanh, erase_BD, softplus_B3, strengths_B21, power_B1, key_norms_B21, norms_B1R, denominators_B2R,
        cosines_B2R, similarity_B2M, weights_B2M, taps_B13, balanced, increment, write_BM1, change_BMD, place_B1D, channel,
    )  # fmt: skip
    return State(h_BH, read_BD, slots_BMD, written_BM, channels_BMD), saved


def gru_step(w: Gru, ahead: Tensor, joint: Tensor, h: Tensor) -> tuple[Tensor, GruSaved]:
    """The next state of a GRU (model/nn/gru.py); `joint` is the second input and h side by side."""
    units = h.shape[-1]
    pre = torch.addmm(ahead, joint, w.joint.t())
    to_gates, to_candidate = pre.split_with_sizes((2 * units, units), 1)
    gates = torch.sigmoid(to_gates)
    reset, update = gates.split_with_sizes((units, units), 1)
    reset_h = reset * h
    candidate = torch.tanh(torch.addmm(to_candidate, reset_h, w.state.t()))
    return torch.lerp(candidate, h, update), GruSaved(joint, h, reset_h, gates, candidate)


def balance(plan: Plan, weights_BM: Tensor, taps_B13: Tensor, power_B1: Tensor) -> Balance:
    """Shift and sharpen; the power as a softmax over logarithms, which neither overflows nor becomes 0 / 0."""
    shifted_B3M = (weights_BM @ plan.shifts_M3M).view(len(weights_BM), 3, -1)
    mixed_BM = torch.bmm(taps_B13, shifted_B3M).squeeze(1).clamp_min(TINY)
    log_BM = mixed_BM.log()
    return Balance(torch.softmax(power_B1 * log_BM, -1), shifted_B3M, mixed_BM, log_BM)
