"""The gradient of the compiled scan: each user's events from the last to the first; d_x is the gradient of x.

Gradients of the layers are not added up here: what each event adds is written down, and they are one product each after it.
"""

import math
from typing import NamedTuple

import numpy as np

from model.nn.fused.compiled_forward import (
    BALANCED,
    CONTENT,
    EPSILON,
    LOG,
    LOG_TWICE,
    MIXED,
    MIXED_TWICE,
    POWER,
    READ,
    TWICE,
    Int64,
    Kept,
    Layers,
    States,
    Switches,
    clipped,
)
from model.nn.fused.machine_code import compiled
from model.nn.fused.vector import ONE, ZERO, add, add_product, clear, copy, dot, sigmoid, softmax, softmax_back, softplus
from uic.memory import Float32

_TINY, _CLIP = np.float32(1e-30), np.float32(20)


class Given(NamedTuple):
    """The gradients of memories: rows of each tensor, [rows, B, ...], and which of them is of position t, -1 for none.

    `adds` [T, B, D], of the add vectors; empty where there is none.
    """

    at_5T: Int64
    h: Float32
    read: Float32
    slots: Float32
    written: Float32
    channels: Float32
    adds: Float32


class Found(NamedTuple):
    """Gradients of what came before each product of an event, [T, B, ...], and of the first memories, [B, ...]."""

    controller: Float32
    channel: Float32
    heads: Float32
    key_dots: Float32  # [T, B, 2, M], of the products of both keys with the key memory
    key_norms: Float32  # [T, B, M], of its norms
    first: States  # [B, ...]


@compiled
def gru_back(
    d_after: Float32, gates: Float32, h: Float32, over_joint: Float32, over_state: Float32, d_pre: Float32, d_joint: Float32,
    d_reset_h: Float32,
) -> None:  # fmt: skip
    """Gradients of a GRU step: d_pre of what stands before its nonlinearities, d_joint of its input, h at the end of it.

    With z the update gate, r the reset gate and c the candidate:  h' = c + z (h - c),  c = tanh(.. + W_s (r h)).
    """
    units = len(h)
    for k in range(units):
        z, c = gates[units + k], gates[2 * units + k]
        d_pre[2 * units + k] = d_after[k] * (ONE - c * c) * (ONE - z)
        d_pre[units + k] = d_after[k] * (h[k] - c) * z * (ONE - z)
        d_reset_h[k] = ZERO
    add_product(d_reset_h, over_state, d_pre[2 * units :])
    for k in range(units):
        r = gates[k]
        d_pre[k] = d_reset_h[k] * h[k] * r * (ONE - r)
    clear(d_joint)
    add_product(d_joint, over_joint, d_pre)
    second = len(d_joint) - units
    for k in range(units):
        d_joint[second + k] += d_after[k] * gates[units + k] + d_reset_h[k] * gates[k]


@compiled
def balance_back(
    d: Float32, weights: Float32, out: Float32, mixed: Float32, log: Float32, taps: Float32, power: np.float32, d_taps: Float32
) -> np.float32:
    """The gradient of the power. `d` of what came out becomes that of the mixed weights; adds to `d_taps`."""
    slots = len(d)
    softmax_back(d, out)
    d_power = dot(d, log)
    for i in range(slots):
        d[i] *= power / mixed[i]
        d_taps[0] += d[i] * weights[i]
        d_taps[1] += d[i] * weights[(i + slots - 1) % slots]
        d_taps[2] += d[i] * weights[(i + 1) % slots]
    return d_power


@compiled
def slope(x: np.float32) -> np.float32:
    """1 within the clip, 0 beyond."""
    return ONE if abs(x) <= _CLIP else ZERO


