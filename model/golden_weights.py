"""Weights of golden files in our parameters, and our gradients under the authors' names (model/golden.py)."""

import re
from collections.abc import Callable

import torch
from torch import Tensor

from model.nn.auxiliary import AuxiliaryNet
from model.nn.gru import GruCell
from model.nn.head import FrozenAffine, Mlp, TargetAttention
from model.nn.mimn import MimnStep
from model.nn.rum import RumStep

Arrays = dict[str, Tensor]


class Weights:
    """Puts the authors' variables into our parameters and takes our gradients back out under their names."""

    def __init__(self, golden: Arrays) -> None:
        self._golden = golden
        self._gradients: list[tuple[str, Callable[[], Tensor]]] = []

    def put(self, variable: str, parameter: Tensor, *, transpose: bool = False) -> None:
        value = self._golden[f"W/{variable}"]
        with torch.no_grad():
            parameter.copy_((value.T if transpose else value).reshape(parameter.shape))

        def gradient() -> Tensor:
            grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            return (grad.T if transpose else grad).reshape(value.shape)

        self._gradients.append((variable, gradient))

    def dense(self, scope: str, layer: torch.nn.Linear, kernel: str = "kernel", bias: str = "bias") -> None:
        self.put(f"{scope}/{kernel}", layer.weight, transpose=True)
        self.put(f"{scope}/{bias}", layer.bias)

    def scope(self, pattern: str, variable: str = "kernel") -> str:
        """The scope that TensorFlow gave to a layer: what matches the pattern in front of its variable."""
        for key in self._golden:
            if match := re.fullmatch(f"W/({pattern})/{variable}", key):
                return match[1]
        raise KeyError(f"W/{pattern}/{variable}")

    def gru(self, scope: str, cell: GruCell) -> None:
        self.dense(f"{scope}/gates", cell.gates)
        self.dense(f"{scope}/candidate", cell.candidate)

    def step(self, step: MimnStep) -> None:
        self.gru("controller/gru_cell", step.controller)
        self.dense("o2p/fully_connected", step.to_heads, "weights", "biases")
        self.dense("o2o/fully_connected", step.to_output, "weights", "biases")
        self.put("init/fully_connected/weights", step.initial_read)
        self.put("init/init_M", step.initial_slots)
        self.put("init/key_M", step.key_memory)
        if step.variant.miu:
            self.gru("gru_cell", step.channel)

    def rum(self, step: RumStep) -> None:
        self.gru("controller/gru_cell", step.controller)
        self.dense("o2p/fully_connected", step.to_heads, "weights", "biases")
        self.put("init/fully_connected/weights", step.initial_read)
        self.put("init/init_M", step.initial_slots)

    def affine(self, scope: str, affine: FrozenAffine) -> None:
        self.put(f"{scope}/gamma", affine.gamma)
        self.put(f"{scope}/beta", affine.beta)

    def mlp(self, mlp: Mlp) -> None:
        self.affine("bn1", mlp.affine)
        for place, layer in (("f1", mlp.first), ("f2", mlp.second), ("f3", mlp.third)):
            self.dense(place, layer)
        self.put("prelu_1/prelu_prelu_1", mlp.first_slope.weight)
        self.put("prelu_2/prelu_prelu_2", mlp.second_slope.weight)

    def attention(self, attention: TargetAttention, tag: str = "_attnull") -> None:
        for place, layer in (("f1", attention.first), ("f2", attention.second), ("f3", attention.third)):
            self.dense(f"{place}{tag}", layer)

    def auxiliary(self, net: AuxiliaryNet) -> None:
        tag = "bigru_0"
        self.affine(f"bn1{tag}", net.affine)
        for place, layer in (("f1", net.first), ("f2", net.second), ("f3", net.third)):
            self.dense(f"{place}{tag}", layer)

    def gradients(self) -> Arrays:
        return {f"grad/{name}": gradient() for name, gradient in self._gradients}
