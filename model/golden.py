"""Golden vectors of the authors' code: loaded by their keys, compared tensor by tensor, losses and gradients included.

A file is an .npz with `W/<variable>` weights, `in/*`, `out/*`, `grad/<variable>` and `meta` (JSON). Three kinds are known:

    cell     every state of every step of one MIMN cell, and the read with a target; any sizes, slots and ablation
    MIMN_*   the whole model on left-padded histories: MLP input, probabilities, losses, final states, gradients
    DIN ...  the same of the compared models (model/golden_compared.py)

Everything is computed in float64, so that a difference is one of the equations and not of rounding.
"""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.golden_compared import COMPARED, auxiliary_loss, check_compared
from model.golden_weights import Arrays, Weights
from model.nn.ctr import MimnCtr
from model.nn.losses import ctr_loss, utilization_loss
from model.nn.mimn import MimnState, MimnStep
from model.nn.sequence import Scanned, scan
from uic.errors import BadInput
from uic.variant import Variant, preset

TOLERANCE = 1e-5
_REGULARISER_WEIGHT = 1e-3


class Difference(NamedTuple):
    """The largest absolute difference of one tensor, relative where the golden value is larger than 1."""

    tensor: str
    worst: float

    @property
    def is_within(self) -> bool:
        return self.worst <= TOLERANCE  # NaN is not


def check(path: Path) -> list[Difference]:
    """Compute everything that a golden file holds; one difference a tensor, in the file's order."""
    arrays, meta = _load(path)
    name = str(meta.get("name", ""))
    try:
        if "in/x" in arrays:
            computed = _check_cell(arrays, meta)
        elif name.startswith("MIMN"):
            computed = _check_model(arrays, meta)
        elif (model := name.split("_")[0]) in COMPARED:
            computed = check_compared(model, arrays, meta)
        else:
            raise BadInput(
                f"{path}: golden vectors of {name or 'an unknown model'}; expected a MIMN cell, or a model out of MIMN, "
                + ", ".join(COMPARED)
            )
    except KeyError as error:
        raise BadInput(f"{path}: expected the key {error}, but the file has none") from error
    except (RuntimeError, IndexError) as error:  # what torch raises where shapes or rows do not fit
        raise BadInput(f"{path}: its tensors do not fit together: {error}") from error
    return list(_compare(path, arrays, computed))


def _load(path: Path) -> tuple[Arrays, dict[str, Any]]:
    try:
        with np.load(path, allow_pickle=False) as npz:
            meta = json.loads(str(npz["meta"]))
            arrays = {key: torch.from_numpy(npz[key]) for key in npz.files if key != "meta"}
        if not isinstance(meta, dict):
            raise TypeError("meta is not a JSON object")
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path}: expected golden vectors (.npz with W/, in/, out/ and meta): {error}") from error
    return {key: value.double() if value.is_floating_point() else value.long() for key, value in arrays.items()}, meta


def _compare(path: Path, golden: Arrays, computed: Arrays) -> Iterator[Difference]:
    expected = [key for key in golden if key.startswith(("out/", "grad/"))]
    missing = [key for key in expected if key not in computed]
    if missing or not expected:
        raise BadInput(f"{path}: nothing was computed for {', '.join(missing) or 'this file: it holds no out/ tensors'}")
    for key in expected:
        want, have = golden[key], computed[key].detach()
        if want.shape != have.shape:
            raise BadInput(f"{path}: {key}: expected shape {list(have.shape)}, the file has {list(want.shape)}")
        worst = ((have - want).abs() / want.abs().clamp_min(1.0)).max().item() if want.numel() else 0.0
        yield Difference(key, worst)


def _variant(*, slots: int, mur: bool, miu: bool, x: int, h: int, d: int, o: int) -> Variant:
    sizes = {"event_width": x, "controller_units": h, "slot_width": d, "output_width": o, "slots": slots}
    return preset("official", mur="shift" if mur else "none", miu=miu, **sizes)


def _check_cell(golden: Arrays, meta: dict[str, Any]) -> Arrays:
    variant = _variant(
        slots=meta["m"], mur=bool(meta["util_reg"]), miu=bool(meta["mem_induction"]),
        x=meta["x_dim"], h=meta["H"], d=meta["D"], o=meta["O"],
    )  # fmt: skip
    step = MimnStep(variant).double()
    Weights(golden).step(step)
    scanned = scan(step, golden["in/x"])
    out = _states(step, scanned, golden["in/x"].shape[0])
    target = golden["in/target"].unsqueeze(1)
    out["target_read_out"] = step.candidate_read(scanned.state, target)[:, 0]
    out["target_w_read"] = step.advance(scanned.state, step.project(golden["in/target"]))[1].read_weights
    out["reg_loss"] = utilization_loss(scanned.state.utilization, "raw", _REGULARISER_WEIGHT)
    return {f"out/{key}": value for key, value in out.items()}