@compiled
def walk_back(
    switches: Switches, layers: Layers, lengths: Int64, users: tuple[int, int], states: States, kept: Kept, given: Given,
    found: Found,
) -> None:  # fmt: skip
    """Write `found`, which comes as zeros, of users `users[0]` up to `users[1]`."""
    slots, units, width = switches.slots, states.h.shape[-1], states.read.shape[-1]
    has_keys, has_channels = len(layers.keys_MD) > 0, len(layers.channel_joint) > 0
    d_joint, d_one = np.empty(width + units, np.float32), np.empty(width, np.float32)
    scratch, taps, d_taps = np.empty(max(width, units), np.float32), np.empty(3, np.float32), np.empty(3, np.float32)
    d_add, d_erase, d_mixed = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(slots, np.float32)
    d_weights, d_norms = np.empty((2, slots), np.float32), np.empty(kept.cosines.shape[-1], np.float32)
    norms = np.empty(kept.cosines.shape[-1], np.float32)
    for i in range(len(layers.keys_MD)):
        norms[slots + i] = math.sqrt(dot(layers.keys_MD[i], layers.keys_MD[i]))
    for u in range(users[0], users[1]):
        d_h, d_read, d_slots, d_written = found.first.h[u], found.first.read[u], found.first.slots[u], found.first.written[u]
        d_channels = found.first.channels
        for t in range(lengths[u] - 1, -1, -1):
            before, heads, weights, cosines = states.slots[t, u], kept.heads[t, u], kept.weights[t, u], kept.cosines[t, u]
            d_heads = found.heads[t, u]
            if given.at_5T[0, t] >= 0:
                add(d_h, given.h[given.at_5T[0, t], u])
            if given.at_5T[1, t] >= 0:
                add(d_read, given.read[given.at_5T[1, t], u])
            if given.at_5T[2, t] >= 0:
                for i in range(slots):
                    add(d_slots[i], given.slots[given.at_5T[2, t], u, i])
            if given.at_5T[3, t] >= 0:
                add(d_written, given.written[given.at_5T[3, t], u])
            if has_channels:
                if given.at_5T[4, t] >= 0:
                    for i in range(slots):
                        add(d_channels[u, i], given.channels[given.at_5T[4, t], u, i])
                d_channel = d_channels[u, kept.place[t, u]]
                gru_back(
                    d_channel, kept.channel[t, u], kept.channel_joint[t, u, width:], layers.channel_joint,
                    layers.channel_state, found.channel[t, u], d_one, scratch[:width],
                )  # fmt: skip
                copy(d_channel, d_one)

            write = weights[BALANCED] if switches.shift else weights[CONTENT]
            clear(d_add)
            clear(d_erase)
            for i in range(slots):
                of_write, total, row, d_row = write[i], ZERO, before[i], d_slots[i]
                for j in range(width):
                    d_after, erase = d_row[j], heads[3 * width + j]
                    total += d_after * (heads[2 * width + j] - row[j] * erase)
                    d_change = of_write * d_after
                    d_add[j] += d_change
                    d_erase[j] -= d_change * row[j]
                    d_row[j] = d_after - d_change * erase
                d_weights[CONTENT, i] = total
            if len(given.adds) > 0:
                add(d_add, given.adds[t, u])
            for j in range(width):
                value, erase = heads[2 * width + j], heads[3 * width + j]
                d_heads[2 * width + j] = d_add[j] * (ONE - value * value)
                # Beyond the clip this is 2e-9 and not 0, which no float32 beside it notices.
                d_heads[3 * width + j] = d_erase[j] * erase * (ONE - erase)

            d_content = d_weights[CONTENT]
            if switches.shift:
                scalar = heads[4 * width + 2]
                power = POWER + POWER * softplus(clipped(scalar))
                for tap in range(3):
                    taps[tap] = clipped(heads[4 * width + 3 + tap])
                    d_taps[tap] = ZERO
                softmax(taps)
                copy(d_mixed, d_written)
                # The increment of g is C of the write weight as a constant: gradients reach taps and power alone.
                d_power = balance_back(
                    d_mixed, weights[BALANCED], weights[TWICE], weights[MIXED_TWICE], weights[LOG_TWICE], taps, power, d_taps
                )
                copy(d_mixed, d_content)
                d_power += balance_back(
                    d_mixed, weights[CONTENT], weights[BALANCED], weights[MIXED], weights[LOG], taps, power, d_taps
                )
                for i in range(slots):
                    behind, ahead = d_mixed[(i + slots - 1) % slots], d_mixed[(i + 1) % slots]
                    d_content[i] = taps[0] * d_mixed[i] + taps[1] * ahead + taps[2] * behind
                softmax_back(d_taps, taps)
                d_heads[4 * width + 2] = d_power * POWER * sigmoid(scalar) * slope(scalar)
                for tap in range(3):
                    d_heads[4 * width + 3 + tap] = d_taps[tap] * slope(heads[4 * width + 3 + tap])
            else:
                add(d_content, d_written)

            for i in range(slots):
                norms[i] = math.sqrt(dot(before[i], before[i]))
                d_weights[READ, i] = dot(before[i], d_read)
            clear(d_norms)
            for i in range(slots):
                of_read, d_row = weights[READ, i], d_slots[i]
                for j in range(width):
                    d_row[j] += of_read * d_read[j]
            for head in range(2):
                key, d_key, d_own = (
                    heads[head * width : (head + 1) * width],
                    d_heads[head * width : (head + 1) * width],
                    d_weights[head],
                )
                key_norm, scalar = math.sqrt(dot(key, key)), heads[4 * width + head]
                strength = switches.offset + switches.scale * softplus(clipped(scalar))
                softmax_back(d_own, weights[head])
                d_strength, d_key_norm = ZERO, ZERO
                for i in range(slots):
                    cosine = cosines[head, i]
                    d_strength += d_own[i] * cosine
                    d_dot = d_own[i] * strength / (key_norm * norms[i] + EPSILON)
                    d_key_norm -= d_dot * cosine * norms[i]
                    d_norms[i] -= d_dot * cosine * key_norm
                    row, d_row = before[i], d_slots[i]
                    for j in range(width):
                        d_key[j] += d_dot * row[j]
                        d_row[j] += d_dot * key[j]
                if has_keys:
                    for i in range(slots):
                        cosine, norm, row = cosines[head, slots + i], norms[slots + i], layers.keys_MD[i]
                        d_strength += d_own[i] * cosine
                        d_dot = d_own[i] * strength / (key_norm * norm + EPSILON)
                        d_key_norm -= d_dot * cosine * norm
                        d_norms[slots + i] -= d_dot * cosine * key_norm
                        found.key_dots[t, u, head, i] = d_dot
                        for j in range(width):
                            d_key[j] += d_dot * row[j]
                d_heads[4 * width + head] = d_strength * switches.scale * sigmoid(scalar) * slope(scalar)
                of_key = d_key_norm / (_TINY if key_norm < _TINY else key_norm)
                for j in range(width):
                    d_key[j] = (d_key[j] + of_key * key[j]) * (ONE - key[j] * key[j])
            for i in range(slots):
                of_row, row, d_row = d_norms[i] / (_TINY if norms[i] < _TINY else norms[i]), before[i], d_slots[i]
                for j in range(width):
                    d_row[j] += of_row * row[j]
            if has_keys:
                copy(found.key_norms[t, u], d_norms[slots:])

            add_product(d_h, layers.heads, d_heads)
            gru_back(
                d_h, kept.controller[t, u], states.h[t, u], layers.controller_joint, layers.controller_state,
                found.controller[t, u], d_joint, scratch[:units],
            )  # fmt: skip
            copy(d_read, d_joint[:width])
            copy(d_h, d_joint[width:])
