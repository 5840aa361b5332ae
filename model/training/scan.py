"""One scan of many users' histories that reads the memory at every place where candidates are scored: the hot loop of training.

Because the memory does not depend on the candidate, one scan serves all samples of a user. Users are laid out longest first, so
that at each position the ones still going are a prefix of the batch and no step is spent on padding.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from model.nn.ctr import MimnCtr
from model.nn.mimn import MimnState
from model.nn.sequence import each_event, first_users
from model.training.histories import Places, UserBatch


class Read(NamedTuple):
    """The places met in one chunk: rows `start` to `stop` of the batch's places, and the memories there, packed [P, F]."""

    start: int
    stop: int
    states_PF: Tensor


def scan_places(model: MimnCtr, batch: UserBatch, chunk: int) -> Iterator[Read]:
    """Fold the histories from each user's first event, `chunk` positions at a time.

    Yields after each chunk what was read in it; gradients reach back to the start of the chunk (truncated back-propagation).
    """
    state = model.initial_state(len(batch.last_B))
    row = 0
    for start in range(0, batch.positions, chunk):
        stop = min(start + chunk, batch.positions)
        state = state.map(_detached) if start else state
        width = batch.advancing(start)
        part = (slice(0, width), slice(start, min(stop, batch.item_BT.shape[1])))
        events = each_event(model.step.project(model.embedding(batch.item_BT[part], batch.category_BT[part])))
        packed, readers, offset = [], [], 0
        for t in range(start, stop):
            if len(batch.readers[t]):
                packed.append(state.pack())
                readers.append(batch.readers[t] + offset)
                offset += packed[-1].shape[0]
            going = batch.advancing(t)
            if going < state.applied.shape[0]:
                state = state.map(_First(going))
            if going:
                event = events[t - start]
                state, _ = model.step.advance(state, event if going == width else first_users(event, going))
        if packed:
            chosen = torch.cat(readers)
            yield Read(row, row + len(chosen), torch.cat(packed)[chosen])
            row += len(chosen)


def score_places(model: MimnCtr, states_PF: Tensor, places: Places) -> Tensor:
    """Two logits for each candidate of each place, [P, N, 2]."""
    device = states_PF.device
    features = None if places.features_PNC is None else torch.from_numpy(places.features_PNC).to(device)
    state = MimnState.unpack(states_PF, model.layout)
    items, categories = torch.from_numpy(places.item_PN).to(device), torch.from_numpy(places.category_PN).to(device)
    return model.score(state, items, categories, features)


def _detached(tensor: Tensor) -> Tensor:
    return tensor.detach()


class _First:
    """The first n users of a batch."""

    def __init__(self, n: int) -> None:
        self._n = n

    def __call__(self, tensor: Tensor) -> Tensor:
        return tensor[: self._n]
