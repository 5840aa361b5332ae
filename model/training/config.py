"""How a model is trained: everything that the bundle's manifest records beside the data and the variant."""

import dataclasses
import datetime
from dataclasses import dataclass
from typing import Any, Literal

from model.nn.losses import CtrLoss, Regulariser
from model.training.device import Hardware, Precision, check_device, hardware, resolved
from uic.errors import BadInput

_OFFICIAL = {"loss": "half_softmax", "regulariser": "raw", "regulariser_weight": 1e-3, "regulariser_reach": "shift"}
PRESETS: dict[str, dict[str, Any]] = {"official": _OFFICIAL, "paper": {"regulariser": "raw"}, "default": {}}
"""What a preset of uic/variant.py means for training; the file, the environment and the command line are stronger."""

_BEFORE = (("precision", "float32"), ("large_table_rows", 500_000))
"""Settings that are younger than runs which are kept, and their value under which a run is what it was before them."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Training settings, section `train` of uic.yaml.

    targets            `all`: every sample of a user is read from one scan of the history; `last`: only the user's last one;
                       a number: at most so many places a user, spread evenly over those there are, the last among them
    history            `full`, or `none`: every memory is the initial one (the candidate-only control)
    history_events     how many events before each place are seen, the latest; None: all of them. Each place is then scanned
                       by itself, which costs more
    batch_users        users scanned side by side
    chunk              events between two cuts of back-propagation through time
    samples_per_step   the optimiser steps when so many samples have been seen since its last step
    learning_rate      Adam's; multiplied by `decay` after each epoch
    weight_decay       decoupled (AdamW), on everything but biases and embeddings' padding
    regulariser        utilisation loss: `share`, `raw` (the authors') or `none`, times `regulariser_weight`
    regulariser_reach  what its gradient moves: `shift` and power (the authors'), which spread writes no further than to both
                       neighbours of one slot; or the `content` addressing too, which spreads every write over all slots
    auxiliary_weight   of the auxiliary loss of mimn and dien: what is known after an event tells the next from a drawn one
    clip_norm          the gradient is cut to this norm
    patience           epochs without a better validation AUC before training stops
    exclude_days       days (YYYY-MM-DD, UTC) whose samples are not trained on; their events stay in the histories
    large_table_rows   embedding tables of so many rows or more are trained by the rows that a step has read: its cost no
                       longer depends on the table. Rows that are read seldom then move less far (model/training/optimiser.py)
    device             `auto`: CUDA where PyTorch finds a GPU, else the CPU; or cpu, cuda, cuda:1 ...
    precision          `auto`: bfloat16 on a GPU that has it, float16 on another, float32 on the CPU; what stays float32 in
                       either case is said in model/training/device.py
    threads            CPU threads of torch; the operations are small, so a second thread waits more than it works
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  # read by pydantic, never changed

    targets: Literal["all", "last"] | int = "all"
    history: Literal["full", "none"] = "full"
    history_events: int | None = None
    epochs: int = 12
    batch_users: int = 64
    chunk: int = 16
    samples_per_step: int = 256
    learning_rate: float = 1e-3
    decay: float = 1.0
    weight_decay: float = 1e-6
    loss: CtrLoss = "bce"
    regulariser: Regulariser = "share"
    regulariser_weight: float = 0.1
    regulariser_reach: Literal["shift", "content"] = "shift"
    auxiliary_weight: float = 0.0
    clip_norm: float = 5.0
    patience: int = 3
    exclude_days: tuple[str, ...] = ()
    seed: int = 7
    large_table_rows: int = 500_000
    device: str = "auto"
    precision: Precision = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        check_device(self.device)
        for day in self.exclude_days:
            try:
                datetime.date.fromisoformat(day)
            except ValueError:
                raise BadInput(f"train.exclude_days: expected YYYY-MM-DD, got {day!r}") from None
        for name in ("epochs", "batch_users", "chunk", "samples_per_step", "patience", "large_table_rows"):
            if getattr(self, name) < 1:
                raise BadInput(f"train.{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("targets", "history_events"):
            if isinstance(getattr(self, name), int) and getattr(self, name) < 1:
                raise BadInput(f"train.{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "decay", "clip_norm"):
            if not getattr(self, name) > 0:
                raise BadInput(f"train.{name}: expected more than 0, got {getattr(self, name)}")
        for name in ("weight_decay", "regulariser_weight", "auxiliary_weight"):
            if not getattr(self, name) >= 0:
                raise BadInput(f"train.{name}: expected 0 or more, got {getattr(self, name)}")

    @property
    def most_targets(self) -> int | None:
        """At most so many places of a user are trained on; None: all."""
        if isinstance(self.targets, int):
            return self.targets
        return 1 if self.targets == "last" else None

    def resolved(self, found: Hardware | None = None) -> "TrainConfig":
        """What these settings mean on this machine, or on one with such hardware: `auto` is nowhere in them any more.

        Raises EnvironmentProblem for CUDA where there is none.
        """
        device, precision = resolved(self.device, self.precision, hardware() if found is None else found)
        return dataclasses.replace(self, device=device, precision=precision)

    def decisive(self) -> dict[str, Any]:
        """What decides how a run ends, which is what names it: not `threads`, nor what a younger setting leaves as it was."""
        content = self.resolved().to_json()
        return {name: value for name, value in content.items() if name != "threads" and (name, value) not in _BEFORE}

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "TrainConfig":
        """The settings of a run; one of an older release was trained in float32."""
        return cls(**{"precision": "float32", **content, "exclude_days": tuple(content["exclude_days"])})
