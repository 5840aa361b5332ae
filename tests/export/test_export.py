"""A bundle does what its model does: three runtimes over 1,000 events, any batch, any mask (onnx_export, uic/runtime)."""

import copy
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exports import CATEGORY_IDS, ITEM_IDS, VARIANTS, Exported, export, make_model

from model.nn.ctr import MimnCtr
from model.nn.mimn import MimnState
from model.training.weights import load_weights, model_of
from onnx_export.bundle import dense_weights
from onnx_export.graphs import EMBEDDINGS
from onnx_export.parity import check_parity, record_parity
from uic.bundle import REQUIRED, Bundle, Manifest
from uic.errors import BadInput, BundleError, ForeignDirectory
from uic.event import BehaviourEvent
from uic.fold import fold
from uic.oracle import NumpyStep
from uic.runtime import OnnxScore, OnnxStep
from uic.tolerance import memory_excess
from uic.update import Outcome, Rules
from uic.variant import Variant

Get = Callable[[str], Exported]
every_variant = pytest.mark.parametrize("name", VARIANTS)
SEED = 11
STEEP = 2.0  # times the weights of the heads


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """The bundle of a variant by its name in VARIANTS, exported when first asked for."""
    made: dict[str, Exported] = {}

    def get(name: str) -> Exported:
        if name not in made:
            variant, features = VARIANTS[name]
            model = make_model(variant, features)
            # The exporter's trace has megabytes of debug lines, and pytest would format each of them.
            logging.disable(logging.DEBUG)
            made[name] = Exported(model, export(model, tmp_path_factory.mktemp("bundles") / name, features))
            logging.disable(logging.NOTSET)
        return made[name]

    return get


def random_rows(bundle: Bundle, *shape: int) -> tuple["np.ndarray", "np.ndarray"]:
    rng = np.random.default_rng(SEED)
    return rng.integers(1, bundle.items.table_rows, shape), rng.integers(1, bundle.categories.table_rows, shape)


def states_after(bundle: Bundle, users: int, events: int = 20) -> "np.ndarray":
    step, state_BF = OnnxStep(bundle), np.tile(bundle.initial.state_F, (users, 1))
    items, categories = random_rows(bundle, users, events)
    for t in range(events):
        state_BF = step(state_BF, items[:, t], categories[:, t])
    return state_BF


@every_variant
def test_oracle_torch_and_onnx_make_the_same_memory_of_1000_events(name: str, exported: Get) -> None:
    parity = check_parity(*exported(name), events=1000, users=8, seed=SEED)
    assert (parity.events, parity.users) == (1000, 8)
    assert len(parity.excess) == 7
    assert all(value <= 1.0 for value in parity.excess.values()), parity
    assert parity.holds
    assert parity.apart <= 1


@pytest.mark.parametrize(
    "weight", ["step.controller.gates.bias", "step.to_heads.weight", "step.channel.candidate.weight", "head.mlp.third.weight"]
)
def test_parity_notices_one_weight_that_is_not_the_bundles(weight: str, exported: Get) -> None:
    bundle = exported("default").bundle
    model = model_of(bundle)
    with torch.no_grad():
        model.get_parameter(weight)[0] += 1e-2
    parity = check_parity(model, bundle, events=5, users=2)
    assert not parity.holds
    assert parity.excess["step, onnx to numpy"] <= 1.0


