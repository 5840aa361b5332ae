"""The bundle: a trained model as streaming and serving use it, in one directory.

    manifest.json      what it is: version, lineage, layout, variant, tensor names, digests, training data and metrics
    step.onnx          [B, F] states, [B] item and category rows -> [B, F] states
    score.onnx         [B, F] memories, [B, N] candidate rows, mask (and head features) -> [B, N] probabilities
    embeddings.bin     the item and category tables, float32, shared by both graphs
    vocabulary.npz     raw ids in row order
    initial.bin        the memory of a user without events, a blob
    weights.npz        the dense parameters by name, for the numpy oracle and for training on
    names.json         optional: what people call a category

Opening a bundle checks the digest of every file. `version` is the time it was exported, in milliseconds: later is newer.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uic import artefact
from uic.codec import Codec
from uic.errors import BundleError, UicError
from uic.memory import Float32, MemoryLayout, UserMemory
from uic.models import memory_from_json
from uic.small import Published
from uic.store.contract import StoreIdentity
from uic.update import Rules, StepFunction, Updater
from uic.vocabulary import Vocabulary

KIND = "bundle"
FORMAT = 1
MANIFEST = "manifest.json"
REQUIRED = ("step.onnx", "score.onnx", "embeddings.bin", "vocabulary.npz", "initial.bin", "weights.npz")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The facts of a bundle. `files` maps a name to its SHA-256 and size in bytes."""

    version: int
    layout: str
    lineage: str
    parent: int | None
    training_cut_off_ms: int
    variant: dict[str, Any]
    ring_size: int
    embedding: int
    behaviours: list[str]
    head_features: list[str]
    memory_tensors: list[dict[str, Any]]
    graphs: dict[str, dict[str, list[str]]]
    training: dict[str, Any]
    files: dict[str, dict[str, Any]]
    format: int = FORMAT

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Read manifest.json; raises BundleError with what is wrong in it."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BundleError(f"{path}: the manifest cannot be read: {error}") from error
        return cls.parse(data, path)

    @classmethod
    def parse(cls, data: bytes, where: object) -> "Manifest":
        """The manifest in the bytes of its file; `where` is what an error names."""
        try:
            content = json.loads(data)
        except ValueError as error:
            raise BundleError(f"{where}: the manifest cannot be read: {error}") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            found = content.get("format") if isinstance(content, dict) else type(content).__name__
            raise BundleError(f"{where}: this release reads bundle format {FORMAT}, got {found}")
        names = {field.name for field in dataclasses.fields(cls)}
        if set(content) != names:
            raise BundleError(f"{where}: fields missing or unknown: {', '.join(sorted(set(content) ^ names))}")
        return cls(**content)


class Bundle:
    """An opened and checked bundle."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self.layout = MemoryLayout(memory_from_json(manifest.variant), manifest.ring_size)
        if self.layout.layout_name != manifest.layout:
            raise BundleError(
                f"{path}: the manifest says layout {manifest.layout}, its variant makes {self.layout.layout_name}"
            )
        self.codec = Codec(self.layout)
        self.published = Published(self.codec)
        with np.load(path / "vocabulary.npz", allow_pickle=False) as ids:
            self.items = Vocabulary(ids["item_ids"])
            self.categories = Vocabulary(ids["category_ids"])
        try:
            self.initial: UserMemory = self.codec.decode((path / "initial.bin").read_bytes())
        except UicError as error:
            raise BundleError(f"{path / 'initial.bin'}: {error}") from error

    @classmethod
    def open(cls, path: Path) -> "Bundle":
        """Open a bundle; raises BundleError if a file is missing or differs from its digest in the manifest."""
        if not path.is_dir():
            raise BundleError(f"{path}: expected a bundle directory, but there is none; `uic export` makes one")
        found = artefact.kind_of(path)
        if found != KIND:
            raise BundleError(f"{path}: expected a bundle, found {found or 'a folder without ' + artefact.MARKER}")
        manifest = Manifest.read(path / MANIFEST)
        for name in REQUIRED:
            if name not in manifest.files:
                raise BundleError(f"{path}: the manifest lists no {name}")
        for name, entry in manifest.files.items():
            check_file(path / name, entry)
        return cls(path, manifest)

    @property
    def identity(self) -> StoreIdentity:
        """Which stores and saved states this bundle may continue."""
        return StoreIdentity(layout=self.manifest.layout, lineage=self.manifest.lineage)

    @property
    def accepted(self) -> frozenset[str]:
        """The behaviours that training knew and the stream applies."""
        return frozenset(self.manifest.behaviours)

    def weights(self) -> dict[str, Float32]:
        """The dense parameters by their name in training."""
        with np.load(self.path / "weights.npz", allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def embeddings(self) -> tuple[Float32, Float32]:
        """The item and category tables, [rows, E], mapped from the file."""
        flat: NDArray[np.float32] = np.memmap(self.path / "embeddings.bin", dtype="<f4", mode="r")
        width = self.manifest.embedding
        cut = self.items.table_rows * width
        return flat[:cut].reshape(-1, width), flat[cut:].reshape(-1, width)

    def category_names(self) -> Mapping[int, str]:
        """What people call the categories, as far as the bundle knows."""
        path = self.path / "names.json"
        if not path.exists():
            return {}
        return {int(raw): name for raw, name in json.loads(path.read_text()).get("categories", {}).items()}

    def updater(self, step: StepFunction, rules: Rules, *, generation: int = 0) -> Updater:
        """The pure transition of this bundle, with the given runtime of its step; its memories are of this generation."""
        return Updater(
            codec=self.codec,
            step=step,
            initial=self.initial,
            items=self.items,
            categories=self.categories,
            bundle_version=self.manifest.version,
            rules=rules,
            generation=generation,
        )


def digest(path: Path) -> dict[str, Any]:
    """SHA-256 and size of a file, as the manifest lists them."""
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}


def check_file(path: Path, entry: dict[str, Any]) -> None:
    """Raise BundleError unless the file is there with the size and digest that the manifest gives it."""
    if not path.is_file():
        raise BundleError(f"{path}: missing; the manifest lists it with {entry.get('bytes')} bytes")
    size = path.stat().st_size
    if size != entry.get("bytes"):
        raise BundleError(f"{path}: altered: expected {entry.get('bytes')} bytes, got {size}")
    found = digest(path)["sha256"]
    if found != entry.get("sha256"):
        raise BundleError(f"{path}: altered: expected SHA-256 {str(entry.get('sha256'))[:16]}..., got {found[:16]}...")
