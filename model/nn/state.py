"""The state of any memory: a NamedTuple of batched tensors whose names and order are those of `MemoryLayout.tensors`."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from uic.memory import MemoryLayout

S = TypeVar("S", bound=tuple[Any, ...])


def pack(state: tuple[Tensor | None, ...]) -> Tensor:
    """All tensors side by side, [B, F]."""
    return torch.cat([tensor.flatten(1) for tensor in state if tensor is not None], dim=-1)


def unpack(kind: Callable[..., S], state_BF: Tensor, layout: MemoryLayout) -> S:
    """The inverse of `pack`, for any leading dimensions; `kind` is the NamedTuple."""
    parts = torch.split(state_BF, [spec.size for spec in layout.tensors], dim=-1)
    return kind(
        **{
            spec.name: torch.unflatten(part, -1, spec.shape) if len(spec.shape) > 1 else part
            for spec, part in zip(layout.tensors, parts, strict=True)
        }
    )


def made(like: S, tensors: Sequence[Tensor | None]) -> S:
    """A state of the same kind out of other tensors."""
    return like._make(tensors)  # type: ignore[attr-defined,no-any-return]  # every state is a NamedTuple


def mapped(state: S, function: Callable[[Tensor], Tensor]) -> S:
    """The same function on every tensor that is there."""
    return made(state, [None if tensor is None else function(tensor) for tensor in state])


def first(state: S, users: int) -> S:
    """The state of the first so many users."""
    return mapped(state, lambda tensor: tensor[:users])


def pool(pooled: Tensor, new: Tensor, applied_B1: Tensor, kind: str) -> Tensor:
    """The sum or the mean of all vectors so far; the mean moves by (new - mean) / n, so no rounding piles up."""
    return pooled + new if kind == "sum" else pooled + (new - pooled) / applied_B1