@pytest.mark.parametrize("factor", [1.001, -1.0])
def test_a_step_graph_with_any_of_its_tensors_scaled_or_of_the_wrong_sign_is_refused(
    factor: float, exported: Get, tmp_path: Path
) -> None:
    model, bundle = exported("default")
    shutil.copytree(bundle.path, tmp_path / "broken")
    whole = onnx.load(str(bundle.path / "step.onnx"), load_external_data=False)
    for number, tensor in enumerate(whole.graph.initializer):
        if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2 or tensor.external_data:
            continue
        if tensor.name.endswith("shifts_M3M"):
            continue  # what is shifted is divided by its sum: no factor leaves a trace
        broken = onnx.ModelProto()
        broken.CopyFrom(whole)
        scaled = np.float32(factor) * onnx.numpy_helper.to_array(tensor)
        broken.graph.initializer[number].CopyFrom(onnx.numpy_helper.from_array(scaled, tensor.name))
        onnx.save(broken, str(tmp_path / "broken" / "step.onnx"))
        parity = check_parity(model, Bundle(tmp_path / "broken", bundle.manifest), events=8, users=2)
        assert not parity.holds, tensor.name
        assert any(fault.startswith("step, onnx to") for fault in parity.faults), tensor.name
        assert parity.excess["step, torch to numpy"] <= 1.0


def chaotic(of: Exported, directory: Path) -> Exported:
    """The same with heads so steep that roundings grow from event to event; the graph of the score stays as it was."""
    model, bundle = copy.deepcopy(of.model), of.bundle
    shutil.copytree(bundle.path, directory)
    with torch.no_grad():
        model.step.to_heads.weight *= STEEP
    np.savez(directory / "weights.npz", **dense_weights(model))
    graph = onnx.load(str(directory / "step.onnx"), load_external_data=False)
    (tensor,) = (each for each in graph.graph.initializer if each.name == "model.step.to_heads.weight")
    tensor.CopyFrom(onnx.numpy_helper.from_array(model.step.to_heads.weight.detach().numpy(), tensor.name))
    onnx.save(graph, str(directory / "step.onnx"))
    return Exported(model, Bundle(directory, bundle.manifest))


def test_users_whom_rounding_alone_moves_are_counted_and_many_of_them_are_refused(exported: Get, tmp_path: Path) -> None:
    model, bundle = chaotic(exported("default"), tmp_path / "chaotic")
    parity = check_parity(model, bundle, events=300, users=16)
    assert parity.moved >= parity.apart > parity.most_apart
    # Each event by itself is as it should be: no runtime is to blame.
    assert all(value <= 1.0 for pair, value in parity.excess.items() if pair.startswith("step"))
    fault = parity.faults[-1]
    assert fault.startswith(f"{parity.apart} of 16 users")
    assert "Train on, or from another seed" in fault
    assert parity.note is not None
    assert f"moves {parity.moved} of all" in parity.note


def test_among_moved_users_a_broken_runtime_is_still_refused_for_its_single_steps(exported: Get, tmp_path: Path) -> None:
    model, bundle = chaotic(exported("default"), tmp_path / "chaotic")
    with torch.no_grad():
        model.step.to_heads.weight *= 1.001
    parity = check_parity(model, bundle, events=60, users=4)
    assert parity.excess["step, onnx to numpy"] <= 1.0 < parity.excess["step, torch to numpy"]
    assert any(fault.startswith("step, torch to numpy") for fault in parity.faults)


def test_what_parity_found_is_in_the_manifest(exported: Get, tmp_path: Path) -> None:
    model, bundle = exported("official")
    shutil.copytree(bundle.path, tmp_path / "copy")
    copied = Bundle.open(tmp_path / "copy")
    parity = check_parity(model, copied, events=5, users=2)
    record_parity(copied, parity)
    found = Bundle.open(tmp_path / "copy").manifest.training
    assert found["seed"] == 3
    assert found["parity"] == {
        "events": 5, "users": 2, "moved": 0, "tied": 0, "apart": 0, "excess": parity.excess, "holds": True,
    }  # fmt: skip


