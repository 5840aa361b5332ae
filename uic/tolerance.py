"""When two runtimes have made the same memory: the project's one tolerance for recurrent float32.

    |a - b| <= ATOL + RTOL * |b|            with both 1e-5, over 1,000 events

Sums over all events (`summed` of a variant) are compared as means: each step adds its own rounding, so a sum's error grows with
the number of events while its value may cancel out. Where the best channels' read weights differ by less than TIE_MARGIN, two
runtimes may rightly choose differently; users who met such a tie are counted apart.
"""

import numpy as np
from numpy.typing import NDArray

from uic.memory import Float32, MemoryLayout

RTOL = ATOL = 1e-5
TIE_MARGIN = 1e-6


def excess(have: Float32, want: Float32) -> NDArray[np.float64]:
    """|a - b| in units of the tolerance, elementwise; at most 1 is equal, infinite where a value is not finite."""
    exact = want.astype(np.float64)
    difference: NDArray[np.float64] = np.abs(have.astype(np.float64) - exact) / (ATOL + RTOL * np.abs(exact))
    difference[~np.isfinite(difference)] = np.inf
    return difference


def memory_excess(layout: MemoryLayout, have_BF: Float32, want_BF: Float32) -> dict[str, NDArray[np.float64]]:
    """The largest excess of each user in each tensor, by the tensor's name, [B]."""
    have, want = layout.split(have_BF), layout.split(want_BF)
    for tensors in (have, want):
        for name in layout.variant.summed:
            sums: Float32 = tensors[name]
            applied_B1: Float32 = np.maximum(tensors["applied"], np.float32(1.0))
            tensors[name] = sums / applied_B1.reshape(-1, *[1] * (sums.ndim - 1))
    worst = {}
    for spec in layout.tensors:
        values = excess(have[spec.name], want[spec.name]).reshape(len(have_BF), spec.size)
        worst[spec.name] = values.max(axis=1, initial=0.0)
    return worst
