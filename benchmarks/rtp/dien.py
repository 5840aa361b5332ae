"""DIEN's two graphs (benchmarks/rtp/dien_graphs.py) in ONNX Runtime: without torch, for the server."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from uic.memory import Float32

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
HISTORY, CANDIDATES = "history.onnx", "candidates.onnx"


class OnnxDien:
    """Both graphs in ONNX Runtime, with the settings of uic/runtime.py: one thread."""

    def __init__(self, folder: Path) -> None:
        self._history, self._candidates = (_session(folder / name) for name in (HISTORY, CANDIDATES))

    def __call__(self, item_T: Int32, category_T: Int32, item_N: Int64, category_N: Int64) -> Float32:
        """P(click) of N candidates after a history of T events."""
        interests, gates, fresh, pooled = self._history.run(None, {"item": item_T, "category": category_T})
        of_history = {"interests": interests, "gates": gates, "fresh": fresh, "pooled": pooled}
        result: Float32 = self._candidates.run(None, {**of_history, "item": item_N, "category": category_N})[0]
        return result


def _session(graph: Path) -> Any:  # onnxruntime ships no types
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