@every_variant
def test_a_batch_of_one_or_seven_steps_and_scores_as_a_batch_of_three(name: str, exported: Get) -> None:
    bundle = exported(name).bundle
    step, score = OnnxStep(bundle), OnnxScore(bundle)
    states_BF = states_after(bundle, 7)
    items, categories = random_rows(bundle, 7)
    candidates, kinds = random_rows(bundle, 7, 4)
    features = np.random.default_rng(SEED).normal(size=(7, 4, len(bundle.manifest.head_features))).astype(np.float32)

    def run(users: slice) -> tuple["np.ndarray", "np.ndarray"]:
        given = features[users] if features.shape[-1] else None
        scores = score(states_BF[users], candidates[users], kinds[users], None, given)
        return step(states_BF[users], items[users], categories[users]), scores

    whole = run(slice(0, 7))
    for users in (slice(0, 1), slice(6, 7), slice(2, 5)):
        for part, of_whole in zip(run(users), whole, strict=True):
            np.testing.assert_allclose(part, of_whole[users], rtol=1e-5, atol=1e-6)


@every_variant
def test_a_masked_candidate_scores_zero_and_moves_no_other(name: str, exported: Get) -> None:
    bundle = exported(name).bundle
    score = OnnxScore(bundle)
    states_BF = states_after(bundle, 2)
    candidates, kinds = random_rows(bundle, 2, 5)
    features = np.ones((2, 5, len(bundle.manifest.head_features)), np.float32) if bundle.manifest.head_features else None
    everything = score(states_BF, candidates, kinds, None, features)
    assert ((everything > 0) & (everything < 1)).all()
    mask = np.array([[True, False, True, True, False], [False] * 5])
    masked = score(states_BF, candidates, kinds, mask, features)
    assert np.array_equal(masked, np.where(mask, everything, 0))


def test_a_padding_row_as_candidate_is_scored_like_any_row_unless_masked(exported: Get) -> None:
    bundle = exported("official").bundle
    rows = np.zeros((1, 1), np.int64)
    assert OnnxScore(bundle)(states_after(bundle, 1), rows, rows, np.zeros((1, 1), np.bool_)).tolist() == [[0.0]]


def test_head_features_move_the_score(exported: Get) -> None:
    bundle = exported("default").bundle
    states_BF, (candidates, kinds) = states_after(bundle, 1), random_rows(bundle, 1, 2)
    scores = [
        OnnxScore(bundle)(states_BF, candidates, kinds, None, np.array([[[hour, 0.0], [hour, 0.0]]], np.float32))
        for hour in (0.0, 3.0)
    ]
    assert np.abs(scores[0] - scores[1]).min() > 1e-4


def test_one_candidate_or_many_are_scored_alike(exported: Get) -> None:
    bundle = exported("paper").bundle
    states_BF, (candidates, kinds) = states_after(bundle, 1), random_rows(bundle, 1, 50)
    many = OnnxScore(bundle)(states_BF, candidates, kinds)
    for n in (0, 49):
        alone = OnnxScore(bundle)(states_BF, candidates[:, n : n + 1], kinds[:, n : n + 1])
        np.testing.assert_allclose(alone, many[:, n : n + 1], rtol=1e-5, atol=1e-6)


def test_a_step_does_not_change_the_states_it_is_given(exported: Get) -> None:
    bundle = exported("default").bundle
    for step in (OnnxStep(bundle), NumpyStep.of(bundle)):
        states_BF = states_after(bundle, 2)
        kept = states_BF.copy()
        after = step(states_BF, *random_rows(bundle, 2))
        assert np.array_equal(states_BF, kept)
        assert after.dtype == np.float32
        assert not np.shares_memory(after, states_BF)


@every_variant
def test_the_initial_memory_is_the_models_and_has_no_events(name: str, exported: Get) -> None:
    model, bundle = exported(name)
    with torch.no_grad():
        assert np.array_equal(bundle.initial.state_F, model.initial_state(1).pack()[0].numpy())
    initial = bundle.initial
    assert (initial.sequence, initial.last_time_ms, initial.log_time_ms, initial.generation) == (0, None, None, 0)
    assert not any(initial.fingerprints)
    assert initial.bundle_version == bundle.manifest.version


