"""MIMN: one step of the memory network, state in and state out (KDD'19 section 4; mimn-spec sections 2.2 to 2.6).

`MimnStep` is what training scans, what is exported to ONNX, and what the stream applies to every event. It keeps nothing
between two calls. Where the paper and the authors' code differ, a switch of `Variant` says which is followed; the presets are
in uic/variant.py and the reasons in DECISIONS.md.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, softplus

from model.nn.addressing import ShiftAndSharpen, circular_shifts, content_weights, shares
from model.nn.fused.scan import run as run_fused
from model.nn.fused.scan import supports
from model.nn.gru import EventInput, GruCell, GruInput
from model.nn.state import mapped, pack, pool, unpack
from model.nn.step import MemoryStep
from uic.memory import MemoryLayout
from uic.variant import Variant

CLIP = 20.0
_RAW_UTILIZATION_SCALE = 400.0
_TRANSFER_BIAS = 4.0


class MimnState(NamedTuple):
    """The float tensors of a user memory, batched; names and order are those of `MemoryLayout.tensors`."""

    controller: Tensor  # [B, H]
    read: Tensor  # [B, D]
    slots: Tensor  # [B, M, D]
    utilization: Tensor  # [B, M]
    add_pool: Tensor  # [B, D]
    event_pool: Tensor  # [B, X]
    applied: Tensor  # [B, 1]
    channels: Tensor | None = None  # [B, M, D]
    last_channels: Tensor | None = None  # [B, M]

    def pack(self) -> Tensor:
        """All tensors side by side, [B, F]."""
        return pack(self)

    @staticmethod
    def unpack(state_BF: Tensor, layout: MemoryLayout) -> "MimnState":
        """The inverse of `pack`, for any leading dimensions."""
        return unpack(MimnState, state_BF, layout)

    def map(self, function: Callable[[Tensor], Tensor]) -> "MimnState":
        """The same function on every tensor that is there."""
        return mapped(self, function)


class StepTrace(NamedTuple):
    """What happened inside one step, for goldens, plots and tests."""

    read_weights: Tensor  # [B, M]
    content_weights: Tensor  # [B, M], the write head's, before re-balancing
    write_weights: Tensor  # [B, M], after it
    add: Tensor  # [B, D]


class MimnStep(MemoryStep[MimnState]):
    """One behaviour event applied to a memory."""

    kind = MimnState
    resets = ("controller", "slots", "add_pool", "channels")
    variant: Variant

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        v = self.variant = variant
        self.controller = GruCell(v.event_width, v.slot_width, v.controller_units)
        if not v.read_feedback:
            self.controller.ignore_second()
        self.sees_utilization = v.mur == "shift"
        # Training only: whether the gradient of L_reg reaches the content addressing, or shift and power alone (the authors').
        self.regularises_content = False
        heads = 2 * (v.slot_width + 6) + 2 * v.slot_width
        self.to_heads = dense(v.controller_units + (v.slots if self.sees_utilization else 0), heads)
        self.to_output = dense(v.controller_units + v.slot_width, v.output_width)
        self.initial_read = nn.Parameter(torch.empty(v.slot_width))
        nn.init.uniform_(self.initial_read, -(bound := (6 / (1 + v.slot_width)) ** 0.5), bound)
        # The same for every user, drawn once and never trained; part of the weights all the same.
        self.register_buffer("initial_slots", torch.randn(v.slots, v.slot_width) * 1e-5)
        self.initial_slots: Tensor
        self.register_buffer("shifts_M3M", circular_shifts(v.slots), persistent=False)
        self.shifts_M3M: Tensor
        if v.key_memory:
            self.key_memory = nn.Parameter(torch.randn(v.slots, v.slot_width) * 0.5)
        if v.mur == "transfer":
            self.transfer = nn.Linear(v.slots, v.slots * v.slots)
            nn.init.normal_(self.transfer.weight, std=0.1)
            # Without the identity every slot would get the same first write, and all slots would stay equal.
            self.transfer.bias = nn.Parameter(_TRANSFER_BIAS * torch.eye(v.slots).flatten())
        if v.miu:
            self.channel = GruCell(v.event_width, v.slot_width, v.slot_width)

    def initial_state(self, batch: int) -> MimnState:
        """The memory of a user without events: M_0 and r_0 are global, everything else is zero."""
        v = self.variant
        slots = torch.tanh(self.initial_slots)

        def zeros(*shape: int) -> Tensor:
            return slots.new_zeros(batch, *shape)

        return MimnState(
            controller=zeros(v.controller_units),
            read=torch.tanh(self.initial_read).expand(batch, -1),
            slots=slots.expand(batch, -1, -1),
            utilization=zeros(v.slots),
            add_pool=zeros(v.slot_width),
            event_pool=zeros(v.event_width),
            applied=zeros(1),
            channels=zeros(v.slots, v.slot_width) if v.miu else None,
            last_channels=zeros(v.slots) if v.miu and v.miu_readout == "last_output" else None,
        )

    def project(self, event: Tensor) -> EventInput:
        """What an event [..., X] adds to both GRUs: independent of any state, so a sequence is projected in one product."""
        return EventInput(event, self.controller.project(event), self.channel.project(event) if self.variant.miu else None)

    def each(self, events_BTX: Tensor) -> list[EventInput]:
        """The events one by one, projected."""
        return self.project(events_BTX).each()

    def cut(self, event: EventInput, users: int) -> EventInput:
        return event.first(users)

    def forward(self, state: MimnState, event_BX: Tensor) -> MimnState:
        """The memory after one event."""
        return self.advance(state, self.project(event_BX))[0]

    def advance(self, state: MimnState, event: EventInput) -> tuple[MimnState, StepTrace]:
        """The memory after one projected event, and what happened inside.

        Both heads address the slots as they were before the event. Gradients stop at g in the head parameters and, with
        shift and unless `regularises_content`, at w in the utilization statistic.
        """
        v = self.variant
        h_BH = self.controller(event.controller, state.read, state.controller)
        heads_B2P, erase_raw, add_raw = self._heads(h_BH, state.utilization)
        read_weights_BM, content_BM = self._address(heads_B2P, state.slots).unbind(-2)
        write_weights_BM, increment_BM = self._rebalance(heads_B2P[:, 1], content_BM, state.utilization)
        read_BD = (read_weights_BM.unsqueeze(-2) @ state.slots).squeeze(-2)
        erase_BD, add_BD = torch.sigmoid(erase_raw), torch.tanh(add_raw)
        slots_BMD = write_memory(state.slots, write_weights_BM, erase_BD, add_BD)

        channels_BMD, chosen_BM = state.channels, None
        if channels_BMD is not None:
            assert event.channels is not None
            source_BMD = state.slots if v.miu_memory == "before" else slots_BMD
            if v.miu_memory == "before":
                source_BMD = source_BMD.detach()
            channels_BMD, chosen_BM = self._induce(channels_BMD, source_BMD, read_weights_BM, event.channels)
        applied_B1 = state.applied + 1.0
        after = MimnState(
            controller=h_BH,
            read=read_BD,
            slots=slots_BMD,
            utilization=state.utilization + increment_BM,
            # The mean over slots of the official A_t is the sum of add vectors over m, because write weights sum to 1.
            add_pool=pool(state.add_pool, add_BD, applied_B1, v.pooling),
            event_pool=pool(state.event_pool, event.event, applied_B1, v.pooling),
            applied=applied_B1,
            channels=channels_BMD,
            last_channels=chosen_BM if v.miu_readout == "last_output" else None,
        )
        return after, StepTrace(read_weights_BM, content_BM, write_weights_BM, add_BD)

    def run(self, state: MimnState, events_BTX: Tensor, going: Sequence[int]) -> list[MimnState]:
        if not going or self.regularises_content or not supports(self.variant):
            return super().run(state, events_BTX, going)
        return run_fused(self, state, events_BTX, going)

    def candidate_read(self, state: MimnState, candidate_BNX: Tensor) -> Tensor:
        """One more controller step on each candidate and a read of M_T with it: o, [B, N, O]. The memory is not changed."""
        h_B1H, read_B1D = state.controller.unsqueeze(-2), state.read.unsqueeze(-2)
        h_BNH = self.controller(self.controller.project(candidate_BNX), read_B1D, h_B1H)
        head = self.variant.slot_width + 6
        weight, bias = self.to_heads.weight[:head], self.to_heads.bias[:head]
        units = self.variant.controller_units
        raw = linear(h_BNH, weight[:, :units], bias)
        if self.sees_utilization:
            raw = raw + linear(self._utilization_feature(state.utilization), weight[:, units:]).unsqueeze(-2)
        weights_BNM = self._address(raw.clamp(-CLIP, CLIP), state.slots)
        read_BND = weights_BNM @ state.slots
        return self.to_output(torch.cat([h_BNH, read_BND], -1)).clamp(-CLIP, CLIP)  # type: ignore[no-any-return]  # torch: Module returns Any

    def output(self, state: MimnState) -> Tensor:
        """o_t of a memory: what the official cell returns for the last event, [B, O]."""
        return self.to_output(torch.cat([state.controller, state.read], -1)).clamp(-CLIP, CLIP)  # type: ignore[no-any-return]  # torch: Module returns Any

    def _utilization_feature(self, utilization_BM: Tensor) -> Tensor:
        g = utilization_BM.detach()
        return shares(g) if self.variant.utilization == "share" else g / _RAW_UTILIZATION_SCALE

    def _heads(self, h_BH: Tensor, utilization_BM: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Raw parameters of read and write head [B, 2, D + 6], erase and add vector.

        A head is [key D | strength | unused | shift taps 3 | power], as in the authors' code.
        """
        seen = torch.cat([h_BH, self._utilization_feature(utilization_BM)], -1) if self.sees_utilization else h_BH
        raw = self.to_heads(seen).clamp(-CLIP, CLIP)
        width = self.variant.slot_width
        heads, erase, add = torch.split(raw, [2 * (width + 6), width, width], dim=-1)
        return torch.unflatten(heads, -1, (2, width + 6)), erase, add

    def _address(self, heads_BNP: Tensor, slots_BMD: Tensor) -> Tensor:
        v = self.variant
        return content_weights(
            torch.tanh(heads_BNP[..., : v.slot_width]),
            2.0 * (softplus(heads_BNP[..., v.slot_width : v.slot_width + 1]) + 1.0) if v.temperature else None,
            slots_BMD,
            torch.tanh(self.key_memory) if v.key_memory else None,
        )

    def _rebalance(self, head: Tensor, weights_BM: Tensor, utilization_BM: Tensor) -> tuple[Tensor, Tensor]:
        """The write weight after memory utilization regularisation, and what it adds to g (Eq. 5 to 7)."""
        v = self.variant
        if v.mur == "shift":
            power_B1 = 4.0 * (softplus(head[:, v.slot_width + 5 :]) + 1.0)
            balance = ShiftAndSharpen(head[:, v.slot_width + 2 : v.slot_width + 5], power_B1, self.shifts_M3M)
            balanced = balance(weights_BM)
            return balanced, balance(balanced if self.regularises_content else balanced.detach())
        if v.mur == "transfer":
            transfer_BMM = torch.softmax(torch.unflatten(self.transfer(shares(utilization_BM)), -1, (v.slots, v.slots)), dim=-1)
            weights_BM = (weights_BM.unsqueeze(-2) @ transfer_BMM).squeeze(-2)
        return weights_BM, weights_BM

    def _induce(
        self, channels_BMD: Tensor, slots_BMD: Tensor, read_weights_BM: Tensor, event: GruInput
    ) -> tuple[Tensor, Tensor]:
        """Advance the channels of the slots with the largest read weights; ties go to the lowest index (Eq. 9)."""
        v = self.variant
        # One argmax after the other: it promises the lowest index in torch and ONNX alike, and a stable sort has no ONNX form.
        left_BM = read_weights_BM.detach()
        places = [left_BM.argmax(-1, keepdim=True)]
        for _ in range(1, v.top_channels):
            left_BM = left_BM.scatter(1, places[-1], -1.0)
            places.append(left_BM.argmax(-1, keepdim=True))
        place_BK = torch.cat(places, dim=-1)
        place_BKD = place_BK.unsqueeze(-1).expand(-1, -1, v.slot_width)
        before_BKD = channels_BMD.gather(1, place_BKD)
        slot_BKD = slots_BMD.gather(1, place_BKD)
        shared = event._replace(gates=event.gates.unsqueeze(1), candidate=event.candidate.unsqueeze(1))
        after_BKD = self.channel(shared, slot_BKD, before_BKD)
        chosen_BM = torch.zeros_like(read_weights_BM).scatter(1, place_BK, 1.0)
        return channels_BMD.scatter(1, place_BKD, after_BKD), chosen_BM


def write_memory(slots_BMD: Tensor, weights_BM: Tensor, erase_BD: Tensor, add_BD: Tensor) -> Tensor:
    """Erase, then add, at every slot in proportion to its write weight.

        M_t = (1 - w e^T) * M_{t-1} + w a^T            (KDD'19, Eq. 4)

    erase_BD is in [0, 1]. Returns the new slots [B, M, D]; the input is not changed.
    """
    w = weights_BM.unsqueeze(-1)
    return slots_BMD * (1.0 - w * erase_BD.unsqueeze(-2)) + w * add_BD.unsqueeze(-2)


def dense(inputs: int, outputs: int) -> nn.Linear:
    """A layer drawn as the authors draw those of the memory networks."""
    layer = nn.Linear(inputs, outputs)
    deviation = inputs**-0.5
    nn.init.trunc_normal_(layer.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
    nn.init.zeros_(layer.bias)
    return layer
