"""Scores of a model on the places of a split, and controls that tell what the history is worth."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from model.nn.ctr import MimnCtr, probability
from model.nn.mimn import MimnState
from model.training.histories import Histories, Places, user_batch
from model.training.metrics import Metrics, measure
from model.training.scan import scan_places, score_places

_USERS_AT_ONCE = 256
_CHUNK = 64
_PLACES_AT_ONCE = 4096


@dataclass(frozen=True)
class Scored:
    """Probabilities of a split in the order of its places, and the utilization of the memories read, [P, M]."""

    places: Places
    probability_PN: NDArray[np.float32]
    utilization_PM: NDArray[np.float32]

    def measure(self, name: str = "") -> Metrics:
        mask = self.places.mask_PN
        user_PN = np.broadcast_to(self.places.user_P[:, None], mask.shape)
        return measure(user_PN[mask], self.places.label_PN[mask], self.probability_PN[mask], name)


@torch.no_grad()
def score(model: MimnCtr, histories: Histories, places: Places, *, without_history: bool = False) -> Scored:
    """Score every place from its user's memory at exactly its position, or from the initial memory."""
    model.eval()
    device = next(model.parameters()).device
    if without_history:
        states_PF = model.initial_state(1).pack().expand(len(places), -1)
        return Scored(
            places, _probabilities(model, states_PF, places), np.zeros((len(places), model.variant.slots), np.float32)
        )
    users, counts = np.unique(places.user_P, return_counts=True)
    # Longest histories first: users of like length share a batch.
    users = users[np.argsort(-places.position_P[np.cumsum(counts) - 1], kind="stable")] if len(users) else users
    chunks: list[tuple[Places, NDArray[np.float32], NDArray[np.float32]]] = []
    for first in range(0, len(users), _USERS_AT_ONCE):
        batch = user_batch(histories, places, users[first : first + _USERS_AT_ONCE], str(device))
        for read in scan_places(model, batch, _CHUNK):
            part = batch.places.take(np.arange(read.start, read.stop))
            state = MimnState.unpack(read.states_PF, model.layout)
            chunks.append((part, _probabilities(model, read.states_PF, part), state.utilization.cpu().numpy()))
    if not chunks:
        return Scored(places, np.zeros(places.mask_PN.shape, np.float32), np.zeros((0, model.variant.slots), np.float32))
    met_user = np.concatenate([part.user_P for part, _, _ in chunks])
    met_position = np.concatenate([part.position_P for part, _, _ in chunks])
    order = np.lexsort((met_position, met_user))
    return Scored(
        places,
        np.concatenate([p for _, p, _ in chunks])[order],
        np.concatenate([u for _, _, u in chunks])[order],
    )


def _probabilities(model: MimnCtr, states_PF: torch.Tensor, places: Places) -> NDArray[np.float32]:
    parts = []
    for start in range(0, len(places), _PLACES_AT_ONCE):
        rows = np.arange(start, min(start + _PLACES_AT_ONCE, len(places)))
        logits = score_places(model, states_PF[start : start + len(rows)], places.take(rows))
        parts.append(probability(logits).cpu().numpy())
    return np.concatenate(parts) if parts else np.zeros(places.mask_PN.shape, np.float32)