@pytest.mark.parametrize("name", ["default", "official"])
def test_a_fold_in_waves_equals_the_stream_one_by_one_within_the_tolerance(name: str, exported: Get) -> None:
    bundle = exported(name).bundle
    rng = np.random.default_rng(SEED)
    events = [
        BehaviourEvent(
            user_id=f"u{rng.integers(3)}",
            item_id=int(rng.choice([*ITEM_IDS, 1, 2])),
            category_id=int(rng.choice([*CATEGORY_IDS, 8])),
            behaviour="click",
            time_ms=int(1000 * number - rng.integers(5000)) + 10_000,
        )
        for number in range(120)
    ]
    events += events[40:60]
    center = bundle.updater(OnnxStep(bundle), Rules(lateness_ms=3000))
    folded = fold(center, events)
    blobs: dict[str, bytes] = {}
    for event in events:
        update = center.update(blobs.get(event.user_id), event, log_time_ms=event.time_ms)
        if update.blob is not None:
            blobs[event.user_id] = update.blob
    assert set(folded.outcomes) >= {Outcome.APPLIED, Outcome.LATE}
    assert folded.memories.keys() == blobs.keys()
    for user, blob in blobs.items():
        have, want = folded.memories[user], center.codec.decode(blob)
        assert (have.sequence, have.fingerprints, have.last_time_ms) == (want.sequence, want.fingerprints, want.last_time_ms)
        worst = memory_excess(bundle.layout, have.state_F.reshape(1, -1), want.state_F.reshape(1, -1))
        assert max(each.max() for each in worst.values()) <= 1.0


def test_a_fold_with_the_oracle_tells_every_users_smallest_margin(exported: Get) -> None:
    bundle = exported("default").bundle
    events = [
        BehaviourEvent(user_id=f"u{n % 2}", item_id=100 + n, category_id=5, behaviour="click", time_ms=n) for n in range(10)
    ]
    oracle = NumpyStep.of(bundle)
    margins = fold(bundle.updater(oracle, Rules()), events).margins
    for user in ("u0", "u1"):
        state_BF, smallest = bundle.initial.state_F.reshape(1, -1), np.inf
        for event in events:
            if event.user_id == user:
                state_BF = oracle(state_BF, bundle.items.rows(np.array([event.item_id])), bundle.categories.rows(np.array([5])))
                smallest = min(smallest, oracle.margin_B[0])
        assert margins[user] == pytest.approx(smallest)
        assert 0 < smallest < 1


