"""The models by name: what settings, plans and manifests call them, and the sizes and switches of each.

    memories     mimn, mlp, gru4rec, rum, sdim, delta    one vector of fixed size is all they keep of a history: each event
                                                         updates it, so they are exported, streamed and served
    histories    din, arnn, dien                         they look at raw events again for every candidate: trained and
                                                         compared only

MIMN itself is in uic/variant.py. `memory_from_json` is what a manifest is read with; it refuses what keeps no memory.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from uic.errors import BadInput
from uic.variant import MemoryVariant, Pooling, TensorSpec, Variant, check_fields, preset


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What all compared models have: the width of an event, and how event embeddings are pooled: as `sum` or `mean`."""

    model: ClassVar[str]

    preset: str = "custom"
    event_width: int = 32
    pooling: Pooling = "mean"

    def __post_init__(self) -> None:
        check_fields(self)

    def to_json(self) -> dict[str, Any]:
        return {"model": self.model, **dataclasses.asdict(self)}


@dataclass(frozen=True, kw_only=True)
class Memory(Compared):
    """A compared model whose memory has a fixed size: the pooled events, and what a subclass adds in front of them."""

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        return (*self.own_tensors, TensorSpec("event_pool", (self.event_width,)), TensorSpec("applied", (1,)))

    @property
    def own_tensors(self) -> tuple[TensorSpec, ...]:
        return ()

    @property
    def summed(self) -> tuple[str, ...]:
        return ("event_pool",) if self.pooling == "sum" else ()


@dataclass(frozen=True, kw_only=True)
class Mlp(Memory):
    """Embedding&MLP: the pooled events alone.

    product     the head sees candidate * pooled events too (the authors' PNN)
    """

    model: ClassVar[str] = "mlp"

    product: bool = False


@dataclass(frozen=True, kw_only=True)
class Gru4Rec(Memory):
    """GRU4REC: the state of a GRU with this many units."""

    model: ClassVar[str] = "gru4rec"

    units: int = 32

    @property
    def own_tensors(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("hidden", (self.units,)),)


@dataclass(frozen=True, kw_only=True)
class Rum(Memory):
    """RUM: slots read and written by content alone. Sizes as in Variant; a slot is as wide as an event, which attends to it."""

    model: ClassVar[str] = "rum"

    controller_units: int = 32
    slots: int = 8

    @property
    def own_tensors(self) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec("controller", (self.controller_units,)),
            TensorSpec("read", (self.event_width,)),
            TensorSpec("slots", (self.slots, self.event_width)),
        )


@dataclass(frozen=True, kw_only=True)
class Sdim(Memory):
    """SDIM: for each of `hashes` signatures of `bits` bits, the sum of the events that have it."""

    model: ClassVar[str] = "sdim"

    hashes: int = 4
    bits: int = 3

    def __post_init__(self) -> None:
        check_fields(self)
        if self.bits > 12:
            raise BadInput(f"model.bits: each bit doubles a memory; expected at most 12, got {self.bits}")

    @property
    def own_tensors(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("buckets", (self.hashes * 2**self.bits, self.event_width)),)

    @property
    def summed(self) -> tuple[str, ...]:
        return ("buckets", *super().summed)


@dataclass(frozen=True, kw_only=True)
class Delta(Memory):
    """Gated linear attention by the delta rule: `heads` matrices from keys to values."""

    model: ClassVar[str] = "delta"

    heads: int = 2
    key_width: int = 16
    value_width: int = 16

    @property
    def own_tensors(self) -> tuple[TensorSpec, ...]:
        return (TensorSpec("associations", (self.heads * self.key_width, self.value_width)),)


@dataclass(frozen=True, kw_only=True)
class History(Compared):
    """A compared model that looks at the last `length` raw events for every candidate."""

    length: int = 100


@dataclass(frozen=True, kw_only=True)
class Din(History):
    """DIN: the candidate attends to the events."""

    model: ClassVar[str] = "din"


@dataclass(frozen=True, kw_only=True)
class Arnn(History):
    """ARNN: the candidate attends to the states of a GRU over the events."""

    model: ClassVar[str] = "arnn"

    units: int = 32


@dataclass(frozen=True, kw_only=True)
class Dien(History):
    """DIEN: a GRU over the events, and a second one whose update gate the candidate's attention scales."""

    model: ClassVar[str] = "dien"

    units: int = 32


AnyVariant = Variant | Memory | History
COMPARED: dict[str, type[Memory] | type[History]] = {
    kind.model: kind for kind in (Mlp, Din, Gru4Rec, Arnn, Rum, Dien, Sdim, Delta)
}
NAMES = ("mimn", *COMPARED)
_POOLING: dict[str, Pooling] = {"official": "sum", "paper": "sum", "default": "mean"}


def model_variant(name: str, preset_name: str, *, embedding: int, slots: int, switches: dict[str, Any]) -> AnyVariant:
    """A model in one of the presets, its embeddings this wide, and everything recurrent twice as wide, as MIMN's is.

    >>> model_variant("gru4rec", "official", embedding=4, slots=8, switches={"units": 6}).to_json()["pooling"]
    'sum'
    """
    width = 2 * embedding
    if name == "mimn":
        sizes = {"event_width": width, "controller_units": width, "slot_width": width, "output_width": width, "slots": slots}
        return preset(preset_name, **{**sizes, **known(Variant, switches)})
    if name not in COMPARED:
        raise BadInput(f"model.name: expected one of {', '.join(NAMES)}, got {name!r}")
    kind = COMPARED[name]
    fields = {field.name for field in dataclasses.fields(kind)}
    wide = {"event_width": width, "controller_units": width, "units": width, "slots": slots}
    sizes = {key: value for key, value in wide.items() if key in fields}
    return kind(**{"preset": preset_name, "pooling": _POOLING[preset_name], **sizes, **known(kind, switches)})


def known(kind: Any, switches: dict[str, Any]) -> dict[str, Any]:
    """The switches, if all of them are fields of this variant; else BadInput with those that are."""
    fields = {field.name for field in dataclasses.fields(kind)}
    if unknown := set(switches) - fields:
        raise BadInput(f"model.switches: unknown {', '.join(sorted(unknown))}; known are {', '.join(sorted(fields))}")
    return switches


def variant_from_json(content: dict[str, Any]) -> AnyVariant:
    """The inverse of every variant's `to_json`; one without a name is MIMN's."""
    name = content.get("model", "mimn")
    if name == "mimn":
        return Variant.from_json(content)
    if name not in COMPARED:
        raise BadInput(f"variant: expected a model out of {', '.join(NAMES)}, got {name!r}; made by a newer release?")
    fields = {key: value for key, value in content.items() if key != "model"}
    unknown = set(fields) - {field.name for field in dataclasses.fields(COMPARED[name])}
    if unknown:
        raise BadInput(f"variant: unknown switches of {name}: {', '.join(sorted(unknown))}; made by a newer release?")
    return COMPARED[name](**fields)


def memory_from_json(content: dict[str, Any]) -> MemoryVariant:
    """The variant of a model with a memory; raises BadInput for one that needs the raw events."""
    return memory_of(variant_from_json(content))


def memory_of(variant: AnyVariant) -> MemoryVariant:
    """The variant, if its model keeps a memory; raises BadInput for one that needs the raw events."""
    if isinstance(variant, History):
        memories = [name for name in NAMES if name == "mimn" or issubclass(COMPARED[name], Memory)]
        raise BadInput(
            f"{variant.model} looks at a user's raw events for every candidate and keeps no memory of fixed size: it can be "
            f"trained and compared, but neither exported nor streamed; {', '.join(memories)} can"
        )
    return variant
