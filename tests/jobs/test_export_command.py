"""From a run to a bundle: the best epoch, its facts, and nothing half-written."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small
import torch
from command import Uic

from model.data.dataset import Dataset
from model.training.config import TrainConfig
from model.training.weights import model_of
from onnx_export.bundle import export_run
from uic import artefact
from uic.bundle import KIND, Bundle
from uic.errors import BadInput, ForeignDirectory


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_bundle_is_the_runs_best_model_bit_for_bit(world: small.World) -> None:
    best, back = world.run.best_model().state_dict(), model_of(Bundle.open(world.bundle.path)).state_dict()
    assert best.keys() == back.keys()
    for name, value in best.items():
        assert torch.equal(value, back[name]), name
    last = world.run.load("last.pt")
    assert last is not None
    assert world.run.metrics["best_epoch"] != len(world.run.metrics["epochs"])
    assert not torch.equal(last["model"]["embedding.items.weight"], back["embedding.items.weight"])


def test_the_manifest_says_where_a_bundle_comes_from(world: small.World) -> None:
    manifest, plan = world.bundle.manifest, world.run.plan
    assert (manifest.lineage, manifest.parent) == (plan.lineage, None)
    assert manifest.behaviours == ["buy", "click"]
    assert manifest.training_cut_off_ms == world.data.stats["times"]["valid_from_ms"]
    assert manifest.variant == small.VARIANT.to_json()
    assert manifest.head_features == []
    training = manifest.training
    assert training["targets"] == "all"
    assert TrainConfig.from_json(training["config"]) == plan.config
    assert training["dataset"]["digest"] == world.data.digest
    assert training["best"]["epoch"] == world.run.metrics["best_epoch"]
    assert training["best"]["valid"]["auc"] == world.run.metrics["best_auc"]
    np.testing.assert_array_equal(world.bundle.items.ids, world.data.vocabularies.items.ids)
    assert world.bundle.category_names() == world.data.names().categories


def test_the_initial_memory_is_the_models(world: small.World) -> None:
    with torch.no_grad():
        initial_F = world.run.best_model().initial_state(1).pack()[0].numpy()
    np.testing.assert_array_equal(world.bundle.initial.state_F, initial_F)
    assert (world.bundle.initial.sequence, world.bundle.initial.last_time_ms) == (0, None)


def test_the_command_exports_checks_parity_and_replaces_only_when_told(uic: Uic, world: small.World, tmp_path: Path) -> None:
    """Also a child of the first bundle: its manifest names the parent, and the old memories fit it."""
    later = small.dataset(tmp_path / "later", users=6, rows=120, seed=3)
    made = small.trained(tmp_path / "run", later, init_from=world.bundle.path, config={"epochs": 1})
    out = tmp_path / "bundle"
    ended = uic("export", made.path, "--out", out, "--parity-events", 20)
    assert ended.code == 0, ended.out + ended.err
    assert "parity holds over 20 events" in ended.out
    child = Bundle.open(out)
    assert (child.manifest.lineage, child.manifest.parent) == (world.bundle.manifest.lineage, world.bundle.manifest.version)
    assert child.identity == world.bundle.identity
    assert child.items.begins_with(world.bundle.items)

    before = files(out)
    refused = uic("export", made.path, "--out", out)
    assert refused.code == 2
    assert "there is a bundle already; pass --overwrite" in refused.err
    assert files(out) == before


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
def test_a_folder_of_something_else_is_left_as_it_is(
    uic: Uic, world: small.World, tmp_path: Path, overwrite: tuple[str, ...]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    ended = uic("export", world.run.path, "--out", tmp_path / "mine", *overwrite)
    assert ended.code == 2
    assert ended.err.startswith("ForeignDirectory: ")
    assert files(tmp_path / "mine") == {"thesis.tex": b"years of work"}
    with pytest.raises(ForeignDirectory):
        export_run(world.run, tmp_path / "mine", replace=bool(overwrite))


def test_a_run_without_an_epoch_is_not_exported(world: small.World, tmp_path: Path) -> None:
    made = small.run(tmp_path / "run", Dataset.open(world.data.path))
    with pytest.raises(BadInput, match="no epoch has been trained yet"):
        export_run(made, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_model_of_the_latest_events_alone_is_no_memorys(world: small.World, tmp_path: Path) -> None:
    made = small.trained(tmp_path / "run", world.data, config={"epochs": 1, "history_events": 5})
    with pytest.raises(BadInput, match="trained on the latest 5 events before each sample; a memory never forgets"):
        export_run(made, tmp_path / "bundle")


def test_a_kill_while_exporting_leaves_the_old_bundle_as_it_was(world: small.World, tmp_path: Path) -> None:
    out = Path(shutil.copytree(world.bundle.path, tmp_path / "bundle"))
    before = files(out)
    words = ["export", str(world.run.path), "--out", str(out), "--overwrite"]
    exporting = subprocess.Popen([sys.executable, "-m", "jobs.cli", *words], stdout=subprocess.DEVNULL)
    written: list[str] = []
    while exporting.poll() is None:
        try:
            exporting.wait(timeout=0.002)
        except subprocess.TimeoutExpired:
            written = [path.name for path in tmp_path.glob(".bundle.partial-*/*")]
            if "score.onnx" in written:
                exporting.kill()
    assert exporting.returncode == -9
    assert "score.onnx" in written
    assert artefact.MARKER not in written
    assert files(out) == before

    # What the kill has left is swept up by the next writer, under whatever number it ran.
    with artefact.new_directory(out, KIND, replace=True):
        assert len(list(tmp_path.glob(".bundle.*"))) == 1
    assert list(tmp_path.glob(".bundle.*")) == []
