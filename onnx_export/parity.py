"""Parity: numpy oracle, PyTorch and ONNX Runtime must make the same memory of the same events (design: Tolerance)."""

from typing import Any, NamedTuple

import numpy as np
import torch

from model.nn.ctr import MemoryCtr, probability
from model.nn.state import pack
from uic.bundle import Bundle
from uic.memory import Float32
from uic.oracle import NumpyStep
from uic.runtime import OnnxScore, OnnxStep
from uic.tolerance import TIE_MARGIN, excess, memory_excess


class Parity(NamedTuple):
    """The result: `excess` is the largest difference in units of the tolerance per pair of runtimes; at most 1 is parity.

    `tied` users met a margin below TIE_MARGIN and are counted apart.
    """

    events: int
    users: int
    tied: int
    excess: dict[str, float]

    @property
    def holds(self) -> bool:
        return all(value <= 1.0 for value in self.excess.values()) and self.tied <= max(1, self.users // 100)


@torch.no_grad()
def check_parity(model: MemoryCtr[Any], bundle: Bundle, *, events: int = 1000, users: int = 32, seed: int = 0) -> Parity:
    """Fold the same random events with all three runtimes, then score the same candidates with two."""
    rng = np.random.default_rng(seed)
    item_BT = rng.integers(1, bundle.items.table_rows, size=(users, events))
    category_BT = rng.integers(1, bundle.categories.table_rows, size=(users, events))
    step, oracle = OnnxStep(bundle), NumpyStep.of(bundle)
    onnx_BF = numpy_BF = np.tile(bundle.initial.state_F, (users, 1))
    state = model.eval().cpu().initial_state(users)
    margin_B = np.full(users, np.inf)
    for t in range(events):
        rows, categories = item_BT[:, t], category_BT[:, t]
        onnx_BF = step(onnx_BF, rows, categories)
        numpy_BF = oracle(numpy_BF, rows, categories)
        margin_B = np.minimum(margin_B, oracle.margin_B)
        state = model.step(state, model.embedding(torch.from_numpy(rows), torch.from_numpy(categories)))
    torch_BF = pack(state).numpy()
    clear = margin_B >= TIE_MARGIN

    def worst(have_BF: Float32, want_BF: Float32) -> float:
        return max(
            float(each.max(initial=0.0)) for each in memory_excess(model.layout, have_BF[clear], want_BF[clear]).values()
        )

    candidates = rng.integers(1, bundle.items.table_rows, size=(users, 5))
    kinds = rng.integers(1, bundle.categories.table_rows, size=(users, 5))
    features = rng.normal(size=(users, 5, len(bundle.manifest.head_features))).astype(np.float32)
    given = features if features.shape[-1] else None
    scored = OnnxScore(bundle)(onnx_BF, candidates, kinds, None, given)
    expected = probability(
        model.logits(
            torch.from_numpy(onnx_BF), torch.from_numpy(candidates), torch.from_numpy(kinds),
            None if given is None else torch.from_numpy(given),
        )
    ).numpy()  # fmt: skip
    return Parity(
        events=events,
        users=users,
        tied=int((~clear).sum()),
        excess={
            "onnx to numpy": worst(onnx_BF, numpy_BF),
            "torch to numpy": worst(torch_BF, numpy_BF),
            "onnx to torch": worst(onnx_BF, torch_BF),
            "score, onnx to torch": float(excess(scored, expected).max(initial=0.0)),
        },
    )
