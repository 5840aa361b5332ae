"""What a model sees of the histories of a batch of users: memories out of one scan, or each place's raw events."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.nn.ctr import CtrModel, MemoryCtr
from model.nn.dien import DienCtr
from model.nn.history import Events, HistoryCtr
from model.training.histories import Places, UserBatch
from model.training.scan import scan_places

_PLACES_AT_ONCE = 256


class Seen(NamedTuple):
    """Places, what the model sees there (CtrModel), and the mean auxiliary loss over the events that are seen."""

    places: Places
    seen: Any
    auxiliary: Tensor | None = None


def readings(model: CtrModel, batch: UserBatch, chunk: int, at_once: int = _PLACES_AT_ONCE) -> Iterator[Seen]:
    """Every place of the batch, in its order; memories `chunk` positions at a time, raw events `at_once` places."""
    if isinstance(model, MemoryCtr):
        for read in scan_places(model, batch, chunk):
            yield Seen(batch.places.take(np.arange(read.start, read.stop)), read.states_PF, read.auxiliary)
        return
    assert isinstance(model, HistoryCtr)
    for start in range(0, len(batch.places), at_once):
        rows = np.arange(start, min(start + at_once, len(batch.places)))
        seen = events_before(batch, rows, model.variant.length)
        yield Seen(batch.places.take(rows), seen, _auxiliary_loss(model, seen))


def events_before(batch: UserBatch, rows: "np.typing.NDArray[np.int64]", length: int) -> Events:
    """The last `length` events before each of these places of a batch, oldest first."""
    device = batch.item_BT.device
    reader_P = torch.cat(batch.readers)[torch.from_numpy(rows).to(device)]
    position_P = torch.from_numpy(batch.places.position_P[rows]).to(device)
    longest = min(length, int(position_P.max())) if len(rows) else 0
    place_PL = (position_P - longest).unsqueeze(1) + torch.arange(longest, device=device)
    mask_PL = place_PL >= 0
    if not longest:
        empty = mask_PL.new_zeros(len(rows), 1)
        return Events(empty.long(), empty.long(), empty)
    chosen = (reader_P.unsqueeze(1), place_PL.clamp_min(0))
    negatives = None if batch.negatives is None else (batch.negatives[0][chosen], batch.negatives[1][chosen])
    return Events(batch.item_BT[chosen] * mask_PL, batch.category_BT[chosen] * mask_PL, mask_PL, negatives)


def _auxiliary_loss(model: HistoryCtr, seen: Events) -> Tensor | None:
    """How badly the interest after each event tells the next one from a negative."""
    if model.auxiliary is None or seen.negatives is None or not isinstance(model, DienCtr):
        return None
    real_PL = seen.mask_PL[:, 1:] & seen.mask_PL[:, :-1]
    if not real_PL.any():
        return None
    events_PLX, negatives_PLX = model.embedding(seen.item_PL, seen.category_PL), model.embedding(*seen.negatives)
    interests_PLH = model.interests(events_PLX, seen.mask_PL)
    return model.auxiliary.losses(interests_PLH[:, :-1], events_PLX[:, 1:], negatives_PLX[:, 1:])[real_PL].mean()


def score_places(model: CtrModel, seen: Any, places: Places) -> Tensor:
    """Two logits for each candidate of each place, [P, N, 2]."""
    device = model.embedding.items.weight.device
    features = None if places.features_PNC is None else torch.from_numpy(places.features_PNC).to(device)
    items, categories = torch.from_numpy(places.item_PN).to(device), torch.from_numpy(places.category_PN).to(device)
    return model.logits(seen, items, categories, features)
