"""MIMN's score with little work left for each candidate: the same function as `MimnCtr.score`, rearranged for serving.

What does not depend on the candidate is done once a memory, on matrices that are small beside [N, ...]:

* The frozen affine in front of the MLP goes into the MLP's first layer.
* The MLP's first layer sees [q, s, o, a, p * q]: s W_s is a bias of the memory's, and p * q W_p = q (diag(p) W_p). Where the
  head sees h too, it stands beside s.
* Target attention sees [q, f, q - f, q * f] for each channel f: a layer over q with weights of that channel, so all channels
  are one product, and nothing of the size [N, M, X] is made.
* What is read with weights w over rows R and then multiplied by W is w (R W). Weights sum to 1, so a bias is added to R W.
* Other biases of the memory's are weights of one more column of q, which is 1: the mask, for candidates that count.
* Of the two logits only the difference is wanted; of the heads only the key and strength with which a candidate reads.

ONNX Runtime takes a few microseconds for each node, so there are few. `uic export` and the tests hold this to the model.
Letters beside those of uic/memory.py: Q = X + 1, a candidate and its column of the mask; J, units of the MLP's first layer.
"""

import math
from copy import deepcopy

import torch
from torch import Tensor, nn

from model.nn.ctr import MimnCtr
from model.nn.head import TargetAttention
from model.nn.mimn import CLIP, MimnState

_EPSILON = 1e-8


class FoldedScore(nn.Module):
    """[B, F] memories, [B, N] candidate rows, mask, head features -> [B, N] probabilities; 0 where the mask is False."""

    @torch.no_grad()
    def __init__(self, model: MimnCtr) -> None:
        super().__init__()
        self.model = model
        self.read = _Read(model)
        self.attention = _Attention(model.head.attention) if model.variant.miu else None
        v, mlp = model.variant, model.head.mlp
        dtype, x, inputs = mlp.first.weight.dtype, v.event_width, mlp.first.in_features
        affine, weight = deepcopy(mlp.affine).double(), mlp.first.weight.double()
        shift = affine(torch.zeros(inputs, dtype=torch.double))
        scale = affine(torch.ones(inputs, dtype=torch.double)) - shift
        self.first, self.second = _Leaky(mlp.first_slope), _Leaky(mlp.second_slope)
        widths = [x, x, v.output_width, *([x] if v.miu else []), x, v.controller_units if v.head_controller else 0]
        parts = torch.split((self.first.sign * (weight * scale).T).to(dtype), [*widths, inputs - sum(widths)])
        self.of_query, of_pool, self.of_output, *self.of_channels, self.of_product, of_state, self.of_features = parts
        self.of_pool = torch.cat([of_pool, of_state])
        self.bias = (self.first.sign * (mlp.first.bias.double() + weight @ shift)).to(dtype)
        self.to_second = (self.first.sign.unsqueeze(1) * mlp.second.weight.T * self.second.sign).contiguous()
        self.second_bias = self.second.sign * mlp.second.bias
        self.to_logit = (self.second.sign * (mlp.third.weight[0] - mlp.third.weight[1])).unsqueeze(1)
        self.logit_bias = mlp.third.bias[0:1] - mlp.third.bias[1:2]

    def forward(self, state: Tensor, item: Tensor, category: Tensor, mask: Tensor, features: Tensor | None = None) -> Tensor:
        v, batch = self.model.variant, state.shape[0]
        memory, tables, counts_BN = self.model.unpack(state), self.model.embedding, mask.to(state.dtype)
        q_BNQ = torch.cat([tables.items(item), tables.categories(category), counts_BN.unsqueeze(-1)], -1)
        pool_BX = torch.cat([memory.event_pool, memory.controller], -1) if v.head_controller else memory.event_pool
        added_BX1 = (memory.add_pool / v.slots if v.pooling == "sum" else memory.add_pool).unsqueeze(-1)
        inputs = [q_BNQ, self.read(memory, q_BNQ)]
        weights = [
            self.of_query + added_BX1 * self.of_product,
            torch.addmm(self.bias, pool_BX, self.of_pool).unsqueeze(1),
            self.of_output.expand(batch, -1, -1),
        ]
        if self.attention is not None:
            channels_BMX = memory.channels
            assert channels_BMX is not None
            if memory.last_channels is not None:
                channels_BMX = channels_BMX * memory.last_channels.unsqueeze(-1)
            inputs.append(self.attention(q_BNQ, channels_BMX))
            weights.append(channels_BMX @ self.of_channels[0])
        if features is not None:
            inputs.append(features)
            weights.append(self.of_features.expand(batch, -1, -1))
        hidden = self.first(torch.cat(inputs, -1) @ torch.cat(weights, 1))
        hidden = self.second(hidden @ self.to_second + self.second_bias)
        return torch.sigmoid(hidden @ self.to_logit + self.logit_bias).squeeze(-1) * counts_BN


