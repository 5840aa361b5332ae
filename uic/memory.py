"""One user's memory: the tensors that a step needs and returns, and what is known beside them.

Letters of tensor shapes, here and everywhere
    B  users in a batch        T  events of a sequence     N  candidates of a request
    M  memory slots            D  width of a slot          H  controller units
    X  width of an event       O  width of the read-out    F  floats of a packed state
    K  fingerprints kept

All float tensors of a memory lie side by side in one packed vector `state_F`, in the order of `MemoryLayout.tensors`. That
list is the only one: the codec, the exported graph, the numpy oracle and the tests take names and shapes from it.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from uic.variant import MemoryVariant, TensorSpec

Float32 = NDArray[np.float32]
# What the tensors of a published copy are made of; a state is of float32 always.
Numbers = Literal["float32", "float16", "int8"]
# Counted or added up event by event, or flags: small numbers would stall, or say something else.
_EXACT = frozenset({"utilization", "applied", "last_channels"})


@dataclass(frozen=True)
class MemoryLayout:
    """The tensors of a variant, their places in `state_F`, and the id under which bytes of this layout are recognised.

    >>> from uic.variant import Variant
    >>> MemoryLayout(Variant(slots=4)).tensors[2]
    TensorSpec(name='slots', shape=(4, 32))
    """

    variant: MemoryVariant
    ring_size: int = 16

    @cached_property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """The tensors in packed order."""
        return self.variant.tensors

    @cached_property
    def size_F(self) -> int:
        return sum(spec.size for spec in self.tensors)

    @cached_property
    def layout_id(self) -> int:
        """64 bits of a hash over sizes and variant: memories of two layouts never pass for one another."""
        variant = {key: value for key, value in self.variant.to_json().items() if key != "preset"}
        text = json.dumps(
            {"variant": variant, "tensors": [[t.name, t.shape] for t in self.tensors], "ring_size": self.ring_size},
            sort_keys=True,
        )
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")

    @cached_property
    def shrinkable(self) -> frozenset[str]:
        """The tensors that may be of small numbers in a published copy: all but counts, utilization and sums.

        >>> from uic.variant import Variant
        >>> sorted(MemoryLayout(Variant(miu=False, pooling="sum")).shrinkable)
        ['controller', 'read', 'slots']
        """
        return frozenset(spec.name for spec in self.tensors) - _EXACT - set(self.variant.summed)

    @property
    def layout_name(self) -> str:
        """The layout id as people see it: 16 hexadecimal digits."""
        return f"{self.layout_id:016x}"

    def split(self, state_F: Float32) -> dict[str, Float32]:
        """The tensors of a packed state `[..., F]` by name, as views `[..., *shape]`."""
        views: dict[str, Float32] = {}
        start = 0
        for spec in self.tensors:
            views[spec.name] = state_F[..., start : start + spec.size].reshape(*state_F.shape[:-1], *spec.shape)
            start += spec.size
        return views

    def pack(self, tensors: dict[str, Float32]) -> Float32:
        """The inverse of `split`."""
        lead = tensors["applied"].shape[:-1]
        parts = [np.asarray(tensors[spec.name], dtype=np.float32).reshape(*lead, spec.size) for spec in self.tensors]
        return np.concatenate(parts, axis=-1)


@dataclass(frozen=True, kw_only=True, slots=True)
class UserMemory:
    """All that is remembered of one user; its size depends on the layout, never on the history.

    sequence        events applied to this memory: the version within a generation
    last_time_ms    the latest `time_ms` among them, None before the first
    log_time_ms     when the log took in the event applied last, None before the first
    generation      the store generation it was published under; information only, the store stamps its own
    bundle_version  the bundle whose step touched it last
    fingerprints    ring of the last K events, 16 bytes each (uic/update.py); event number s is at s % K
    numbers         float32 in a state; a copy that was published in smaller ones (uic/small.py) has no fingerprints
    """

    state_F: Float32
    fingerprints: bytes
    sequence: int = 0
    last_time_ms: int | None = None
    log_time_ms: int | None = None
    generation: int = 0
    bundle_version: int = 0
    numbers: Numbers = "float32"

    def comes_of(self, sequence: int, last_time_ms: int | None, log_time_ms: int | None, fingerprints: bytes) -> bool:
        """Whether the same events made it that made a state of these, as far as it tells."""
        told = self.fingerprints if self.numbers == "float32" else fingerprints
        return (self.sequence, self.last_time_ms, self.log_time_ms, told) == (
            sequence,
            last_time_ms,
            log_time_ms,
            fingerprints,
        )
