"""Parity: numpy oracle, PyTorch and ONNX Runtime must make the same memory of the same events (design: Tolerance).

Two questions, since a recurrence may be chaotic: with some weights, the rounding of a memory to float32 alone grows beyond the
tolerance over hundreds of events, whatever the runtime.

    a step   every event from one and the same memory: within the tolerance, for every user and event
    a fold   each runtime on from its own memories: within the tolerance at the end, but for users whom rounding alone moves

Who is moved is told by the oracle, before any runtime is looked at: a fold in float64 against the same with its memories
rounded to float32 after each event, and against one with noise of float32's last place, since one rounding may be lucky. So no
fault of a runtime can excuse itself. Weights that leave many apart are refused.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from model.nn.ctr import MemoryCtr, probability
from model.nn.state import pack
from uic import artefact
from uic.bundle import MANIFEST, Bundle
from uic.memory import Float32, MemoryLayout
from uic.oracle import Float64, Int64, NumpyStep
from uic.runtime import OnnxScore, OnnxStep
from uic.tolerance import TIE_MARGIN, excess, memory_excess
from uic.update import StepFunction

Bools = NDArray[np.bool_]

_COMPARED_EVERY = 50
# Of the tolerance: of two runtimes one may err to each side, and both by more than one rounding shows.
_MOVED = 0.25
# Relative: twice what rounding between steps does, since runtimes round inside a step too.
_NOISE = 2.0**-23
_MOST_APART = 1 / 8
# What a choice decides: where the best are level, two runtimes may rightly choose differently.
_CHOSEN = frozenset({"channels", "last_channels", "buckets"})


class Parity(NamedTuple):
    """The result: `excess` is the largest difference in units of the tolerance per pair of runtimes; at most 1 is parity.

    `moved` users are moved by rounding alone, `tied` ones met a margin below TIE_MARGIN. Those among them whose folds do differ
    are `apart`: they are left out of the folds' excess, and of nothing else.
    """

    events: int
    users: int
    moved: int
    tied: int
    apart: int
    excess: dict[str, float]

    @property
    def holds(self) -> bool:
        return not self.faults

    @property
    def most_apart(self) -> int:
        return max(1, int(self.users * _MOST_APART))

    @property
    def faults(self) -> list[str]:
        """Why it does not hold."""
        found = [f"{pair}: {value:.3g} of the tolerance" for pair, value in self.excess.items() if not value <= 1.0]
        if self.apart > self.most_apart:
            found.append(
                f"{self.apart} of {self.users} users end apart after {self.events} events, at most {self.most_apart} may: with "
                "these weights rounding alone moves memories. Train on, or from another seed (train.seed)"
            )
        return found

    @property
    def note(self) -> str | None:
        """Who is apart, where anybody is."""
        if not self.apart:
            return None
        return (
            f"{self.apart} of {self.users} users end apart and are compared event by event alone: rounding to float32 by "
            f"itself moves {self.moved} of all, {self.tied} met a tie of channels"
        )


@torch.no_grad()
def check_parity(model: MemoryCtr[Any], bundle: Bundle, *, events: int = 1000, users: int = 32, seed: int = 0) -> Parity:
    """Take the same random events with all three runtimes, one by one and as folds; score the same candidates with two."""
    rng = np.random.default_rng(seed)
    item_BT = rng.integers(1, bundle.items.table_rows, size=(users, events))
    category_BT = rng.integers(1, bundle.categories.table_rows, size=(users, events))
    layout, onnx, oracle, torches = bundle.layout, OnnxStep(bundle), NumpyStep.of(bundle), _torch_step(model)
    numpy_BF = onnx_BF = torch_BF = np.tile(bundle.initial.state_F, (users, 1))
    exact = rounded = noisy = {name: each.astype(np.float64) for name, each in layout.split(numpy_BF).items()}
    margin_B, moved_B, steps = np.full(users, np.inf), np.zeros(users), dict[str, float]()
    stepped: list[tuple[Float32, Float32, Float32, Bools]] = []
    for t in range(events):
        rows = (item_BT[:, t], category_BT[:, t])
        exact, noisy = oracle.exact(exact, *rows), oracle.exact(noisy, *rows)
        noisy = {name: each * (1.0 + rng.uniform(-_NOISE, _NOISE, each.shape)) for name, each in noisy.items()}
        rounded = {name: each.astype(np.float32).astype(np.float64) for name, each in oracle.exact(rounded, *rows).items()}
        # Both runtimes take the event from memories of their own, and from the oracle's.
        twice = [np.tile(each, 2) for each in rows]
        onnx_BF, onnx_step_BF = np.split(onnx(np.concatenate([onnx_BF, numpy_BF]), *twice), 2)
        torch_BF, torch_step_BF = np.split(torches(np.concatenate([torch_BF, numpy_BF]), *twice), 2)
        numpy_BF, exact_BF, noisy_BF = (layout.pack(each) for each in (rounded, exact, noisy))  # type: ignore[arg-type]  # it rounds them
        margin_B = np.minimum(margin_B, oracle.margin_B)
        stepped.append((numpy_BF, onnx_step_BF, torch_step_BF, oracle.margin_B < TIE_MARGIN))
        if len(stepped) == _COMPARED_EVERY or t == events - 1:
            for pair, each_B in _pairs(layout, *(np.concatenate(each) for each in zip(*stepped, strict=True))).items():
                steps[pair] = max(steps.get(pair, 0.0), float(each_B.max(initial=0.0)))
            for other_BF in (numpy_BF, noisy_BF):
                moved_B = np.max([moved_B, *memory_excess(layout, other_BF, exact_BF).values()], axis=0)
            stepped.clear()
    is_tied_B, is_moved_B = margin_B < TIE_MARGIN, moved_B > _MOVED
    folds = _pairs(layout, numpy_BF, onnx_BF, torch_BF, np.zeros(users, np.bool_))
    is_apart_B = (is_tied_B | is_moved_B) & ~(np.max(list(folds.values()), axis=0) <= 1.0)
    return Parity(
        events=events,
        users=users,
        moved=int(is_moved_B.sum()),
        tied=int(is_tied_B.sum()),
        apart=int(is_apart_B.sum()),
        excess={
            **{f"step, {pair}": value for pair, value in steps.items()},
            **{f"fold, {pair}": float(each_B[~is_apart_B].max(initial=0.0)) for pair, each_B in folds.items()},
            "score, onnx to torch": _score_excess(model, bundle, onnx_BF, rng),
        },
    )


def record_parity(bundle: Bundle, parity: Parity) -> None:
    """Write into the manifest, under `training`, what the check found."""
    found = {**parity._asdict(), "holds": parity.holds}
    manifest = dataclasses.replace(bundle.manifest, training={**bundle.manifest.training, "parity": found})
    artefact.write_atomically(bundle.path / MANIFEST, manifest.to_json())


def _pairs(
    layout: MemoryLayout, numpy_BF: Float32, onnx_BF: Float32, torch_BF: Float32, is_tied_B: Bools
) -> dict[str, Float64]:
    """Each memory's largest difference by pair of runtimes, [B]; of one after a tie, in all that no choice decides."""

    def largest(have_BF: Float32, want_BF: Float32) -> Float64:
        found = memory_excess(layout, have_BF, want_BF)
        counted = [np.where(is_tied_B & (name in _CHOSEN), 0.0, each_B) for name, each_B in found.items()]
        result: Float64 = np.max(counted, axis=0)
        return result

    return {
        "onnx to numpy": largest(onnx_BF, numpy_BF),
        "torch to numpy": largest(torch_BF, numpy_BF),
        "onnx to torch": largest(onnx_BF, torch_BF),
    }