class _Read(nn.Module):
    """o, what a candidate reads, [B, N, O]: one step of the controller on it, and a read of the slots."""

    def __init__(self, model: MimnCtr) -> None:
        super().__init__()
        step, v = model.step, model.variant
        units, width, x = v.controller_units, v.slot_width, v.event_width
        self.step, self.units, self.width = step, units, width
        # What q, state and last read add to [reset, update, candidate] in front of the nonlinearities.
        cell, heads = step.controller, step.to_heads
        of_query, of_read, of_state = torch.split(torch.cat([cell.gates.weight, cell.candidate.weight]).T, [x, width, units])
        self.of_query = torch.cat([of_query, of_query.new_zeros(1, 3 * units)])
        self.of_reset = of_state[:, 2 * units :].contiguous()
        of_state = torch.cat([of_state[:, : 2 * units], torch.zeros_like(self.of_reset)], 1)
        self.of_memory = torch.cat([of_state, of_read])
        self.bias = torch.cat([cell.gates.bias, cell.candidate.bias])

        seen = width + 1 if v.temperature else width
        to_heads, of_use = torch.split(heads.weight[:seen].T, [units, heads.in_features - units])
        self.to_heads, self.of_use, self.heads_bias = to_heads.contiguous(), of_use.contiguous(), heads.bias[:seen].clone()
        if v.temperature:
            self.heads_bias[width] += 1.0
        self.to_output, self.of_slots = (part.contiguous() for part in torch.split(step.to_output.weight.T, [units, width]))

    def forward(self, memory: MimnState, q_BNQ: Tensor) -> Tensor:
        step, v, units, width, batch = self.step, self.step.variant, self.units, self.width, q_BNQ.shape[0]
        h_B1H = memory.controller.unsqueeze(1)
        of_memory_BG = torch.addmm(self.bias, torch.cat([memory.controller, memory.read], -1), self.of_memory)
        gates_BNG, candidate_BNH = torch.split(q_BNQ @ self.of_query + of_memory_BG.unsqueeze(1), [2 * units, units], dim=-1)
        reset_BNH, update_BNH = torch.split(torch.sigmoid(gates_BNG), [units, units], dim=-1)
        candidate_BNH = torch.tanh(candidate_BNH + (reset_BNH * h_B1H) @ self.of_reset)
        h_BNH = candidate_BNH + update_BNH * (h_B1H - candidate_BNH)

        heads_BNP = h_BNH @ self.to_heads + self._of_utilization(memory.utilization)
        # A clip between head and tanh would change nothing: tanh is 1 long before.
        keys_BND = torch.tanh(heads_BNP[..., :width] if v.temperature else heads_BNP)
        rows_BRD = memory.slots
        if v.key_memory:
            rows_BRD = torch.cat([rows_BRD, torch.tanh(step.key_memory).expand(batch, -1, -1)], 1)
        norms_BNR = keys_BND.norm(dim=-1, keepdim=True) * rows_BRD.norm(dim=-1).unsqueeze(1)
        similarity, factor = keys_BND @ rows_BRD.mT / (norms_BNR + _EPSILON), 1.0
        if v.key_memory:
            own, shared = torch.split(similarity, [v.slots, v.slots], dim=-1)
            similarity, factor = own + shared, 0.5
        if v.temperature:
            # softplus + 1 = log(e + exp(x + 1)); the head's bias has that 1, and the clip moves along.
            strength_BN1 = torch.log(torch.exp(heads_BNP[..., width:].clamp(1.0 - CLIP, 1.0 + CLIP)) + math.e)
            similarity, factor = similarity * strength_BN1, 2.0 * factor
        weights_BNM = torch.softmax(similarity if factor == 1.0 else factor * similarity, dim=-1)

        weights = [self.to_output.expand(batch, -1, -1), memory.slots @ self.of_slots + step.to_output.bias]
        return (torch.cat([h_BNH, weights_BNM], -1) @ torch.cat(weights, 1)).clamp(-CLIP, CLIP)

    def _of_utilization(self, utilization_BM: Tensor) -> Tensor:
        if not self.step.sees_utilization:
            return self.heads_bias
        use_BM = self.step._utilization_feature(utilization_BM)
        return torch.addmm(self.heads_bias, use_BM, self.of_use).unsqueeze(1)


class _Attention(nn.Module):
    """The weights with which each candidate sees the channels, [B, N, M]."""

    def __init__(self, attention: TargetAttention) -> None:
        super().__init__()
        of_query, of_fact, difference, product = attention.first.weight.chunk(4, dim=1)
        self.of_query, self.of_fact, self.of_product = (of_query + difference).T, (of_fact - difference).T, product.T
        self.bias, self.second_bias = attention.first.bias, attention.second.bias
        self.to_second, self.to_score = attention.second.weight.T, attention.third.weight.T

    def forward(self, q_BNQ: Tensor, channels_BMX: Tensor) -> Tensor:
        # [B, X, M, 80]: what each channel makes of a candidate
        by_query = self.of_query.unsqueeze(1) + channels_BMX.mT.unsqueeze(-1) * self.of_product.unsqueeze(1)
        bias = (channels_BMX @ self.of_fact + self.bias).flatten(1, 2).unsqueeze(1)
        hidden = torch.sigmoid(q_BNQ @ torch.cat([by_query.flatten(2, 3), bias], 1))
        hidden = torch.unflatten(hidden, -1, (channels_BMX.shape[1], -1))
        hidden = torch.sigmoid(hidden @ self.to_second + self.second_bias)
        # The last bias is the same for all channels: the softmax takes it out.
        return torch.softmax((hidden @ self.to_score).squeeze(-1), dim=-1)


class _Leaky:
    """PReLU in two quick nodes: of slopes a <= 1 it is max(x, a x), of others min(x, a x) = -max(-x, a (-x)).

    So units with a slope above 1 are computed with the other sign: the layer before and the one after are multiplied by `sign`.
    """

    def __init__(self, module: nn.PReLU) -> None:
        self.slope = module.weight.detach().clone()
        self.sign = torch.where(self.slope > 1.0, -1.0, 1.0).to(self.slope.dtype)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.maximum(x, self.slope * x)
