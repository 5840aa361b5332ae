"""When two runtimes have made the same memory: the project's one tolerance for recurrent float32.

    |a - b| <= ATOL + RTOL * |b|            with both 1e-5, over 1,000 events

Sums over all events (`summed` of a variant) are compared as means: each step adds its own rounding, so a sum's error grows with
the number of events while its value may cancel out. Where the best channels' read weights differ by less than TIE_MARGIN, two
runtimes may rightly choose differently; users who met such a tie are counted apart.

A copy that was published in small numbers (uic/small.py) may be off by what those round besides.
"""

import numpy as np
from numpy.typing import NDArray

from uic.memory import Float32, MemoryLayout, Numbers

RTOL = ATOL = 1e-5
TIE_MARGIN = 1e-6


def excess(have: Float32, want: Float32, rounded: NDArray[np.float64] | float = 0.0) -> NDArray[np.float64]:
    """|a - b| in units of the tolerance, elementwise; at most 1 is equal, infinite where a value is not finite.

    `rounded`: by how much a may be off for another reason, which does not count.
    """
    exact = want.astype(np.float64)
    apart = np.abs(have.astype(np.float64) - exact) - rounded
    difference: NDArray[np.float64] = np.maximum(apart, 0.0) / (ATOL + RTOL * np.abs(exact))
    difference[~np.isfinite(difference)] = np.inf
    return difference


def rounding(tensor_BV: Float32, numbers: Numbers) -> NDArray[np.float64]:
    """By how much each number of a tensor may be off that was published in small ones; told by the copy itself."""
    magnitudes_BV: NDArray[np.float64] = np.abs(tensor_BV.astype(np.float64))
    largest_B1: NDArray[np.float64] = magnitudes_BV.max(axis=-1, keepdims=True, initial=0.0)
    if numbers == "int8":
        return np.broadcast_to(largest_B1 / 254, magnitudes_BV.shape)
    return np.maximum(magnitudes_BV * 2**-11, np.maximum(largest_B1 / 65504, 1.0) * 2**-25)


def memory_excess(
    layout: MemoryLayout, have_BF: Float32, want_BF: Float32, numbers: Numbers = "float32"
) -> dict[str, NDArray[np.float64]]:
    """The largest excess of each user in each tensor, by the tensor's name, [B]. `numbers`: what `have` was published in."""
    have, want = layout.split(have_BF), layout.split(want_BF)
    for tensors in (have, want):
        for name in layout.variant.summed:
            sums: Float32 = tensors[name]
            applied_B1: Float32 = np.maximum(tensors["applied"], np.float32(1.0))
            tensors[name] = sums / applied_B1.reshape(-1, *[1] * (sums.ndim - 1))
    worst = {}
    for spec in layout.tensors:
        ours, theirs = (tensors[spec.name].reshape(len(have_BF), spec.size) for tensors in (have, want))
        is_rounded = numbers != "float32" and spec.name in layout.shrinkable
        values = excess(ours, theirs, rounding(ours, numbers) if is_rounded else 0.0)
        worst[spec.name] = values.max(axis=1, initial=0.0)
    return worst
