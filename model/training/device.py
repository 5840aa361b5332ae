"""Where training computes, and in how many bits.

In mixed precision the scores of a step are computed under torch.autocast: the products of head and attention take 16 bits.
What adds up over a history stays float32: memories are folded before, as the stream folds them, and GRUs that run over raw
events have float32 states by promotion. So stay softmax, losses, weights and their gradients. Evaluation, export and stream
compute in float32, whatever a model was trained in.
"""

import contextlib
from functools import cache
from typing import Literal, NamedTuple

import torch

from uic.errors import BadInput, EnvironmentProblem

Precision = Literal["auto", "float32", "bfloat16", "float16"]
_IN_16_BITS: dict[str, torch.dtype] = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Hardware(NamedTuple):
    """What a machine has for training: a GPU, and whether that computes in bfloat16."""

    cuda: bool
    bfloat16: bool


@cache
def hardware() -> Hardware:
    """What torch finds on this machine."""
    cuda = torch.cuda.is_available()
    return Hardware(cuda, cuda and torch.cuda.is_bf16_supported(including_emulation=False))


def resolved(device: str, precision: Precision, found: Hardware) -> tuple[str, Precision]:
    """What is meant on such a machine; raises EnvironmentProblem for CUDA where there is none.

    >>> resolved("auto", "auto", Hardware(cuda=False, bfloat16=False))
    ('cpu', 'float32')
    >>> resolved("auto", "auto", Hardware(cuda=True, bfloat16=True))
    ('cuda', 'bfloat16')
    >>> resolved("cuda:1", "auto", Hardware(cuda=True, bfloat16=False))
    ('cuda:1', 'float16')
    >>> resolved("cpu", "bfloat16", Hardware(cuda=True, bfloat16=True))
    ('cpu', 'bfloat16')
    """
    if device == "auto":
        device = "cuda" if found.cuda else "cpu"
    on_cuda = torch.device(device).type == "cuda"
    if on_cuda and not found.cuda:
        raise EnvironmentProblem(
            f"train.device: asked for {device}, but PyTorch {torch.__version__} finds no GPU here; `auto` takes what there is"
        )
    if precision == "auto":
        precision = "float32" if not on_cuda else "bfloat16" if found.bfloat16 else "float16"
    return device, precision


def check_device(name: str) -> None:
    """Raise BadInput for what is no device."""
    try:
        torch.device("cpu" if name == "auto" else name)
    except RuntimeError:
        raise BadInput(f"train.device: expected auto, cpu, cuda or one such as cuda:1, got {name!r}") from None


def autocast(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """What scores are computed under."""
    dtype = _IN_16_BITS.get(precision)
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def loss_scaler(precision: Precision, device: str) -> torch.amp.GradScaler:
    """Lifts losses, so that small gradients are not 0 in float16; elsewhere it does nothing."""
    # The losses of a step are summed, not averaged: from torch's 65,536 on, the first steps would all overflow and be lost.
    return torch.amp.GradScaler(torch.device(device).type, init_scale=256.0, enabled=precision == "float16")