def test_both_graphs_read_their_embeddings_from_the_one_file(exported: Get) -> None:
    model, bundle = exported("default")
    tables = {"items": model.embedding.items.weight, "categories": model.embedding.categories.weight}
    places = {}
    for graph in ("step.onnx", "score.onnx"):
        proto = onnx.load(str(bundle.path / graph), load_external_data=False)
        external = [tensor for tensor in proto.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
        entries = [{entry.key: entry.value for entry in tensor.external_data} for tensor in external]
        assert {entry["location"] for entry in entries} == {EMBEDDINGS}
        places[graph] = sorted((int(entry["offset"]), int(entry["length"])) for entry in entries)
        assert not any(tensor.raw_data for tensor in external)
    cut = 4 * tables["items"].numel()
    assert places["step.onnx"] == places["score.onnx"] == [(0, cut), (cut, 4 * tables["categories"].numel())]
    assert (bundle.path / EMBEDDINGS).stat().st_size == cut + 4 * tables["categories"].numel()
    for mapped, table in zip(bundle.embeddings(), tables.values(), strict=True):
        assert np.array_equal(mapped, table.detach().numpy())


def test_changed_embeddings_reach_both_graphs_and_are_noticed_at_opening(exported: Get, tmp_path: Path) -> None:
    bundle = exported("official").bundle
    shutil.copytree(bundle.path, tmp_path / "copy")
    flat = np.fromfile(tmp_path / "copy" / EMBEDDINGS, "<f4")
    (-flat).tofile(tmp_path / "copy" / EMBEDDINGS)
    with pytest.raises(BundleError, match=rf"{EMBEDDINGS}: altered: expected SHA-256"):
        Bundle.open(tmp_path / "copy")
    unchecked = Bundle(tmp_path / "copy", bundle.manifest)
    states_BF, (items, categories) = states_after(bundle, 2), random_rows(bundle, 2)
    assert not np.allclose(OnnxStep(unchecked)(states_BF, items, categories), OnnxStep(bundle)(states_BF, items, categories))
    rows = (items.reshape(2, 1), categories.reshape(2, 1))
    assert not np.allclose(OnnxScore(unchecked)(states_BF, *rows), OnnxScore(bundle)(states_BF, *rows))


def test_the_manifest_tells_what_a_second_reader_needs(exported: Get) -> None:
    bundle = exported("default").bundle
    content = json.loads((bundle.path / "manifest.json").read_text())
    assert content["memory_tensors"] == [{"name": s.name, "shape": list(s.shape)} for s in bundle.layout.tensors]
    assert content["head_features"] == ["hour", "position"]
    assert content["graphs"]["score.onnx"]["inputs"] == ["state", "item", "category", "mask", "features"]
    assert (content["lineage"], content["parent"], content["training"]) == ("lineage-a", None, {"seed": 3})
    assert Variant.from_json(content["variant"]) == VARIANTS["default"][0]
    assert set(REQUIRED) <= set(content["files"])
    assert bundle.items.ids.tolist() == ITEM_IDS.tolist()
    for graph, names in content["graphs"].items():
        proto = onnx.load(str(bundle.path / graph), load_external_data=False)
        assert [each.name for each in proto.graph.input] == names["inputs"]
        assert [each.name for each in proto.graph.output] == names["outputs"]


def test_a_bundle_as_a_model_scores_what_the_model_scored(exported: Get) -> None:
    model, bundle = exported("default")
    again = model_of(bundle)
    assert model.state_dict().keys() == again.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_grown_vocabulary_keeps_old_rows_and_starts_new_ones_at_the_unknown_row(exported: Get) -> None:
    model, bundle = exported("official")
    grown = MimnCtr(
        VARIANTS["official"][0], item_rows=bundle.items.table_rows + 3, category_rows=bundle.categories.table_rows + 1
    )
    load_weights(grown, bundle)
    for name, new in (("items", 3), ("categories", 1)):
        old, table = getattr(model.embedding, name).weight, getattr(grown.embedding, name).weight
        assert torch.equal(table[: len(old)], old)
        assert torch.equal(table[len(old) :], old[1].expand(new, -1))
    state = MimnState.unpack(torch.from_numpy(states_after(bundle, 1)), model.layout)
    unknown, new, kind = (torch.tensor([[row]]) for row in (1, bundle.items.table_rows + 2, 3))
    with torch.no_grad():
        assert torch.equal(grown.score(state, new, kind), model.score(state, unknown, kind))


def test_the_weights_of_another_layout_are_refused_with_the_parameter(exported: Get) -> None:
    model = make_model(*VARIANTS["official"])
    with pytest.raises(BadInput, match=r"parameter step\.\S+ is \[.*\], the model has "):
        load_weights(model, exported("default").bundle)


def test_an_export_never_replaces_something_else(exported: Get, tmp_path: Path) -> None:
    (tmp_path / "chapter1.tex").write_text("mine")
    with pytest.raises(ForeignDirectory, match="found files of something else"):
        export(exported("ablated").model, tmp_path, [])
    assert [path.name for path in tmp_path.rglob("*")] == ["chapter1.tex"]


def test_a_manifest_reads_back_as_it_was_written(exported: Get) -> None:
    bundle = exported("paper").bundle
    assert Manifest.read(bundle.path / "manifest.json") == bundle.manifest
