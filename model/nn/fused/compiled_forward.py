"""One user after the other through all events, compiled: the equations of `MimnStep.advance`, and what their gradient needs.

A user's slots, channels and weights of the layers stay in the processor's cache from event to event; nothing waits for the
other users, and what a user gets does not depend on who else is in the batch. The head layer's rows are in the order of
model/nn/fused/shapes.py.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.nn.fused.machine_code import compiled
from model.nn.fused.vector import ONE, ZERO, add_product, clear, copy, dot, sigmoid, softmax, softplus, tanh
from uic.memory import Float32

Int64 = NDArray[np.int64]
EPSILON = np.float32(1e-8)
_CLIP, _TINY, _NO_SHARE, _RAW_SCALE = np.float32(20), np.float32(1e-30), np.float32(1e-6), np.float32(1 / 400)
POWER = np.float32(4)
# Rows of `Kept.weights`: addressing of the read and of the write head, re-balanced once and twice; of both re-balancings the
# mixed weights and their logarithms.
READ, CONTENT, BALANCED, TWICE, MIXED, MIXED_TWICE, LOG, LOG_TWICE = range(8)


class Switches(NamedTuple):
    """What the loops must know of a variant: a strength is scale * softplus + offset."""

    slots: int
    shift: bool
    share: bool
    scale: np.float32
    offset: np.float32


class Layers(NamedTuple):
    """The trained tensors; what a variant has not is empty. Forward each matrix is [in, out], backward [out, in]."""

    controller_joint: Float32
    controller_state: Float32
    heads: Float32  # forward [H or H + M, P], backward [P, H]
    bias: Float32
    keys_MD: Float32
    channel_joint: Float32  # forward [2D, 3D], backward its half [3D, D] over the channel: the slot has no gradient
    channel_state: Float32


class States(NamedTuple):
    """The memories before the first event and after each, [T + 1, B, ...]."""

    h: Float32
    read: Float32
    slots: Float32
    written: Float32
    channels: Float32  # [0, ...] without them


class Kept(NamedTuple):
    """What the gradient needs of every event, [T, B, ...]; all but the last two are [1, B, ...] where nobody asks for one."""

    controller: Float32  # [., ., 3H] reset and update gates, candidate
    channel: Float32  # [., ., 3D]
    channel_joint: Float32  # [., ., 2D] slot and channel
    heads: Float32  # [., ., P] tanh of keys and add vector, erase vector, then six scalars as they came
    weights: Float32  # [., ., 8, M]
    cosines: Float32  # [., ., 2, R] with the slots, and with the key memory
    adds: Float32  # [T, B, D] the vectors added
    place: Int64  # [T, B] which channel was advanced


@compiled
def gru(gates: Float32, joint: Float32, h: Float32, over_joint: Float32, over_state: Float32, scratch: Float32) -> None:
    """A GRU step; `gates` comes as what the event adds, and goes as reset and update gates and candidate."""
    units = len(h)
    add_product(gates, over_joint, joint)
    for k in range(2 * units):
        gates[k] = sigmoid(gates[k])
    for k in range(units):
        scratch[k] = gates[k] * h[k]
    add_product(gates[2 * units :], over_state, scratch)
    for k in range(2 * units, 3 * units):
        gates[k] = tanh(gates[k])


@compiled
def balance(weights: Float32, taps: Float32, power: np.float32, out: Float32, mixed: Float32, log: Float32) -> None:
    """Shift and sharpen; the power as a softmax over logarithms, which neither overflows nor becomes 0 / 0."""
    slots = len(weights)
    for i in range(slots):
        sum_of_taps = taps[0] * weights[i] + taps[1] * weights[(i + slots - 1) % slots] + taps[2] * weights[(i + 1) % slots]
        mixed[i] = _TINY if sum_of_taps < _TINY else sum_of_taps
        log[i] = math.log(mixed[i])
        out[i] = power * log[i]
    softmax(out)


@compiled
def clipped(x: np.float32) -> np.float32:
    x = _CLIP if x > _CLIP else x
    return -_CLIP if x < -_CLIP else x


@compiled
def walk(
    switches: Switches, layers: Layers, lengths: Int64, users: tuple[int, int], controller: Float32, channel: Float32,
    states: States, kept: Kept, save: bool,
) -> None:  # fmt: skip
    """Write `states` and `kept` of users `users[0]` up to `users[1]`; row 0 of `states` is given."""
    slots, units, width = switches.slots, states.h.shape[-1], states.read.shape[-1]
    joint, scratch = np.empty(width + units, np.float32), np.empty(max(width, units), np.float32)
    seen, taps = np.empty(layers.heads.shape[0], np.float32), np.empty(3, np.float32)
    has_keys, has_channels = len(layers.keys_MD) > 0, len(layers.channel_joint) > 0
    norms = np.empty(kept.cosines.shape[-1], np.float32)
    for i in range(len(layers.keys_MD)):
        norms[slots + i] = math.sqrt(dot(layers.keys_MD[i], layers.keys_MD[i]))
    for u in range(users[0], users[1]):
        for t in range(lengths[u]):
            s = t if save else 0
            before, after = states.slots[t, u], states.slots[t + 1, u]
            gates, heads, weights, cosines = kept.controller[s, u], kept.heads[s, u], kept.weights[s, u], kept.cosines[s, u]

            h, h_after = states.h[t, u], states.h[t + 1, u]
            copy(joint[:width], states.read[t, u])
            copy(joint[width:], h)
            copy(gates, controller[t, u])
            gru(gates, joint, h, layers.controller_joint, layers.controller_state, scratch[:units])
            for k in range(units):
                h_after[k] = gates[2 * units + k] + gates[units + k] * (h[k] - gates[2 * units + k])

            copy(seen[:units], h_after)
            written = states.written[t, u]
            if switches.shift:
                factor = _RAW_SCALE
                if switches.share:
                    total = ZERO
                    for i in range(slots):
                        total += written[i]
                    factor = ONE / (_NO_SHARE if total < _NO_SHARE else total)
                for i in range(slots):
                    seen[units + i] = written[i] * factor
            copy(heads, layers.bias)
            add_product(heads, layers.heads, seen)
            for j in range(3 * width):
                heads[j] = tanh(clipped(heads[j]))
            for j in range(3 * width, 4 * width):
                heads[j] = sigmoid(clipped(heads[j]))
            copy(kept.adds[t, u], heads[2 * width : 3 * width])

            for i in range(slots):
                norms[i] = math.sqrt(dot(before[i], before[i]))
            for head in range(2):
                key, own = heads[head * width : (head + 1) * width], weights[head]
                key_norm = math.sqrt(dot(key, key))
                strength = switches.offset + switches.scale * softplus(clipped(heads[4 * width + head]))
                for i in range(slots):
                    cosines[head, i] = dot(key, before[i]) / (key_norm * norms[i] + EPSILON)
                    own[i] = cosines[head, i]
                if has_keys:
                    for i in range(slots):
                        cosine = dot(key, layers.keys_MD[i]) / (key_norm * norms[slots + i] + EPSILON)
                        cosines[head, slots + i] = cosine
                        own[i] += cosine
                for i in range(slots):
                    own[i] *= strength
                softmax(own)
            write, increment = weights[CONTENT], weights[CONTENT]
            if switches.shift:
                power = POWER + POWER * softplus(clipped(heads[4 * width + 2]))
                for tap in range(3):
                    taps[tap] = clipped(heads[4 * width + 3 + tap])
                softmax(taps)
                balance(weights[CONTENT], taps, power, weights[BALANCED], weights[MIXED], weights[LOG])
                balance(weights[BALANCED], taps, power, weights[TWICE], weights[MIXED_TWICE], weights[LOG_TWICE])
                write, increment = weights[BALANCED], weights[TWICE]

            read = states.read[t + 1, u]
            clear(read)
            for i in range(slots):
                of_read, of_write, row, row_after = weights[READ, i], write[i], before[i], after[i]
                states.written[t + 1, u, i] = written[i] + increment[i]
                for j in range(width):
                    read[j] += of_read * row[j]
                    row_after[j] = row[j] + of_write * (heads[2 * width + j] - row[j] * heads[3 * width + j])

            if has_channels:
                place = 0
                for i in range(1, slots):
                    place = i if weights[READ, i] > weights[READ, place] else place
                kept.place[t, u] = place
                for i in range(slots):
                    copy(states.channels[t + 1, u, i], states.channels[t, u, i])
                own_joint, own_gates, one = kept.channel_joint[s, u], kept.channel[s, u], states.channels[t + 1, u, place]
                copy(own_joint[:width], before[place])
                copy(own_joint[width:], one)
                copy(own_gates, channel[t, u])
                gru(own_gates, own_joint, own_joint[width:], layers.channel_joint, layers.channel_state, scratch[:width])
                for k in range(width):
                    one[k] = own_gates[2 * width + k] + own_gates[width + k] * (one[k] - own_gates[2 * width + k])
