"""A run: the directory in which one training lives. All in it appears by renames, so a kill at any moment leaves it whole.

artefact.json     kind "run"
run.json          what was asked for: variant, training settings, dataset, lineage
vocabulary.npz    raw ids in row order, those of the parent bundle first
last.pt           the state after the last whole epoch, optimiser included: training goes on from here
best.pt           the weights of the epoch with the best validation AUC
metrics.json      every epoch, and `finished` when training ended
tensorboard/      the same for TensorBoard
utilization.npz   shares of the slots at the validation places of the best epoch
"""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.data.vocabulary import Vocabularies
from model.nn.ctr import CtrModel, MemoryCtr
from model.nn.models import make
from model.training.config import TrainConfig
from model.training.weights import load_weights
from uic import artefact
from uic.bundle import Bundle
from uic.errors import BadInput
from uic.models import memory_of, variant_from_json

KIND = "run"


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a run trains: written before the first epoch, compared when it is started again.

    lineage    names the memory space: new for a fresh start, the parent's when training goes on from a bundle
    parent     version of the bundle trained on from
    since_ms, until_ms   only samples in [since, until) are trained on; None: all of the split
    """

    variant: dict[str, Any]
    train: dict[str, Any]
    dataset: dict[str, Any]
    features: list[str]
    lineage: str
    parent: int | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    @property
    def config(self) -> TrainConfig:
        return TrainConfig.from_json(self.train)

    def differences(self, other: "RunPlan") -> list[str]:
        """What another plan asks for that this run does not train; other epochs and a lineage not yet fixed are the same."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        for of, plan in ((self, mine), (other, theirs)):
            # A run of an older release knows fewer settings: it was trained with what they are by default.
            plan["train"] = of.config.to_json()
            plan["train"].pop("epochs")
            plan["train"].pop("threads")
            plan["dataset"].pop("path")
            if other.parent is None:
                plan.pop("lineage")
        flat_mine, flat_theirs = _flat(mine), _flat(theirs)
        keys = sorted({*flat_mine, *flat_theirs})
        return [
            f"{key}: the run has {flat_mine.get(key)!r}, asked is {flat_theirs.get(key)!r}"
            for key in keys
            if flat_mine.get(key) != flat_theirs.get(key)
        ]


@dataclass(frozen=True)
class Run:
    """A run directory."""

    path: Path
    plan: RunPlan
    vocabularies: Vocabularies

    @classmethod
    def create(
        cls, path: Path, plan: RunPlan, vocabularies: Vocabularies, *, parent: Bundle | None = None, replace: bool = False
    ) -> "Run":
        """Make the directory of a run; with a parent bundle its weights are what training starts from."""
        with artefact.new_directory(path, KIND, replace=replace) as partial:
            (partial / "run.json").write_text(json.dumps(dataclasses.asdict(plan), indent=2) + "\n")
            vocabularies.save(partial / "vocabulary.npz")
            if parent is not None:
                run = cls(partial, plan, vocabularies)
                model = run.model()
                load_weights(model, parent)
                run.save("parent.pt", {"model": model.state_dict()})
        return cls(path, plan, vocabularies)

    @classmethod
    def open(cls, path: Path) -> "Run":
        artefact.check_is(path, KIND)
        try:
            plan = RunPlan(**json.loads((path / "run.json").read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise BadInput(f"{path / 'run.json'}: the plan of the run cannot be read: {error}") from error
        return cls(path, plan, Vocabularies.load(path / "vocabulary.npz"))

    def with_epochs(self, epochs: int) -> "Run":
        """The same run with another number of epochs: what may change between two starts."""
        return dataclasses.replace(self, plan=dataclasses.replace(self.plan, train={**self.plan.train, "epochs": epochs}))

    def utilization_shares(self) -> NDArray[np.float32]:
        """Sorted shares of the slots, [P, M], of the memories at the validation places of the best epoch."""
        if self.plan.variant.get("model", "mimn") != "mimn":
            raise BadInput(f"{self.path}: a run of {self.plan.variant['model']}, whose slots are not balanced: only mimn's are")
        try:
            with np.load(self.path / "utilization.npz", allow_pickle=False) as arrays:
                shares: NDArray[np.float32] = arrays["shares"]
        except FileNotFoundError:
            raise BadInput(f"{self.path}: no epoch has been trained yet; `uic train` goes on with it") from None
        return shares

    def write_utilization_shares(self, shares_PM: NDArray[np.float32]) -> None:
        """Replace the shares in one rename."""
        partial = self.path / f".utilization.{os.getpid()}.npz"
        np.savez(partial, shares=shares_PM)
        partial.replace(self.path / "utilization.npz")

    @property
    def metrics(self) -> dict[str, Any]:
        path = self.path / "metrics.json"
        return json.loads(path.read_text()) if path.exists() else {"epochs": [], "finished": False}

    def write_metrics(self, content: dict[str, Any]) -> None:
        artefact.write_atomically(self.path / "metrics.json", json.dumps(content, indent=2) + "\n")

    def model(self) -> CtrModel:
        """The untrained model of this run."""
        return make(
            variant_from_json(self.plan.variant),
            item_rows=self.vocabularies.items.table_rows,
            category_rows=self.vocabularies.categories.table_rows,
            head_features=len(self.plan.features),
            auxiliary=self.plan.config.auxiliary_weight > 0,
        )

    def best_model(self) -> CtrModel:
        """The model of the best epoch so far."""
        saved = self.load("best.pt")
        if saved is None:
            raise BadInput(f"{self.path}: no epoch has been trained yet; `uic train` goes on with it")
        model = self.model()
        model.load_state_dict(saved["model"])
        return model

    def best_memory(self) -> MemoryCtr[Any]:
        """The same, as a model with a memory; raises BadInput for one that needs the raw events."""
        memory_of(variant_from_json(self.plan.variant))
        model = self.best_model()
        assert isinstance(model, MemoryCtr)
        return model

    def save(self, name: str, content: dict[str, Any]) -> None:
        partial = self.path / f".{name}.{os.getpid()}"
        torch.save(content, partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(self.path / name)

    def load(self, name: str) -> dict[str, Any] | None:
        """A saved state, None if there is none. Tensors and plain values only: nothing in it is executed."""
        path = self.path / name
        if not path.exists():
            return None
        try:
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch answers damaged bytes with errors of zipfile, pickle and its own
            raise BadInput(f"{path}: the saved state cannot be read: {error}") from error
        return content


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat
