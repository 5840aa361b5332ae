"""How a model is trained: everything that the bundle's manifest records beside the data and the variant."""

import dataclasses
import datetime
from dataclasses import dataclass
from typing import Any, Literal

from model.nn.losses import CtrLoss, Regulariser
from uic.errors import BadInput

_OFFICIAL = {"loss": "half_softmax", "regulariser": "raw", "regulariser_weight": 1e-3, "regulariser_reach": "shift"}
PRESETS: dict[str, dict[str, Any]] = {"official": _OFFICIAL, "paper": {"regulariser": "raw"}, "default": {}}
"""What a preset of uic/variant.py means for training; the file, the environment and the command line are stronger."""


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
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        for day in self.exclude_days:
            try:
                datetime.date.fromisoformat(day)
            except ValueError:
                raise BadInput(f"train.exclude_days: expected YYYY-MM-DD, got {day!r}") from None
        for name in ("epochs", "batch_users", "chunk", "samples_per_step", "patience"):
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

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "TrainConfig":
        return cls(**{**content, "exclude_days": tuple(content["exclude_days"])})
