"""Golden files of the models of which none is at hand, written by a second, plain computation, are met by ours."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model.golden import check

E, T, ROWS, M = 3, 7, 11, 4
X = 2 * E
Array = NDArray[np.float64]
Arrays = dict[str, Any]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


class Authors:
    """A model in the authors' names with weights at random, run through every position as they ran it."""

    def __init__(self, name: str) -> None:
        self.name, self.rng, self.w = name, np.random.default_rng(len(name)), dict[str, Array]()
        self.table = self.weight("mid_embedding_var", ROWS, E)
        self.mask = (np.arange(T) >= np.array([[0], [3], [6]])).astype(float)
        self.ids = {
            "item": self.rng.integers(1, ROWS, 3), "cate": self.rng.integers(1, ROWS, 3),
            **{key: self.rng.integers(1, ROWS, (3, T)) for key in ("item_his", "cate_his", "neg_item", "neg_cate")},
        }  # fmt: skip
        for key in ("item_his", "cate_his"):
            self.ids[key] = (self.ids[key] * self.mask).astype(int)
        self.x, self.negatives = self.events("item_his", "cate_his"), self.events("neg_item", "neg_cate")
        self.q = np.concatenate([self.table[self.ids["item"]], self.table[self.ids["cate"]]], -1)

    def weight(self, key: str, *shape: int) -> Array:
        return self.w.setdefault(key, self.rng.normal(size=shape) * 0.5)

    def events(self, items: str, categories: str) -> Array:
        both: Array = np.concatenate([self.table[self.ids[items]], self.table[self.ids[categories]]], -1)
        return both * self.mask[..., None]

    def dense(self, scope: str, x: Array, units: int, kernel: str = "kernel", bias: str = "bias") -> Array:
        return x @ self.weight(f"{scope}/{kernel}", x.shape[-1], units) + self.weight(f"{scope}/{bias}", units)

    def gru(self, scope: str, xs: Array, attention: Array | None = None, units: int = X) -> Array:
        h, states = np.zeros((3, units)), []
        for t in range(xs.shape[1]):
            h = self.gru_step(scope, xs[:, t], h, None if attention is None else attention[:, t : t + 1])
            states.append(h)
        return np.stack(states, 1)

    def gru_step(self, scope: str, x: Array, h: Array, attention: Array | None = None) -> Array:
        units = h.shape[-1]
        gates = sigmoid(self.dense(f"{scope}/gates", np.concatenate([x, h], -1), 2 * units))
        r, u = gates[:, :units], gates[:, units:]
        c = np.tanh(self.dense(f"{scope}/candidate", np.concatenate([x, r * h], -1), units))
        u = u if attention is None else (1 - attention) * u
        return u * h + (1 - u) * c

    def attention(self, facts: Array, mask: Array | None) -> Array:
        """The weights of the facts, [3, T]."""
        q = np.broadcast_to(self.q[:, None], facts.shape)
        z = np.concatenate([q, facts, q - facts, q * facts], -1)
        z = sigmoid(self.dense("f1_attnull", z, 80))
        scores = self.dense("f3_attnull", sigmoid(self.dense("f2_attnull", z, 40)), 1)[..., 0]
        return softmax(scores if mask is None else np.where(mask > 0, scores, -(2.0**32) + 1))

    def rum(self) -> tuple[Array, Array]:
        start = np.broadcast_to(np.tanh(self.weight("init/init_M", M, X)), (3, M, X))
        h, slots, output = np.zeros((3, X)), start, np.zeros((3, X))
        read = np.broadcast_to(np.tanh(self.weight("init/fully_connected/weights", 1, X)), (3, X))
        for t in range(T):
            output = self.gru_step("controller/gru_cell", np.concatenate([self.x[:, t], read], -1), h)
            p = np.clip(self.dense("o2p/fully_connected", output, 2 * (X + 1) + 2 * X, "weights", "biases"), -20, 20)
            weights = []
            for head in (p[:, : X + 1], p[:, X + 1 : 2 * X + 2]):
                key, norm = np.tanh(head[:, :X]), np.linalg.norm
                cosine = np.einsum("bx,bmx->bm", key, slots) / (norm(key, axis=-1)[:, None] * norm(slots, axis=-1) + 1e-8)
                weights.append(softmax((np.log1p(np.exp(head[:, X:])) + 1) * cosine))
            read = np.einsum("bm,bmx->bx", weights[0], slots)
            erase, add = sigmoid(p[:, None, 2 * X + 2 : 3 * X + 2]), np.tanh(p[:, None, 3 * X + 2 :])
            after = slots * (1 - weights[1][..., None] * erase) + weights[1][..., None] * add
            real = self.mask[:, t, None]
            h, slots = real * output, np.where(real[..., None] > 0, after, start)
        return output, slots

    def inputs(self) -> Array:
        q, s, x = self.q, self.x.sum(1), self.x
        if self.name in ("DNN", "PNN"):
            parts = [q, s] if self.name == "DNN" else [q, s, q * s]
        elif self.name == "RUM_m4":
            output, slots = self.rum()
            parts = [q, s, output, np.einsum("bm,bmx->bx", self.attention(slots, None), slots)]
        else:
            states = self.gru("gru1/gru_cell", x)
            a = self.attention(states, self.mask)
            if self.name == "ARNN":
                parts = [q, s, states[:, -1], np.einsum("bt,btx->bx", a, states)]
            else:
                parts = [q, self.gru("gru2/vec_att_gru_cell", states, a)[:, -1], s, q * s]
        return np.concatenate(parts, -1)

    def auxiliary(self) -> float:
        states = self.gru("gru1/gru_cell", self.x)[:, :-1]
        probabilities = []
        for events in (self.x, self.negatives):
            z = np.concatenate([states, events[:, 1:]], -1)
            z = z / 1.001**0.5 * self.weight("bn1bigru_0/gamma", 2 * X) + self.weight("bn1bigru_0/beta", 2 * X)
            z = sigmoid(self.dense("f2bigru_0", sigmoid(self.dense("f1bigru_0", z, 100)), 50))
            probabilities.append(softmax(self.dense("f3bigru_0", z, 2))[..., 0] + 1e-6)
        losses = -np.log(probabilities[0]) - np.log(1 - probabilities[1])
        return float((losses * self.mask[:, 1:]).mean())

    def write(self, path: Path, *, aux: bool) -> Path:
        inputs = self.inputs()
        z = inputs / 1.001**0.5 * self.weight("bn1/gamma", inputs.shape[-1]) + self.weight("bn1/beta", inputs.shape[-1])
        for layer, units in ((1, 200), (2, 80)):
            z = self.dense(f"f{layer}", z, units)
            z = np.where(z > 0, z, z * self.weight(f"prelu_{layer}/prelu_prelu_{layer}", units))
        y = softmax(self.dense("f3", z, 2)) + 1e-8
        target = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        out = {"inp": inputs, "y_hat": y, "loss": -(np.log(y) * target).mean()}
        if aux:
            out["aux_loss"] = np.array(self.auxiliary())
            out["loss"] = out["loss"] + out["aux_loss"]
        meta = {"name": self.name, "E": E, "H": X, "n_mid": ROWS, "aux": aux}
        arrays = {
            **{f"W/{key}": value for key, value in self.w.items()},
            **{f"in/{key}": value for key, value in self.ids.items()},
        }
        arrays |= {"in/mask": self.mask, "in/target": target, **{f"out/{key}": value for key, value in out.items()}}
        np.savez(path, **arrays, meta=np.array(json.dumps(meta)))
        return path


@pytest.mark.parametrize(
    ("name", "aux"), [("DNN", False), ("PNN", False), ("ARNN", False), ("RUM_m4", False), ("DIEN", False), ("DIEN", True)]
)
def test_a_second_computation_of_every_model_is_met(name: str, aux: bool, tmp_path: Path) -> None:
    differences = check(Authors(name).write(tmp_path / "golden.npz", aux=aux))
    assert {each.tensor for each in differences} == {"out/inp", "out/y_hat", "out/loss", *(["out/aux_loss"] if aux else [])}
    for each in differences:
        assert each.is_within, each