def _states(step: MimnStep, scanned: Scanned[MimnState], batch: int) -> Arrays:
    """Every state and weight of a scan under the authors' names, [B, T, ...], and the initial ones."""

    def stack(tensors: list[Tensor]) -> Tensor:
        return torch.stack(tensors, dim=1)

    states, traces = scanned.states, scanned.traces
    writes_BTMD = stack([trace.write_weights.unsqueeze(-1) * trace.add.unsqueeze(-2) for trace in traces])
    initial = step.initial_state(batch)
    out = {
        "output": stack([step.output(state) for state in states]),
        "controller_state": stack([state.controller for state in states]),
        "read_vector": stack([state.read for state in states]),
        "w_read": stack([trace.read_weights for trace in traces]),
        "w_write": stack([trace.write_weights for trace in traces]),
        "M": stack([state.slots for state in states]),
        "w_aggre": stack([state.utilization for state in states]),
        "sum_aggre": writes_BTMD.cumsum(dim=1),
        "init_controller_state": initial.controller,
        "init_M": initial.slots,
        "init_key_M": torch.tanh(step.key_memory).expand(batch, -1, -1),
        "init_w_aggre": initial.utilization,
        "init_sum_aggre": torch.zeros_like(initial.slots),
        "init_read_vector": initial.read,
    }
    if step.variant.miu:
        channels = [state.channels for state in states if state.channels is not None]
        chosen = [state.last_channels for state in states if state.last_channels is not None]
        out["chan_state"] = stack(channels)
        out["chan_out"] = out["chan_state"] * stack(chosen).unsqueeze(-1)
    return out


def _check_model(golden: Arrays, meta: dict[str, Any]) -> Arrays:
    switches = {part[:-1]: int(part[-1]) for part in str(meta["name"]).split("_")[1:] if part[:-1] in ("mur", "miu", "mask")}
    slots, width = golden["W/init/init_M"].shape
    variant = _variant(
        slots=slots, mur=bool(switches["mur"]), miu=bool(switches["miu"]),
        x=2 * meta["E"], h=meta["H"], d=width, o=golden["W/o2o/fully_connected/biases"].shape[0],
    )  # fmt: skip
    model = MimnCtr(variant, item_rows=meta["n_mid"], category_rows=meta["n_mid"]).double()
    # One joint table for items and categories, as the authors have it.
    model.embedding.categories = model.embedding.items
    weights = Weights(golden)
    weights.step(model.step)
    weights.put("mid_embedding_var", model.embedding.items.weight)
    weights.mlp(model.head.mlp)
    if variant.miu:
        weights.attention(model.head.attention, "_attpal")

    mask_BT = golden["in/mask"]
    events_BTX = model.embedding(golden["in/item_his"], golden["in/cate_his"]) * mask_BT.unsqueeze(-1)
    scanned = scan(model.step, events_BTX, mask_BT, "reset" if switches["mask"] else "run")
    state = scanned.state
    candidate_B1X = model.embedding(golden["in/item"], golden["in/cate"]).unsqueeze(1)
    inputs_B1I = model.head.inputs(model.step, state, candidate_B1X)
    logits_B2 = model.head.mlp(inputs_B1I)[:, 0]
    regulariser = utilization_loss(state.utilization, "raw", _REGULARISER_WEIGHT)
    loss = ctr_loss(logits_B2, golden["in/target"][:, 0], "half_softmax")
    if switches["mur"]:
        loss = loss + regulariser
    outputs_BTO = torch.stack([model.step.output(each) for each in _unmasked(model.step, events_BTX, mask_BT, scanned)], dim=1)
    aux_loss = torch.zeros(())
    if meta.get("aux"):
        aux_loss = auxiliary_loss(golden, weights, model, outputs_BTO, events_BTX)
        loss = loss + aux_loss
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    add_BTMD = _masked_writes(scanned, mask_BT if switches["mask"] else torch.ones_like(mask_BT))
    out = {
        "inp": inputs_B1I[:, 0],
        "y_hat": torch.softmax(logits_B2, dim=-1) + 1e-8,
        "loss": loss,
        "reg_loss": regulariser,
        "aux_loss": aux_loss,
        "mimn_o": outputs_BTO,
        "final_M": state.slots,
        "final_w_aggre": state.utilization,
        "final_sum_aggre": add_BTMD.sum(1),
        "final_controller_state": state.controller,
    }
    return {**{f"out/{key}": value for key, value in out.items()}, **weights.gradients()}


def _masked_writes(scanned: Scanned[MimnState], mask_BT: Tensor) -> Tensor:
    writes = torch.stack([trace.write_weights.unsqueeze(-1) * trace.add.unsqueeze(-2) for trace in scanned.traces], dim=1)
    return writes * mask_BT[..., None, None]


def _unmasked(step: MimnStep, events_BTX: Tensor, mask_BT: Tensor, scanned: Scanned[MimnState]) -> list[Any]:
    """States as the cell returned them, before padded positions were reset: the authors collect outputs there."""
    states = [step.initial_state(events_BTX.shape[0]), *scanned.states[:-1]]
    return [step(state, events_BTX[:, t]) for t, state in enumerate(states)]
