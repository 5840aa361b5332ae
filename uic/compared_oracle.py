"""The steps of the other memories in plain numpy and float64, as uic/oracle.py has MIMN's: obvious, slow, from the equations.

Each takes a variant, the weights by name, the tensors of a memory and the event; returns the next tensors, and by how much the
closest choice was made (infinite where nothing is chosen). Equations: model/nn/ gru4rec, rum, sdim and delta.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uic.models import Delta, Gru4Rec, Memory, Rum, Sdim

Float64 = NDArray[np.float64]
Tensors = dict[str, Float64]


def step(variant: Memory, weights: Tensors, before: Tensors, x_BX: Float64) -> tuple[Tensors, Float64]:
    """One event applied to each memory, and each user's margin, [B]."""
    own, margin_B = _OWN[variant.model](variant, weights, before, x_BX)
    pool_BX, applied_B1 = before["event_pool"], before["applied"]
    total_BX = pool_BX + x_BX if variant.pooling == "sum" else (pool_BX * applied_B1 + x_BX) / (applied_B1 + 1.0)
    return {**own, "event_pool": total_BX, "applied": applied_B1 + 1.0}, margin_B


def _nothing(variant: Memory, w: Tensors, s: Tensors, x_BX: Float64) -> tuple[Tensors, Float64]:
    return {}, _no_choice(x_BX)


def _gru4rec(variant: Gru4Rec, w: Tensors, s: Tensors, x_BX: Float64) -> tuple[Tensors, Float64]:
    return {"hidden": gru(w, "step.gru", x_BX, s["hidden"])}, _no_choice(x_BX)


def _rum(variant: Rum, w: Tensors, s: Tensors, x_BX: Float64) -> tuple[Tensors, Float64]:
    h_BH = gru(w, "step.controller", np.concatenate([x_BX, s["read"]], -1), s["controller"])
    p = np.clip(h_BH @ w["step.to_heads.weight"].T + w["step.to_heads.bias"], -20.0, 20.0)
    width, slots_BMX = variant.event_width, s["slots"]

    def address(head: Float64) -> Float64:
        key_BX = np.tanh(head[:, :width])
        norms = np.linalg.norm(key_BX, axis=-1)[:, None] * np.linalg.norm(slots_BMX, axis=-1)
        cosine = np.einsum("bx,bmx->bm", key_BX, slots_BMX) / (norms + 1e-8)
        powers: Float64 = np.exp((np.logaddexp(0.0, head[:, width:]) + 1.0) * cosine)
        weights: Float64 = powers / powers.sum(-1, keepdims=True)
        return weights

    read_BM, write_BM1 = address(p[:, : width + 1]), address(p[:, width + 1 : 2 * width + 2])[..., None]
    erase_B1X = sigmoid(p[:, None, 2 * width + 2 : 3 * width + 2])
    add_B1X = np.tanh(p[:, None, 3 * width + 2 :])
    after = {
        "controller": h_BH,
        "read": np.einsum("bm,bmx->bx", read_BM, slots_BMX),
        "slots": slots_BMX * (1.0 - write_BM1 * erase_B1X) + write_BM1 * add_B1X,
    }
    return after, _no_choice(x_BX)


def _sdim(variant: Sdim, w: Tensors, s: Tensors, x_BX: Float64) -> tuple[Tensors, Float64]:
    projected = x_BX @ w["step.hyperplanes"]
    buckets = s["buckets"].copy()
    for user, row in enumerate(projected.reshape(-1, variant.hashes, variant.bits)):
        for place, signs in enumerate(row > 0):
            number = int(sum(2**bit for bit, sign in enumerate(signs) if sign))
            buckets[user, place * 2**variant.bits + number] += x_BX[user]
    # A zero vector is on every hyperplane in any arithmetic: its signature is no choice.
    margin: Float64 = np.where(projected == 0, np.inf, np.abs(projected)).min(axis=-1)
    return {"buckets": buckets}, margin


def _delta(variant: Delta, w: Tensors, s: Tensors, x_BX: Float64) -> tuple[Tensors, Float64]:
    heads, k_width = variant.heads, variant.key_width
    keys = (x_BX @ w["step.to_keys.weight"].T + w["step.to_keys.bias"]).reshape(-1, heads, k_width)
    keys = keys / np.sqrt((keys**2).sum(-1, keepdims=True) + 1e-12)
    values = (x_BX @ w["step.to_values.weight"].T + w["step.to_values.bias"]).reshape(-1, heads, variant.value_width)
    gates = sigmoid(x_BX @ w["step.to_gates.weight"].T + w["step.to_gates.bias"])
    kept = s["associations"].reshape(-1, heads, k_width, variant.value_width) * gates[:, :heads, None, None]
    change = gates[:, heads:, None] * (values - np.einsum("bgkv,bgk->bgv", kept, keys))
    after = kept + np.einsum("bgk,bgv->bgkv", keys, change)
    return {"associations": after.reshape(s["associations"].shape)}, _no_choice(x_BX)


_OWN: dict[str, Callable[[Any, Tensors, Tensors, Float64], tuple[Tensors, Float64]]] = {
    "mlp": _nothing,
    "gru4rec": _gru4rec,
    "rum": _rum,
    "sdim": _sdim,
    "delta": _delta,
}


def gru(w: Tensors, name: str, x: Float64, h: Float64) -> Float64:
    """The next state of the GRU of this name (model/nn/gru.py)."""
    gates = sigmoid(np.concatenate([x, h], -1) @ w[f"{name}.gates.weight"].T + w[f"{name}.gates.bias"])
    reset, update = np.split(gates, 2, axis=-1)
    mixed = np.concatenate([x, reset * h], -1)
    candidate = np.tanh(mixed @ w[f"{name}.candidate.weight"].T + w[f"{name}.candidate.bias"])
    result: Float64 = update * h + (1.0 - update) * candidate
    return result


def sigmoid(x: Float64) -> Float64:
    result: Float64 = 1.0 / (1.0 + np.exp(-x))
    return result


def _no_choice(x_BX: Float64) -> Float64:
    return np.full(len(x_BX), np.inf)
