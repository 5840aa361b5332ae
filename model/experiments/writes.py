"""What single events write, which the shares of figure 6 do not tell: level shares are had by few slots at a time, one event
after the other, or by every event on all slots at once, and then all slots hold the same.

An "effective number" of slots is the exponential of an entropy: 3 where three take equal parts, 1 where one takes all. It is
never larger for one event (the geometric mean over events) than for all of them together, since entropy is concave.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from model.experiments.arms import Json
from model.nn.ctr import MimnCtr
from model.nn.state import first
from model.training.histories import Histories, user_batch

_USERS = 256
_CHUNK = 64
Weights = NDArray[np.float64]


class Writes(NamedTuple):
    """All writes of some users, and their memories after the last: E events, U users."""

    user_E: NDArray[np.int64]
    content_EM: Weights  # where the write head looked
    written_EM: Weights  # what was written where, after re-balancing
    counted_UM: Weights  # g, the accumulated utilization
    slots_UMD: Weights

    @property
    def shares_UM(self) -> Weights:
        """The share of each slot in all that was written to a memory."""
        events_U = np.bincount(self.user_E, minlength=len(self.slots_UMD))
        total_UM = np.zeros(self.counted_UM.shape)
        np.add.at(total_UM, self.user_E, self.written_EM)
        return total_UM / events_U[:, None]


@torch.no_grad()
def writes_of(model: MimnCtr, histories: Histories, chosen: NDArray[np.bool_], users: int = _USERS) -> Writes:
    """The histories of so many users, drawn once, up to their last chosen sample, event by event."""
    places = histories.places(chosen, most=1)
    places = places.take(np.sort(np.random.default_rng(0).permutation(np.flatnonzero(places.position_P > 0))[:users]))
    batch = user_batch(histories, places, places.user_P)
    state = model.initial_state(len(places))
    user_E, content_EM, written_EM = [], [], []
    slots_UMD, counted_UM = state.slots.clone(), state.utilization.clone()
    for start in range(0, int(batch.last_B.max()), _CHUNK):
        span = (slice(0, batch.advancing(start)), slice(start, start + _CHUNK))
        for t, event in enumerate(model.step.each(model.embedding(batch.item_BT[span], batch.category_BT[span])), start):
            going = batch.advancing(t)
            state, trace = model.step.advance(first(state, going), model.step.cut(event, going))
            user_E.append(np.arange(going))
            content_EM.append(trace.content_weights.double().numpy())
            written_EM.append(trace.write_weights.double().numpy())
            slots_UMD[:going], counted_UM[:going] = state.slots, state.utilization
    return Writes(
        np.concatenate(user_E), np.concatenate(content_EM), np.concatenate(written_EM),
        counted_UM.double().numpy(), slots_UMD.double().numpy(),
    )  # fmt: skip


def effective(weights_EM: Weights) -> float:
    """The effective number of slots in each of these weights, their geometric mean; each sums to 1.

    >>> effective(np.array([[0.5, 0.5, 0.0, 0.0]])), effective(np.array([[0.25] * 4, [1.0, 0.0, 0.0, 0.0]]))
    (2.0, 2.0)
    """
    entropy_E = -(weights_EM * np.log(np.maximum(weights_EM, 1e-12))).sum(axis=-1)
    return float(np.exp(entropy_E.mean()).round(12))


def measured(writes: Writes) -> Json:
    """Means over the users' memories.

    looks_at     effective number of slots that the addressing of one event spreads over, before re-balancing
    an_event     effective number of slots that one event writes
    a_memory     effective number of slots that all events of a memory wrote together
    told_apart   a_memory over an_event, never less than 1: how many groups of events were written to slots of their own
    favourite    share of the events at which the addressing peaks at the slot where it peaks most often in that memory
    nearby       share of all that was written that went to this slot and its two neighbours
    one_for_all  share of the memories whose favourite is the most usual one
    miscounted   the part of the counted utilization that lies on other slots than the writes
    cosine       between two slots, at the end
    """
    peak_E, shares_UM = writes.content_EM.argmax(axis=1), writes.shares_UM
    counted_UM = writes.counted_UM / writes.counted_UM.sum(axis=1, keepdims=True)
    rows: list[Json] = []
    favourites: list[int] = []
    for user, shares_M in enumerate(shares_UM):
        own = writes.user_E == user
        favourite = int(np.bincount(peak_E[own]).argmax())
        favourites.append(favourite)
        an_event, a_memory = effective(writes.written_EM[own]), effective(shares_M[None])
        rows.append(
            {
                "looks_at": effective(writes.content_EM[own]),
                "an_event": an_event,
                "a_memory": a_memory,
                "told_apart": a_memory / an_event,
                "favourite": (peak_E[own] == favourite).mean(),
                "nearby": shares_M[(favourite + np.arange(-1, 2)) % len(shares_M)].sum(),
                "miscounted": np.abs(counted_UM[user] - shares_M).sum() / 2,
                "cosine": _cosine(writes.slots_UMD[user]),
            }
        )
    found = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return {**found, "one_for_all": float(np.bincount(favourites).max() / len(favourites))}


def _cosine(slots_MD: Weights) -> float:
    """The mean cosine of two different slots."""
    unit_MD = slots_MD / np.maximum(np.linalg.norm(slots_MD, axis=1, keepdims=True), 1e-12)
    cosine_MM = unit_MD @ unit_MD.T
    return float(cosine_MM[~np.eye(len(cosine_MM), dtype=bool)].mean())
