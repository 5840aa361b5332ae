"""Golden vectors of the authors' code (model/golden.py): ours gives them, a broken equation does not, a broken file says so."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.golden import TOLERANCE, Difference, check
from model.nn.addressing import ShiftAndSharpen
from model.nn.ctr import MimnCtr
from model.nn.gru import GruCell, GruInput
from model.nn.head import CtrHead
from model.nn.losses import ctr_loss, utilization_loss
from model.nn.mimn import MimnState, MimnStep
from model.nn.sequence import scan
from uic.errors import BadInput
from uic.variant import preset

FOLDER = Path(__file__).parent / "golden"
CELL, CELL_WITHOUT, MODEL = (
    FOLDER / f"{name}.npz" for name in ("cell_m4_mur1_miu1", "cell_m4_mur0_miu0", "model_MIMN_m4_mur1_miu1_mask1")
)
DIN, GRU4REC = (FOLDER / f"model_{name}.npz" for name in ("DIN", "GRU4REC"))
Arrays = dict[str, Any]


def read(path: Path) -> Arrays:
    with np.load(path) as npz:
        return dict(npz)


def write(path: Path, arrays: Arrays) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("path", [CELL, CELL_WITHOUT, MODEL, DIN, GRU4REC], ids=lambda path: path.stem)
def test_every_tensor_of_the_authors_code_is_reproduced(path: Path) -> None:
    differences = check(path)
    assert {each.tensor for each in differences} == {key for key in read(path) if key.startswith(("out/", "grad/"))}
    assert TOLERANCE == 1e-5
    for each in differences:
        assert each.is_within, each


def old_slots_are_not_erased(slots: Tensor, weights: Tensor, erase: Tensor, add: Tensor) -> Tensor:
    return slots + weights.unsqueeze(-1) * add.unsqueeze(-2)


def reset_gate_after_the_product(cell: GruCell, projected: GruInput, second: Tensor, h: Tensor) -> Tensor:
    reset, update = torch.sigmoid(
        projected.gates + torch.cat([second, h], -1) @ cell.gates.weight[:, cell.first_width :].T
    ).chunk(2, -1)
    into = cell.candidate.weight[:, cell.first_width :]
    from_second, from_h = second @ into[:, : second.shape[-1]].T, h @ into[:, second.shape[-1] :].T
    return update * h + (1 - update) * torch.tanh(projected.candidate + from_second + reset * from_h)


def no_power(balance: ShiftAndSharpen, weights: Tensor) -> Tensor:
    return weights


def a_utilization_with_gradient(step: MimnStep, utilization: Tensor) -> Tensor:
    return utilization / 400.0


def a_sum_of_all_channels(head: CtrHead, step: MimnStep, state: MimnState, candidate: Tensor) -> Tensor:
    return REAL_INPUTS(head, step, state._replace(last_channels=None), candidate)


REAL_INPUTS = CtrHead.inputs


@pytest.mark.parametrize(
    ("broken", "replacement", "path", "suspect"),
    [
        ("model.nn.mimn.write_memory", old_slots_are_not_erased, CELL, "out/M"),
        ("model.nn.gru.GruCell.forward", reset_gate_after_the_product, CELL_WITHOUT, "out/controller_state"),
        ("model.nn.addressing.ShiftAndSharpen.__call__", no_power, CELL, "out/w_write"),
        ("model.nn.mimn.MimnStep._utilization_feature", a_utilization_with_gradient, MODEL, "grad/"),
        ("model.nn.head.CtrHead.inputs", a_sum_of_all_channels, MODEL, "out/inp"),
        ("model.golden.utilization_loss", lambda g, kind, weight: utilization_loss(g, "share", weight), MODEL, "out/reg_loss"),
    ],
)
def test_a_broken_equation_is_found_in_the_tensor_it_breaks(
    monkeypatch: pytest.MonkeyPatch, broken: str, replacement: Callable[..., Any], path: Path, suspect: str
) -> None:
    monkeypatch.setattr(broken, replacement)
    wrong = [each.tensor for each in check(path) if not each.is_within]
    assert any(tensor.startswith(suspect) for tensor in wrong), wrong
    assert all(tensor.startswith("grad/") for tensor in wrong) or suspect != "grad/"


@pytest.mark.parametrize("path", [CELL, MODEL], ids=lambda path: path.stem)
def test_any_single_tensor_of_a_file_that_is_off_is_found(path: Path, tmp_path: Path) -> None:
    golden = read(path)
    for key in [key for key in golden if key.startswith(("out/", "grad/"))][::4]:
        off = golden[key].copy()
        off.flat[-1] += 1e-3
        wrong = [each.tensor for each in check(write(tmp_path / "off.npz", {**golden, key: off})) if not each.is_within]
        assert wrong == [key]


def test_a_difference_that_is_no_number_is_not_within() -> None:
    assert not Difference("out/M", float("nan")).is_within
    assert Difference("out/M", TOLERANCE).is_within


@pytest.mark.parametrize("path", [CELL, MODEL, DIN, GRU4REC], ids=lambda path: path.stem)
def test_a_missing_key_is_named(path: Path, tmp_path: Path) -> None:
    golden = read(path)
    used = [key for key in golden if key.startswith(("W/", "in/")) and "fully_connected_" not in key and "neg_" not in key]
    for key in used:
        with pytest.raises(BadInput, match=r"(expected the key .*|unknown model)") as raised:
            check(write(tmp_path / "less.npz", {name: value for name, value in golden.items() if name != key}))
        assert key in str(raised.value) or key == "in/x"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out/colour": np.zeros(3)}, "nothing was computed for out/colour"),
        ({"out/M": np.zeros((3, 12, 4, 9))}, r"out/M: expected shape \[3, 12, 4, 8\], the file has \[3, 12, 4, 9\]"),
        ({"W/init/key_M": np.zeros((5, 8))}, "do not fit together"),
        ({"in/x": np.zeros((3, 12, 7))}, "do not fit together"),
        ({"meta": np.array("{")}, r"expected golden vectors \(.npz with W/, in/, out/ and meta\)"),
        ({"meta": np.array("3")}, "meta is not a JSON object"),
        ({"meta": np.array(json.dumps({"m": 4}))}, "expected the key"),
        ({"W/extra": np.array(["text"])}, "expected golden vectors"),
    ],
)
def test_a_file_that_does_not_fit_says_why(changes: Arrays, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        check(write(tmp_path / "wrong.npz", {**read(CELL), **changes}))


def test_a_model_that_is_not_ours_is_refused_by_its_name(tmp_path: Path) -> None:
    golden = read(MODEL)
    golden["meta"] = np.array(json.dumps({**json.loads(str(golden["meta"])), "name": "SASREC"}))
    with pytest.raises(BadInput, match="golden vectors of SASREC; expected a MIMN cell, or a model out of MIMN, DNN"):
        check(write(tmp_path / "sasrec.npz", golden))


@pytest.mark.parametrize("content", [None, b"", b"no archive", b"PK\x03\x04 half of one"])
def test_a_file_that_is_no_archive_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "file.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=r"file\.npz: expected golden vectors"):
        check(path)


def test_a_single_array_or_half_an_archive_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "half.npz").write_bytes(CELL.read_bytes()[:5000])
    for name in ("one.npy", "half.npz"):
        with pytest.raises(BadInput, match=f"{name}: expected golden vectors"):
            check(tmp_path / name)


# Files of other slot counts and ablations, made from our own model in the authors' names.


def gru_names(scope: str, cell: GruCell) -> Arrays:
    return {
        f"W/{scope}/{place}/{kind}": value
        for place, layer in (("gates", cell.gates), ("candidate", cell.candidate))
        for kind, value in (("kernel", layer.weight.T), ("bias", layer.bias))
    }


def step_names(step: MimnStep) -> Arrays:
    names = gru_names("controller/gru_cell", step.controller) | {
        "W/o2p/fully_connected/weights": step.to_heads.weight.T,
        "W/o2p/fully_connected/biases": step.to_heads.bias,
        "W/o2o/fully_connected/weights": step.to_output.weight.T,
        "W/o2o/fully_connected/biases": step.to_output.bias,
        "W/init/fully_connected/weights": step.initial_read.unsqueeze(0),
        "W/init/init_M": step.initial_slots,
        "W/init/key_M": step.key_memory,
    }
    return names | (gru_names("gru_cell", step.channel) if step.variant.miu else {})


def plain(arrays: Arrays, meta: dict[str, Any]) -> Arrays:
    values = {name: value.detach().numpy() if isinstance(value, Tensor) else value for name, value in arrays.items()}
    return {**values, "meta": np.array(json.dumps(meta))}


@pytest.mark.parametrize("slots", [3, 8])
@pytest.mark.parametrize("mur", [0, 1])
@pytest.mark.parametrize("miu", [0, 1])
def test_cells_of_any_slot_count_and_ablation_load_by_their_keys(slots: int, mur: int, miu: int, tmp_path: Path) -> None:
    torch.manual_seed(slots + mur + miu)
    sizes = {"event_width": 6, "controller_units": 10, "slot_width": 8, "output_width": 7, "slots": slots}
    step = MimnStep(preset("official", mur="shift" if mur else "none", miu=bool(miu), **sizes)).double()
    x_BTX, target_BX = torch.randn(2, 5, 6).double(), torch.randn(2, 6).double()
    state, slots_after, channels, weights = step.initial_state(2), [], [], []
    for t in range(5):
        state, trace = step.advance(state, step.project(x_BTX[:, t]))
        slots_after.append(state.slots)
        channels.append(state.channels)
        weights.append(trace.write_weights)
    arrays = step_names(step) | {
        "in/x": x_BTX,
        "in/target": target_BX,
        "out/M": torch.stack(slots_after, 1),
        "out/w_write": torch.stack(weights, 1),
        "out/w_aggre": torch.stack([each.utilization for each in scan(step, x_BTX).states], 1),
        "out/target_read_out": step.candidate_read(state, target_BX.unsqueeze(1))[:, 0],
        "out/reg_loss": utilization_loss(state.utilization, "raw", 1e-3),
    }
    if miu:
        arrays["out/chan_state"] = torch.stack([each for each in channels if each is not None], 1)
    meta = {"m": slots, "util_reg": mur, "mem_induction": miu, "x_dim": 6, "H": 10, "D": 8, "O": 7}
    path = write(tmp_path / f"cell_m{slots}_mur{mur}_miu{miu}.npz", plain(arrays, meta))
    assert len(check(path)) == 5 + miu
    assert all(each.is_within for each in check(path))


@pytest.mark.parametrize("slots", [4, 8])
@pytest.mark.parametrize(("mur", "miu"), [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("mask", [0, 1])
def test_models_of_any_slot_count_ablation_and_padding_load_by_their_keys(
    slots: int, mur: int, miu: int, mask: int, tmp_path: Path
) -> None:
    torch.manual_seed(slots + 2 * mur + miu)
    sizes = {"event_width": 8, "controller_units": 8, "slot_width": 8, "output_width": 8, "slots": slots}
    variant = preset("official", mur="shift" if mur else "none", miu=bool(miu), **sizes)
    model = MimnCtr(variant, item_rows=20, category_rows=20).double()
    model.embedding.categories = model.embedding.items
    mask_BT = torch.tensor([[1.0] * 6, [0.0, 0, 0, 1, 1, 1], [0.0, 0, 0, 0, 0, 1]]).double()
    histories = {name: (torch.randint(1, 20, (3, 6)) * mask_BT).long() for name in ("in/item_his", "in/cate_his")}
    item, category = torch.tensor([3, 4, 5]), torch.tensor([6, 7, 8])
    events = model.embedding(histories["in/item_his"], histories["in/cate_his"])
    state = scan(model.step, events, mask_BT, "reset" if mask else "run").state
    logits = model.score(state, item.unsqueeze(1), category.unsqueeze(1))[:, 0]
    labels = torch.tensor([1.0, 0.0, 1.0]).double()
    loss = ctr_loss(logits, labels, "half_softmax")
    if mur:
        loss = loss + utilization_loss(state.utilization, "raw", 1e-3)
    loss.backward()
    mlp = model.head.mlp
    arrays = step_names(model.step) | {
        "W/mid_embedding_var": model.embedding.items.weight,
        "W/bn1/gamma": mlp.affine.gamma,
        "W/bn1/beta": mlp.affine.beta,
        "W/prelu_1/prelu_prelu_1": mlp.first_slope.weight,
        "W/prelu_2/prelu_prelu_2": mlp.second_slope.weight,
    }
    layers = {"f1": mlp.first, "f2": mlp.second, "f3": mlp.third}
    if miu:
        attention = model.head.attention
        layers |= {"f1_attpal": attention.first, "f2_attpal": attention.second, "f3_attpal": attention.third}
    for name, layer in layers.items():
        arrays |= {f"W/{name}/kernel": layer.weight.T, f"W/{name}/bias": layer.bias}
    arrays |= histories | {
        "in/item": item,
        "in/cate": category,
        "in/mask": mask_BT,
        "in/target": torch.stack([labels, 1 - labels], 1),
        "out/loss": loss,
        "out/y_hat": torch.softmax(logits, -1) + 1e-8,
        "out/final_M": state.slots,
        "out/final_w_aggre": state.utilization,
        "grad/mid_embedding_var": model.embedding.items.weight.grad,
        "grad/f1/kernel": mlp.first.weight.grad.T if mlp.first.weight.grad is not None else None,
    }
    meta = {"E": 4, "H": 8, "n_mid": 20, "name": f"MIMN_m{slots}_mur{mur}_miu{miu}_mask{mask}"}
    differences = check(write(tmp_path / "model.npz", plain(arrays, meta)))
    assert len(differences) == 6
    assert all(each.is_within for each in differences), differences
