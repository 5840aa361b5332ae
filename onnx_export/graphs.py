"""The two halves of a model as ONNX graphs: the step for the stream, the score for serving.

Both read their embeddings from one file beside them, `embeddings.bin`: raw float32, the item table, then the category table.
"""

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxscript.optimizer
import torch
from onnx import TensorProto
from torch import Tensor, nn

from model.nn.ctr import MemoryCtr, MimnCtr, probability
from model.nn.state import pack
from onnx_export.folded import FoldedScore

EMBEDDINGS = "embeddings.bin"
STEP_INPUTS = ["state", "item", "category"]
STEP_OUTPUTS = ["next_state"]
SCORE_INPUTS = ["state", "item", "category", "mask"]
SCORE_OUTPUTS = ["probability"]
_OPSET = 20


class StepGraph(nn.Module):
    """[B, F] states, [B] item and category rows -> [B, F] states."""

    def __init__(self, model: MemoryCtr[Any]) -> None:
        super().__init__()
        self.model = model

    def forward(self, state: Tensor, item: Tensor, category: Tensor) -> Tensor:
        return pack(self.model.step(self.model.unpack(state), self.model.embedding(item, category)))


class ScoreGraph(nn.Module):
    """[B, F] memories, [B, N] candidate rows, mask, head features -> [B, N] probabilities; 0 where the mask is False."""

    def __init__(self, model: MemoryCtr[Any]) -> None:
        super().__init__()
        self.model = model

    def forward(self, state: Tensor, item: Tensor, category: Tensor, mask: Tensor, features: Tensor | None = None) -> Tensor:
        return probability(self.model.logits(state, item, category, features)) * mask


def write_graphs(model: MemoryCtr[Any], features: int, directory: Path) -> dict[str, dict[str, list[str]]]:
    """Write step.onnx, score.onnx and embeddings.bin; returns the names of the graphs' inputs and outputs."""
    model = model.eval().cpu()
    batch, candidates = torch.export.Dim("batch"), torch.export.Dim("candidates")
    # Every argument is a tensor of its own: one given twice would be exported as one input.
    item, category = torch.ones(2, dtype=torch.long), torch.ones(2, dtype=torch.long)
    state = pack(model.initial_state(2)).detach()
    step = _export(
        StepGraph(model), (state, item, category), STEP_INPUTS, STEP_OUTPUTS,
        {"state": {0: batch}, "item": {0: batch}, "category": {0: batch}},
    )  # fmt: skip

    candidates_BN = torch.ones(2, 3, dtype=torch.long)
    arguments: tuple[Tensor, ...] = (state, candidates_BN, candidates_BN.clone(), torch.ones(2, 3, dtype=torch.bool))
    both = {0: batch, 1: candidates}
    shapes: dict[str, Any] = {"state": {0: batch}, "item": both, "category": both, "mask": both}
    names = list(SCORE_INPUTS)
    if features:
        arguments = (*arguments, torch.zeros(2, 3, features))
        names.append("features")
        shapes["features"] = both
    scored = FoldedScore(model).eval() if isinstance(model, MimnCtr) else ScoreGraph(model)
    score = _export(scored, arguments, names, SCORE_OUTPUTS, shapes)

    places = _write_embeddings(model, directory / EMBEDDINGS)
    for name, graph in (("step.onnx", step), ("score.onnx", score)):
        _share_embeddings(graph, places)
        onnx.save(graph, str(directory / name))
        onnx.checker.check_model(str(directory / name))
    return {
        "step.onnx": {"inputs": STEP_INPUTS, "outputs": STEP_OUTPUTS},
        "score.onnx": {"inputs": names, "outputs": SCORE_OUTPUTS},
    }


def _export(
    module: nn.Module, arguments: tuple[Tensor, ...], inputs: list[str], outputs: list[str], shapes: dict[str, Any]
) -> onnx.ModelProto:
    # The exporter tells its own steps at length; what matters is whether the graph agrees, and parity tells that.
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module, arguments, input_names=inputs, output_names=outputs, dynamic_shapes=shapes,
                opset_version=_OPSET, dynamo=True, optimize=False, verbose=False,
            )  # fmt: skip
            assert program is not None
            # Constants are folded, but no rules are applied: one of them takes x + 1e-8 for x, and the cosine needs it.
            onnxscript.optimizer.fold_constants(program.model)
            onnxscript.optimizer.remove_unused_nodes(program.model)
    finally:
        quiet.setLevel(level)
    return program.model_proto


def _write_embeddings(model: MemoryCtr[Any], path: Path) -> dict[str, tuple[int, int]]:
    """Write both tables; returns (offset, length) in bytes of each parameter by its name's end."""
    places: dict[str, tuple[int, int]] = {}
    with path.open("wb") as file:
        for name, table in (("items", model.embedding.items), ("categories", model.embedding.categories)):
            data = table.weight.detach().numpy().astype("<f4").tobytes()
            places[f"embedding.{name}.weight"] = (file.tell(), len(data))
            file.write(data)
    return places


def _share_embeddings(graph: onnx.ModelProto, places: dict[str, tuple[int, int]]) -> None:
    found = set()
    for tensor in graph.graph.initializer:
        for name, (offset, length) in places.items():
            if tensor.name.endswith(name):
                assert tensor.data_type == TensorProto.FLOAT
                assert 4 * int(np.prod(tensor.dims)) == length
                tensor.ClearField("raw_data")
                tensor.ClearField("float_data")
                tensor.data_location = TensorProto.EXTERNAL
                del tensor.external_data[:]
                for key, value in (("location", EMBEDDINGS), ("offset", offset), ("length", length)):
                    tensor.external_data.add(key=key, value=str(value))
                found.add(name)
    assert found == set(places), f"embedding tables not found in the graph: {set(places) - found}"
