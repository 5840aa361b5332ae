"""Opening a bundle (uic/bundle.py): every file that is missing or altered is named."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import SMALL

from uic import artefact
from uic.bundle import FORMAT, KIND, MANIFEST, REQUIRED, Bundle, Manifest, digest
from uic.codec import Codec
from uic.errors import BundleError, UicError
from uic.memory import MemoryLayout, UserMemory
from uic.runtime import OnnxScore, OnnxStep
from uic.variant import Variant

WIDTH = 2


def write(path: Path, **changes: Any) -> Path:
    """A bundle whose graphs are none, with fields of its manifest changed."""
    layout = MemoryLayout(Variant(**SMALL))
    state_F = np.arange(layout.size_F, dtype=np.float32)
    with artefact.new_directory(path, KIND) as folder:
        (folder / "step.onnx").write_bytes(b"no graph")
        (folder / "score.onnx").write_bytes(b"no graph")
        np.arange(WIDTH * (5 + 4), dtype="<f4").tofile(folder / "embeddings.bin")
        np.savez(folder / "vocabulary.npz", item_ids=[30, 10, 20], category_ids=[2, 1])
        np.savez(folder / "weights.npz", **{"step.key_memory": np.ones((3, 2), np.float32)})
        (folder / "initial.bin").write_bytes(Codec(layout).encode(UserMemory(state_F=state_F, fingerprints=bytes(256))))
        (folder / "names.json").write_text(json.dumps({"categories": {"2": "Comedy"}}))
        manifest = Manifest(
            version=123,
            layout=layout.layout_name,
            lineage="lineage-a",
            parent=None,
            training_cut_off_ms=9,
            variant=Variant(**SMALL).to_json(),
            ring_size=16,
            embedding=WIDTH,
            behaviours=["click", "buy"],
            head_features=[],
            memory_tensors=[{"name": spec.name, "shape": list(spec.shape)} for spec in layout.tensors],
            graphs={name: {"inputs": [], "outputs": []} for name in ("step.onnx", "score.onnx")},
            training={},
            files={name: digest(folder / name) for name in (*REQUIRED, "names.json")},
        )
        (folder / MANIFEST).write_text(json.dumps({**dataclasses.asdict(manifest), **changes}))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "bundle")


def test_an_opened_bundle_holds_what_was_written(path: Path) -> None:
    bundle = Bundle.open(path)
    assert bundle.identity == (MemoryLayout(Variant(**SMALL)).layout_name, "lineage-a")
    assert bundle.accepted == {"click", "buy"}
    assert bundle.items.rows(np.array([10, 20, 30, 40])).tolist() == [3, 4, 2, 1]
    assert bundle.categories.rows(np.array([1, 2, 3])).tolist() == [3, 2, 1]
    assert bundle.initial.state_F.tolist() == list(range(bundle.layout.size_F))
    items, categories = bundle.embeddings()
    assert items.tolist() == np.arange(10).reshape(5, 2).tolist()
    assert categories.tolist() == np.arange(10, 18).reshape(4, 2).tolist()
    assert bundle.weights()["step.key_memory"].tolist() == np.ones((3, 2)).tolist()
    assert bundle.category_names() == {2: "Comedy"}


def test_a_manifest_survives_writing_and_reading(path: Path) -> None:
    manifest = Manifest.read(path / MANIFEST)
    (path / MANIFEST).write_text(manifest.to_json())
    assert Manifest.read(path / MANIFEST) == manifest


@pytest.mark.parametrize("name", [*REQUIRED, "names.json"])
def test_a_missing_altered_or_resized_file_is_named(path: Path, name: str) -> None:
    data = (path / name).read_bytes()
    size = len(data)
    for content, message in (
        (data + b"\0", f"{name}: altered: expected {size} bytes, got {size + 1}"),
        (data[:-1], f"{name}: altered: expected {size} bytes, got {size - 1}"),
        (bytes([data[0] ^ 1]) + data[1:], f"{name}: altered: expected SHA-256 [0-9a-f]{{16}}..., got [0-9a-f]{{16}}"),
        (data[:-1] + bytes([data[-1] ^ 128]), f"{name}: altered: expected SHA-256"),
        (None, f"{name}: missing; the manifest lists it with {size} bytes"),
    ):
        (path / name).unlink()
        if content is not None:
            (path / name).write_bytes(content)
        with pytest.raises(BundleError, match=message):
            Bundle.open(path)
    (path / name).write_bytes(data)
    Bundle.open(path)


@pytest.mark.parametrize("name", REQUIRED)
def test_a_file_that_the_manifest_does_not_list_is_named(path: Path, tmp_path: Path, name: str) -> None:
    files = {key: value for key, value in Manifest.read(path / MANIFEST).files.items() if key != name}
    with pytest.raises(BundleError, match=f"the manifest lists no {name}"):
        Bundle.open(write(tmp_path / "other", files=files))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the manifest cannot be read"),
        (b"{", "the manifest cannot be read"),
        (b"\xff", "the manifest cannot be read"),
        (b"[]", f"reads bundle format {FORMAT}, got list"),
        (b"{}", f"reads bundle format {FORMAT}, got None"),
        (b'{"format": 2}', f"reads bundle format {FORMAT}, got 2"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused(path: Path, content: bytes | None, message: str) -> None:
    (path / MANIFEST).unlink()
    if content is not None:
        (path / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match=message):
        Bundle.open(path)


def test_fields_that_a_manifest_lacks_or_that_nobody_knows_are_named(path: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"fields missing or unknown: colour$"):
        Bundle.open(write(tmp_path / "more", colour="red"))
    content = json.loads((path / MANIFEST).read_text())
    del content["lineage"], content["parent"]
    (path / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(BundleError, match=r"fields missing or unknown: lineage, parent$"):
        Bundle.open(path)


def test_a_layout_that_the_variant_does_not_make_is_refused_with_both_ids(tmp_path: Path) -> None:
    expected = MemoryLayout(Variant(**SMALL)).layout_name
    with pytest.raises(BundleError, match=f"says layout 00000000000000ff, its variant makes {expected}"):
        Bundle.open(write(tmp_path / "bundle", layout="00000000000000ff"))


def test_a_switch_of_a_newer_release_is_named(tmp_path: Path) -> None:
    with pytest.raises(UicError, match="unknown switches forgetting"):
        Bundle.open(write(tmp_path / "bundle", variant={**Variant(**SMALL).to_json(), "forgetting": 1}))


def test_an_initial_memory_of_another_layout_is_named(path: Path) -> None:
    layout = MemoryLayout(Variant())
    (path / "initial.bin").write_bytes(
        Codec(layout).encode(UserMemory(state_F=np.zeros(layout.size_F, np.float32), fingerprints=bytes(256)))
    )
    content = json.loads((path / MANIFEST).read_text())
    content["files"]["initial.bin"] = digest(path / "initial.bin")
    (path / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(BundleError, match=r"initial\.bin: memory: expected layout"):
        Bundle.open(path)


def test_a_folder_of_another_kind_is_no_bundle(path: Path, tmp_path: Path) -> None:
    artefact.mark(path, "dataset")
    with pytest.raises(BundleError, match="expected a bundle, found dataset"):
        Bundle.open(path)
    (path / artefact.MARKER).unlink()
    with pytest.raises(BundleError, match=r"found a folder without artefact\.json"):
        Bundle.open(path)
    with pytest.raises(BundleError, match="expected a bundle directory, but there is none; `uic export` makes one"):
        Bundle.open(tmp_path / "nowhere")


def test_a_bundle_can_be_moved_and_copied(path: Path, tmp_path: Path) -> None:
    shutil.copytree(path, tmp_path / "copy")
    path.rename(tmp_path / "moved")
    assert Bundle.open(tmp_path / "copy").manifest == Bundle.open(tmp_path / "moved").manifest


@pytest.mark.parametrize(("runtime", "name"), [(OnnxStep, "step.onnx"), (OnnxScore, "score.onnx")])
def test_a_graph_that_the_runtime_cannot_load_is_named(path: Path, runtime: type[OnnxStep], name: str) -> None:
    with pytest.raises(BundleError, match=f"{name}: ONNX Runtime cannot load it"):
        runtime(Bundle.open(path))
