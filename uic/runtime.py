"""ONNX Runtime over a bundle's two graphs: the step that the stream takes and the score that serving gives.

This and uic/store are the only places of uic/ that need more than numpy.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from uic.bundle import Bundle
from uic.errors import BundleError
from uic.memory import Float32

Int64 = NDArray[np.int64]


class OnnxStep:
    """`step.onnx` as a StepFunction."""

    def __init__(self, bundle: Bundle) -> None:
        self._session = _session(bundle.path / "step.onnx")
        self._inputs = bundle.manifest.graphs["step.onnx"]["inputs"]
        self._outputs = bundle.manifest.graphs["step.onnx"]["outputs"]

    def __call__(self, state_BF: Float32, item_rows_B: Int64, category_rows_B: Int64) -> Float32:
        state, item, category = self._inputs
        result: Float32 = self._session.run(self._outputs, {state: state_BF, item: item_rows_B, category: category_rows_B})[0]
        return result


class OnnxScore:
    """`score.onnx`: probabilities of candidates from memories."""

    def __init__(self, bundle: Bundle) -> None:
        self._session = _session(bundle.path / "score.onnx")
        self._inputs = bundle.manifest.graphs["score.onnx"]["inputs"]
        self._outputs = bundle.manifest.graphs["score.onnx"]["outputs"]

    def __call__(
        self,
        state_BF: Float32,
        item_rows_BN: Int64,
        category_rows_BN: Int64,
        mask_BN: NDArray[np.bool_] | None = None,
        features_BNC: Float32 | None = None,
    ) -> Float32:
        """P(click), [B, N]; 0 where the mask is False. `features_BNC` where the bundle lists head features."""
        mask = np.ones(item_rows_BN.shape, dtype=np.bool_) if mask_BN is None else mask_BN
        feed = dict(zip(self._inputs, (state_BF, item_rows_BN, category_rows_BN, mask, features_BNC), strict=False))
        result: Float32 = self._session.run(self._outputs, feed)[0]
        return result


def _session(graph: Path) -> Any:  # onnxruntime ships no types
    options = onnxruntime.SessionOptions()
    # The graphs are small: a pool of threads costs more than it brings, and a spinning one takes cores from the rest.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    available = onnxruntime.get_available_providers()
    providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
    try:
        return onnxruntime.InferenceSession(str(graph), options, providers=providers)
    except Exception as error:  # onnxruntime raises its own family of exceptions, one a cause
        raise BundleError(f"{graph}: ONNX Runtime cannot load it: {error}") from error
