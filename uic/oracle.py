"""The steps in plain numpy and float64, written from the equations: what every other runtime is checked against.

It reads the dense parameters of a bundle (weights.npz), not its graphs, so that a mistake of the export shows. Slow and obvious
on purpose. MIMN's equations are here, those of model/nn/mimn.py; the numbers in the comments are the steps of mimn-spec 2.3.
Those of the other memories are in uic/compared_oracle.py.
"""

import numpy as np
from numpy.typing import NDArray

from uic import compared_oracle
from uic.bundle import Bundle
from uic.compared_oracle import gru
from uic.memory import Float32, MemoryLayout
from uic.models import Memory
from uic.variant import Variant

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


class NumpyStep:
    """The step as a StepFunction over the numpy oracle.

    `margin_B`, after a call, is how clearly the step chose: how far the chosen channels' read weights were above the best one
    not chosen, or an event from the nearest hyperplane of its hashes. Two runtimes may rightly differ where it is below 1e-6.
    """

    def __init__(self, layout: MemoryLayout, weights: dict[str, Float32], items: Float32, categories: Float32) -> None:
        self._layout = layout
        self._weights = {name: value.astype(np.float64) for name, value in weights.items()}
        self._items = items
        self._categories = categories
        self.margin_B: Float64 = np.zeros(0)

    @classmethod
    def of(cls, bundle: Bundle) -> "NumpyStep":
        items, categories = bundle.embeddings()
        return cls(bundle.layout, bundle.weights(), items, categories)

    def __call__(self, state_BF: Float32, item_rows_B: Int64, category_rows_B: Int64) -> Float32:
        before = {name: tensor.astype(np.float64) for name, tensor in self._layout.split(state_BF).items()}
        after = self.exact(before, item_rows_B, category_rows_B)
        return self._layout.pack({name: tensor.astype(np.float32) for name, tensor in after.items()})

    def exact(self, before: dict[str, Float64], item_rows_B: Int64, category_rows_B: Int64) -> dict[str, Float64]:
        """The step from tensors in float64 to tensors in float64: a fold of these rounds nothing between two events."""
        event_BX = np.concatenate([self._items[item_rows_B], self._categories[category_rows_B]], axis=-1).astype(np.float64)
        variant = self._layout.variant
        if isinstance(variant, Memory):
            after, self.margin_B = compared_oracle.step(variant, self._weights, before, event_BX)
            return after
        return self._step(before, event_BX)

    @property
    def _mimn(self) -> Variant:
        assert isinstance(self._layout.variant, Variant)
        return self._layout.variant

    def _step(self, s: dict[str, Float64], x_BX: Float64) -> dict[str, Float64]:
        v, w = self._mimn, self._weights
        h_BH = gru(w, "step.controller", np.concatenate([x_BX, s["read"]], -1), s["controller"])  # 1

        seen = h_BH  # 2
        if v.mur == "shift":
            g = s["utilization"]
            feature = _shares(g) if v.utilization == "share" else g / 400.0
            seen = np.concatenate([h_BH, feature], -1)
        p = np.clip(seen @ w["step.to_heads.weight"].T + w["step.to_heads.bias"], -20.0, 20.0)
        head = v.slot_width + 6
        read_head, write_head = p[:, :head], p[:, head : 2 * head]
        erase_BD = 1.0 / (1.0 + np.exp(-p[:, 2 * head : 2 * head + v.slot_width]))
        add_BD = np.tanh(p[:, 2 * head + v.slot_width :])

        read_BM = self._address(read_head, s["slots"])  # 3
        write_BM, increment_BM = self._rebalance(write_head, self._address(write_head, s["slots"]), s["utilization"])  # 4
        slots_BMD = s["slots"] * (1.0 - write_BM[..., None] * erase_BD[:, None]) + write_BM[..., None] * add_BD[:, None]  # 7
        after = {
            "controller": h_BH,
            "read": np.einsum("bm,bmd->bd", read_BM, s["slots"]),  # 5
            "slots": slots_BMD,
            "utilization": s["utilization"] + increment_BM,
            "add_pool": self._pool(s["add_pool"], add_BD, s["applied"]),
            "event_pool": self._pool(s["event_pool"], x_BX, s["applied"]),
            "applied": s["applied"] + 1.0,
        }
        self.margin_B = np.full(len(x_BX), np.inf)
        if v.miu:  # 6
            # Sorted by falling weight; a stable sort leaves ties to the lowest index.
            order_BM = np.argsort(-read_BM, axis=-1, kind="stable")
            chosen_BM = np.zeros_like(read_BM)
            np.put_along_axis(chosen_BM, order_BM[:, : v.top_channels], 1.0, axis=-1)
            if v.top_channels < v.slots:
                ranked_BM = np.take_along_axis(read_BM, order_BM, axis=-1)
                self.margin_B = ranked_BM[:, v.top_channels - 1] - ranked_BM[:, v.top_channels]
            source_BMD = s["slots"] if v.miu_memory == "before" else slots_BMD
            x_BMX = np.broadcast_to(x_BX[:, None], (*read_BM.shape, x_BX.shape[-1]))
            advanced_BMD = gru(w, "step.channel", np.concatenate([x_BMX, source_BMD], -1), s["channels"])
            after["channels"] = np.where(chosen_BM[..., None] > 0, advanced_BMD, s["channels"])
            if v.miu_readout == "last_output":
                after["last_channels"] = chosen_BM
        return after

    def _pool(self, pool: Float64, new: Float64, applied_B1: Float64) -> Float64:
        if self._mimn.pooling == "sum":
            return pool + new
        return (pool * applied_B1 + new) / (applied_B1 + 1.0)

    def _address(self, head: Float64, slots_BMD: Float64) -> Float64:
        v = self._mimn
        key_BD = np.tanh(head[:, : v.slot_width])
        similarity_BM = _cosine(key_BD, slots_BMD)
        if v.key_memory:
            shared_BMD = np.broadcast_to(np.tanh(self._weights["step.key_memory"]), slots_BMD.shape)
            similarity_BM = 0.5 * _cosine(key_BD, shared_BMD) + 0.5 * similarity_BM
        if v.temperature:
            similarity_BM = 2.0 * (np.logaddexp(0.0, head[:, v.slot_width, None]) + 1.0) * similarity_BM
        return _softmax(similarity_BM)

    def _rebalance(self, head: Float64, write_BM: Float64, g_BM: Float64) -> tuple[Float64, Float64]:
        v, w = self._mimn, self._weights
        if v.mur == "none":
            return write_BM, write_BM
        if v.mur == "transfer":
            raw = _shares(g_BM) @ w["step.transfer.weight"].T + w["step.transfer.bias"]
            moved_BM = np.einsum("bi,bij->bj", write_BM, _softmax(raw.reshape(-1, v.slots, v.slots)))
            return moved_BM, moved_BM
        taps_B3 = _softmax(head[:, v.slot_width + 2 : v.slot_width + 5])
        power_B1 = 4.0 * (np.logaddexp(0.0, head[:, v.slot_width + 5 :]) + 1.0)

        def balance(weights_BM: Float64) -> Float64:
            neighbours = (weights_BM, np.roll(weights_BM, 1, axis=-1), np.roll(weights_BM, -1, axis=-1))
            mixed = sum(taps_B3[:, tap, None] * part for tap, part in enumerate(neighbours))
            powered = mixed**power_B1
            result: Float64 = powered / powered.sum(-1, keepdims=True)
            return result

        balanced_BM = balance(write_BM)
        return balanced_BM, balance(balanced_BM)


def _cosine(key_BD: Float64, rows_BMD: Float64) -> Float64:
    norms = np.linalg.norm(key_BD, axis=-1)[:, None] * np.linalg.norm(rows_BMD, axis=-1)
    result: Float64 = np.einsum("bd,bmd->bm", key_BD, rows_BMD) / (norms + 1e-8)
    return result


def _softmax(x: Float64) -> Float64:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    result: Float64 = powers / powers.sum(axis=-1, keepdims=True)
    return result


def _shares(g_BM: Float64) -> Float64:
    result: Float64 = g_BM / np.maximum(g_BM.sum(axis=-1, keepdims=True), 1e-6)
    return result
