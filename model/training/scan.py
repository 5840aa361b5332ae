"""One scan of many users' histories that reads the memory at every place where candidates are scored: the hot loop of training.

Because the memory does not depend on the candidate, one scan serves all samples of a user. Users are laid out longest first, so
that at each position the ones still going are a prefix of the batch and no step is spent on padding.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.nn.ctr import MemoryCtr
from model.nn.state import first, mapped, pack
from model.training.histories import UserBatch


class Read(NamedTuple):
    """The places met in one chunk: rows `start` to `stop` of the batch's places, and the memories there, packed [P, F]."""

    start: int
    stop: int
    states_PF: Tensor


def scan_places(model: MemoryCtr[Any], batch: UserBatch, chunk: int) -> Iterator[Read]:
    """Fold the histories from each user's first event, `chunk` positions at a time.

    Yields after each chunk what was read in it; gradients reach back to the start of the chunk (truncated back-propagation).
    """
    state = model.initial_state(len(batch.last_B))
    row = 0
    for start in range(0, batch.positions, chunk):
        stop = min(start + chunk, batch.positions)
        state = mapped(state, _detached) if start else state
        going = [users for t in range(start, stop) if (users := batch.advancing(t))]
        states = [state]
        if going:
            part = (slice(0, going[0]), slice(start, start + len(going)))
            events = model.embedding(batch.item_BT[part], batch.category_BT[part])
            states += model.step.run(first(state, going[0]), events, going)
        packed, readers, offset = [], [], 0
        for t in range(start, stop):
            if len(batch.readers[t]):
                packed.append(pack(states[min(t - start, len(going))]))
                readers.append(batch.readers[t] + offset)
                offset += packed[-1].shape[0]
        state = states[-1]
        if packed:
            chosen = torch.cat(readers)
            yield Read(row, row + len(chosen), torch.cat(packed)[chosen])
            row += len(chosen)


def _detached(tensor: Tensor) -> Tensor:
    return tensor.detach()
