"""A device that is nowhere: its tensors say `lazy`, have their numbers in memory, and meet no tensor of the CPU.

CUDA refuses an operation over two devices; where there is no GPU, `Elsewhere` does. Real numbers flow, so all of training runs.
Numbers of no dimension may come from the CPU, as with CUDA. Not shown: that CUDA has every kernel, and how fast it is.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

DEVICE = "lazy"  # one that autograd serves without a backend, and of whose tensors torch keeps the numbers
_MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class TwoDevices(Exception):
    """An operation met tensors of the CPU and of the other device."""


class There(Tensor):
    """A tensor of the other device; `held` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "There":
        made: There = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]  # torch's own way, of which its stubs are silent
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device=DEVICE
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # torch's signature
        return _computed(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.held.tolist()


class Elsewhere(TorchDispatchMode):
    """While it is entered, there is the other device."""

    def __enter__(self) -> "Elsewhere":
        # torch.tensor(..., device=...) is else made where no mode looks; fake tensors ask for the same.
        torch._C._set_only_lift_cpu_tensors(True)
        return super().__enter__()  # type: ignore[no-any-return]  # torch: untyped

    def __exit__(self, *raised: Any) -> None:
        torch._C._set_only_lift_cpu_tensors(False)
        super().__exit__(*raised)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # It would take the seconds of importing the compiler, of which nothing is used.
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # torch's signature
        return _computed(func, args, kwargs or {})


def _computed(func: Any, args: Any, kwargs: Any) -> Any:
    given, form = tree_flatten((args, kwargs))
    there = [each for each in given if isinstance(each, There)]
    here = [each for each in given if isinstance(each, Tensor) and not isinstance(each, There) and each.dim()]
    if there and here and func not in _MOVES:
        raise TwoDevices(f"{func}: {len(there)} tensors of the device and {len(here)} of the CPU")
    device = kwargs.get("device")
    is_there = bool(there) if device is None else torch.device(device).type == DEVICE
    plain, plain_kwargs = tree_unflatten([each.held if isinstance(each, There) else each for each in given], form)
    if device is not None:
        plain_kwargs = {**plain_kwargs, "device": torch.device("cpu")}
    out = func(*plain, **plain_kwargs)
    # An operation in place answers with the tensor that it was given.
    same = {id(each.held): each for each in there}
    return tree_map_only(Tensor, lambda made: _wrapped(made, same) if is_there else made, out)


def _wrapped(made: Tensor, same: dict[int, There]) -> Tensor:
    return same[id(made)] if id(made) in same else There(made)
