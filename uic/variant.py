"""Which MIMN: the sizes and switches that decide what a memory holds and how one step changes it.

One code serves three presets (`official`, `paper`, `default`); every difference between them is a field here, so that a
bundle's manifest can record all of it. What concerns training alone (losses, padding, learning rate) is not here; what any
other model is made of is in uic/models.py.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, get_args, get_origin, get_type_hints

from uic.errors import BadInput

Mur = Literal["none", "shift", "transfer"]
UtilizationFeature = Literal["raw", "share"]
MiuMemory = Literal["before", "after"]
MiuReadout = Literal["state", "last_output"]
Pooling = Literal["sum", "mean"]


@dataclass(frozen=True)
class TensorSpec:
    """Name and shape of one tensor in a packed state, without the batch dimension."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class MemoryVariant(Protocol):
    """What any model with a memory of fixed size says of itself; a memory is laid out, stored and served from this alone.

    model     the model's name
    tensors   the tensors of a packed state, in order; `applied` (1,), the events applied, is always among them
    summed    those that are sums over all events: two runtimes are compared in their means (uic/tolerance.py)
    """

    model: ClassVar[str]

    @property
    def event_width(self) -> int: ...

    @property
    def tensors(self) -> tuple[TensorSpec, ...]: ...

    @property
    def summed(self) -> tuple[str, ...]: ...

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Sizes (letters as in uic/memory.py) and switches of one MIMN.

    Sizes
        event_width       width of an event: item and category embedding side by side, X = 2E
        controller_units  units of the controller GRU
        slots       memory slots; channels of the memory induction unit
        slot_width        width of a slot and of a channel
        output_width      width of the candidate read
    Switches
        mur           memory utilization regularisation of the write weight: `none`; `shift` = circular shift and sharpening
                      (the authors' code); `transfer` = w P with P = row-softmax(W_g u + b_g) (the paper's Eq. 5 and 6)
        utilization   what the head parameters see of g: `raw` = g / 400 (code), `share` = g / sum(g)
        key_memory    half of the similarity is taken with a learned key per slot, shared by all users (code, not paper)
        temperature   sharpen the addressing by beta = 2 (softplus + 1) (code, not paper)
        miu           memory induction unit (Eq. 9)
        top_channels    how many channels, those with the largest read weights, one event updates
        miu_memory    the slot that feeds a channel: `before` the write (code) or `after` it (paper)
        miu_readout   what the target attends to: every channel `state` (paper) or the `last_output` (code)
        pooling       event embeddings and add vectors reach the head as `sum` (code) or `mean`
        head_controller  the head sees h, the controller's state, as it is, beside what a candidate reads with it (neither paper
                      nor code)
        read_feedback  the controller sees what the event before has read, r (paper and code); without it the weights for r
                      are zero and stay so
    """

    model: ClassVar[str] = "mimn"

    preset: str = "custom"
    event_width: int = 32
    controller_units: int = 32
    slots: int = 8
    slot_width: int = 32
    output_width: int = 32
    mur: Mur = "shift"
    utilization: UtilizationFeature = "share"
    key_memory: bool = True
    temperature: bool = True
    miu: bool = True
    top_channels: int = 1
    miu_memory: MiuMemory = "before"
    miu_readout: MiuReadout = "state"
    pooling: Pooling = "mean"
    head_controller: bool = False
    read_feedback: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        if self.mur == "shift" and self.slots < 3:
            raise BadInput(f"model.slots: mur=shift mixes a slot with both neighbours and needs 3, got {self.slots}")
        if self.top_channels > self.slots:
            raise BadInput(f"model.top_channels: expected at most slots = {self.slots}, got {self.top_channels}")

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """The tensors in packed order (the paper's letters where it has them)."""
        specs = [
            TensorSpec("controller", (self.controller_units,)),  # h, the controller's state
            TensorSpec("read", (self.slot_width,)),  # r, the last read vector
            TensorSpec("slots", (self.slots, self.slot_width)),  # M, the memory slots
            TensorSpec("utilization", (self.slots,)),  # g, the accumulated write weight
            TensorSpec("add_pool", (self.slot_width,)),  # sum or mean of add vectors
            TensorSpec("event_pool", (self.event_width,)),  # sum or mean of event embeddings
            TensorSpec("applied", (1,)),  # n, events applied, as the step counts them
        ]
        if self.miu:
            specs.append(TensorSpec("channels", (self.slots, self.slot_width)))  # S, the channels of the induction unit
        if self.miu and self.miu_readout == "last_output":
            specs.append(TensorSpec("last_channels", (self.slots,)))  # 1 where the last event updated the channel
        return tuple(specs)

    @property
    def summed(self) -> tuple[str, ...]:
        return ("add_pool", "event_pool") if self.pooling == "sum" else ()

    def to_json(self) -> dict[str, Any]:
        """A switch that is younger than bundles and runs is told only where it is used: theirs stay the bytes they were."""
        return {name: value for name, value in dataclasses.asdict(self).items() if (name, value) not in _BEFORE}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Variant":
        unknown = set(content) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise BadInput(f"variant: unknown switches {', '.join(sorted(unknown))}; made by a newer release?")
        return cls(**content)


_BEFORE = (("head_controller", False), ("read_feedback", True))


def check_fields(variant: Any) -> None:
    """Raise BadInput for the first field of a variant (a dataclass) whose value is not of its type."""
    hints = get_type_hints(type(variant))
    for field in dataclasses.fields(variant):
        name, kind, value = field.name, hints[field.name], getattr(variant, field.name)
        if get_origin(kind) is Literal and value not in get_args(kind):
            raise BadInput(f"model.{name}: expected one of {', '.join(get_args(kind))}, got {value!r}")
        if kind is int and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65535):
            raise BadInput(f"model.{name}: expected a whole number from 1 to 65535, got {value!r}")
        if kind is bool and not isinstance(value, bool):
            raise BadInput(f"model.{name}: expected true or false, got {value!r}")


_OFFICIAL = {"mur": "shift", "utilization": "raw", "miu_readout": "last_output", "pooling": "sum"}
_PAPER = {"mur": "transfer", "utilization": "share", "key_memory": False, "temperature": False, "miu_memory": "after"}
PRESETS: dict[str, dict[str, Any]] = {"official": _OFFICIAL, "paper": {**_PAPER, "pooling": "sum"}, "default": {}}


def preset(name: str, **changes: Any) -> Variant:
    """The preset `official`, `paper` or `default`, with single fields changed.

    >>> preset("official").pooling, preset("default", slots=4).slots
    ('sum', 4)
    """
    if name not in PRESETS:
        raise BadInput(f"model.preset: expected one of {', '.join(PRESETS)}, got {name!r}")
    return Variant(preset=name, **{**PRESETS[name], **changes})
