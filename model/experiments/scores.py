"""What one run of an experiment scored: figures for the table, and every probability on the test for paired comparisons.

scores.npz   in the run's folder: sample (row of the dataset's samples), user (code), label, probability
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.data.dataset import Dataset
from model.training.controls import sampled, shuffled_order
from model.training.evaluate import Scored, score
from model.training.histories import Histories
from model.training.run import Run

NAME = "scores.npz"
SHUFFLED_PLACES = 2000


class Tested(NamedTuple):
    """The test's samples as one run scored them, sorted by user and position."""

    sample: NDArray[np.int64]
    user: NDArray[np.int64]
    label: NDArray[np.float32]
    probability: NDArray[np.float32]

    @classmethod
    def of(cls, scored: Scored) -> "Tested":
        places = scored.places
        mask = places.mask_PN
        user_PN = np.broadcast_to(places.user_P[:, None], mask.shape)
        return cls(places.sample_PN[mask], user_PN[mask], places.label_PN[mask], scored.probability_PN[mask])

    @classmethod
    def load(cls, run: Path) -> "Tested":
        with np.load(run / NAME, allow_pickle=False) as arrays:
            return cls(*(arrays[name] for name in cls._fields))

    def save(self, run: Path) -> None:
        partial = run / f".scores.{os.getpid()}.npz"
        np.savez(partial, **self._asdict())
        partial.replace(run / NAME)


def score_test(run: Run, dataset: Dataset, chosen: NDArray[np.bool_]) -> tuple[Tested, dict[str, Any]]:
    """Score the chosen samples with the epoch that validation chose; some places, the same for all, shuffled too."""
    model, config = run.best_model(), run.plan.config
    histories = Histories.of(dataset, *run.vocabularies)
    places = histories.places(chosen, run.plan.features)
    without, latest = config.history == "none", config.history_events
    scored = score(model, histories, places, without_history=without, latest=latest)
    figures: dict[str, Any] = {"test": scored.measure("test").to_json()}
    if not without:
        few = sampled(places, SHUFFLED_PLACES)
        in_order = score(model, histories, few, latest=latest).measure("test")
        own, moved = (histories, few) if latest is None else histories.latest(few, latest)
        shuffled = Scored(few, shuffled_order(model, own, moved).probability_PN, np.zeros((len(few), 0), np.float32))
        figures["shuffled"] = {
            "places": len(few), "auc": shuffled.measure("test").auc, "auc_in_order": in_order.auc,
        }  # fmt: skip
    return Tested.of(scored), figures
