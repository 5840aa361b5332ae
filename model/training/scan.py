"""One scan of many users' histories that reads the memory at every place where candidates are scored: the hot loop of training.

Because the memory does not depend on the candidate, one scan serves all samples of a user. Users are laid out longest first, so
that at each position the ones still going are a prefix of the batch and no step is spent on padding.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.nn.ctr import MemoryCtr, MimnCtr
from model.nn.state import first, mapped, pack
from model.training.histories import UserBatch


class Read(NamedTuple):
    """The places met in one chunk: rows `start` to `stop` of the batch's places, and the memories there, packed [P, F]."""

    start: int
    stop: int
    states_PF: Tensor
    auxiliary: Tensor | None = None  # the mean auxiliary loss over the chunk's events, where the model has one


def scan_places(model: MemoryCtr[Any], batch: UserBatch, chunk: int, state: Any = None) -> Iterator[Read]:
    """Fold the histories from each user's first event, `chunk` positions at a time; from the state of a new user, or from this.

    Yields after each chunk what was read in it; gradients reach back to the start of the chunk (truncated back-propagation).
    """
    state = model.initial_state(len(batch.last_B)) if state is None else state
    row = 0
    for start in range(0, batch.positions, chunk):
        stop = min(start + chunk, batch.positions)
        state = mapped(state, _detached) if start else state
        going = [users for t in range(start, stop) if (users := batch.advancing(t))]
        states, auxiliary = [state], None
        if going:
            part = (slice(0, going[0]), slice(start, start + len(going)))
            events = model.embedding(batch.item_BT[part], batch.category_BT[part])
            states += model.step.run(first(state, going[0]), events, going)
            auxiliary = _auxiliary_loss(model, states, events, batch, start, going)
        packed, readers, offset = [], [], 0
        for t in range(start, stop):
            if len(batch.readers[t]):
                packed.append(pack(states[min(t - start, len(going))]))
                readers.append(batch.readers[t] + offset)
                offset += packed[-1].shape[0]
        state = states[-1]
        if packed:
            chosen = torch.cat(readers)
            yield Read(row, row + len(chosen), torch.cat(packed)[chosen], auxiliary)
            row += len(chosen)


def _auxiliary_loss(
    model: MemoryCtr[Any], states: list[Any], events_BTX: Tensor, batch: UserBatch, start: int, going: list[int]
) -> Tensor | None:
    """How badly the memory before each event of a chunk tells it from a negative; a first event has nothing before it."""
    if model.auxiliary is None or batch.negatives is None or not isinstance(model, MimnCtr):
        return None
    ranks = [rank for rank in range(len(going)) if start + rank > 0]
    if not ranks:
        return None
    part = (slice(0, going[0]), slice(start, start + len(going)))
    negatives_BTX = model.embedding(*(rows[part] for rows in batch.negatives))
    outputs = torch.cat([model.step.output(first(states[rank], going[rank])) for rank in ranks])
    following, others = (torch.cat([each[: going[rank], rank] for rank in ranks]) for each in (events_BTX, negatives_BTX))
    return model.auxiliary.losses(outputs, following, others).mean()


def _detached(tensor: Tensor) -> Tensor:
    return tensor.detach()
