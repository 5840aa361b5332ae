"""Scores of a model on the places of a split, and controls that tell what the history is worth."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.nn.ctr import CtrModel, probability
from model.training.histories import Histories, Places, user_batch
from model.training.metrics import Metrics, measure
from model.training.reading import readings, score_places

_USERS_AT_ONCE = 256
_CHUNK = 64
_PLACES_AT_ONCE = 4096


@dataclass(frozen=True)
class Scored:
    """Probabilities of a split in the order of its places, and the utilization of the memories read, [P, M].

    M is 0 for a model whose slots are not balanced, and for places scored without history.
    """

    places: Places
    probability_PN: NDArray[np.float32]
    utilization_PM: NDArray[np.float32]

    def measure(self, name: str = "") -> Metrics:
        mask = self.places.mask_PN
        user_PN = np.broadcast_to(self.places.user_P[:, None], mask.shape)
        return measure(user_PN[mask], self.places.label_PN[mask], self.probability_PN[mask], name)


@torch.no_grad()
def score(
    model: CtrModel, histories: Histories, places: Places, *, without_history: bool = False, latest: int | None = None
) -> Scored:
    """Score every place from its user's history up to exactly its position, from its `latest` events, or from no history."""
    if latest is not None and not without_history:
        own, moved = histories.latest(places, latest)
        # Measured as the users they are, as in controls.py.
        return dataclasses.replace(score(model, own, moved), places=places)
    model.eval()
    device = next(model.parameters()).device
    nothing = np.zeros((len(places), 0), np.float32)
    if without_history:
        parts = np.split(np.arange(len(places)), range(_PLACES_AT_ONCE, len(places), _PLACES_AT_ONCE))
        blank = [_probabilities(model, model.blank(len(rows)), places.take(rows)) for rows in parts if len(rows)]
        return Scored(places, np.concatenate(blank) if blank else np.zeros(places.mask_PN.shape, np.float32), nothing)
    users, counts = np.unique(places.user_P, return_counts=True)
    # Longest histories first: users of like length share a batch.
    users = users[np.argsort(-places.position_P[np.cumsum(counts) - 1], kind="stable")] if len(users) else users
    chunks: list[tuple[Places, NDArray[np.float32], NDArray[np.float32]]] = []
    for first in range(0, len(users), _USERS_AT_ONCE):
        batch = user_batch(histories, places, users[first : first + _USERS_AT_ONCE], str(device))
        for part, seen, _ in readings(model, batch, _CHUNK):
            written_PM = model.utilization(seen)
            kept = np.zeros((len(part), 0), np.float32) if written_PM is None else written_PM.cpu().numpy()
            chunks.append((part, _probabilities(model, seen, part), kept))
    if not chunks:
        return Scored(places, np.zeros(places.mask_PN.shape, np.float32), nothing)
    met_user = np.concatenate([part.user_P for part, _, _ in chunks])
    met_position = np.concatenate([part.position_P for part, _, _ in chunks])
    order = np.lexsort((met_position, met_user))
    return Scored(
        places,
        np.concatenate([p for _, p, _ in chunks])[order],
        np.concatenate([u for _, _, u in chunks])[order],
    )


def _probabilities(model: CtrModel, seen: Any, places: Places) -> NDArray[np.float32]:
    scored: NDArray[np.float32] = probability(score_places(model, seen, places)).cpu().numpy()
    return scored