def _torch_step(model: MemoryCtr[Any]) -> StepFunction:
    """The model's step on packed memories."""
    model = model.eval().cpu()

    def step(state_BF: Float32, item_rows_B: Int64, category_rows_B: Int64) -> Float32:
        event_BX = model.embedding(torch.from_numpy(item_rows_B), torch.from_numpy(category_rows_B))
        return pack(model.step(model.unpack(torch.from_numpy(state_BF)), event_BX)).numpy()

    return step


def _score_excess(model: MemoryCtr[Any], bundle: Bundle, state_BF: Float32, rng: np.random.Generator) -> float:
    """The largest difference of two runtimes' scores of the same candidates for the same memories."""
    users = len(state_BF)
    candidates = rng.integers(1, bundle.items.table_rows, size=(users, 5))
    kinds = rng.integers(1, bundle.categories.table_rows, size=(users, 5))
    features = rng.normal(size=(users, 5, len(bundle.manifest.head_features))).astype(np.float32)
    given = features if features.shape[-1] else None
    scored = OnnxScore(bundle)(state_BF, candidates, kinds, None, given)
    state, items, categories = (torch.from_numpy(each) for each in (state_BF, candidates, kinds))
    logits = model.logits(state, items, categories, None if given is None else torch.from_numpy(given))
    expected = probability(logits).numpy()
    return float(excess(scored, expected).max(initial=0.0))
