"""Memories made by several models of one lineage, and heads of another: what becomes of a memory that outlives its model.

Phase     one model folds the events of [from_ms, to_ms)
in step   one phase, and the head of the same model
a day apart, accumulated   phases of other models, within one lineage: else a memory would mean nothing to the head
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.data.dataset import Dataset
from model.data.event_log import UNKNOWN_CATEGORY
from model.data.vocabulary import Vocabularies
from model.nn.ctr import MemoryCtr, probability
from model.training.evaluate import Scored
from model.training.histories import Histories, Places, user_batch
from model.training.reading import score_places
from model.training.run import Run
from model.training.scan import scan_places
from uic.vocabulary import Vocabulary

_USERS_AT_ONCE = 256
_CHUNK = 64
Int64 = NDArray[np.int64]


class Phase(NamedTuple):
    """The events that one model folds: those of [from_ms, to_ms); None: no limit."""

    run: Run
    from_ms: int | None = None
    to_ms: int | None = None


@torch.no_grad()
def score_lineage(dataset: Dataset, phases: Sequence[Phase], head: Run, chosen: NDArray[np.bool_]) -> Scored:
    """The chosen samples as this head scores them from memories that these phases have made, one after the other.

    All chosen samples lie in the last phase: the memories at its beginning are made once a user.
    """
    time_ms = dataset.events("time_ms")["time_ms"].to_numpy(dtype=np.int64)
    places = Histories.of(dataset, *head.vocabularies).places(chosen, head.plan.features)
    users, user_P = np.unique(places.user_P, return_inverse=True)
    last = phases[-1].run.best_memory().eval()
    state_UF = last.blank(len(users)).clone()
    for phase in phases[:-1]:
        histories = Histories.of(dataset, *phase.run.vocabularies)
        model = phase.run.best_memory().eval()
        start_U, stop_U = (_counted(histories, users, time_ms, moment) for moment in (phase.from_ms, phase.to_ms))
        state_UF = model.blank(len(users)).clone() if phase is phases[0] else state_UF
        own = histories.spans(users, start_U, stop_U)
        for part, state_PF in scanned(model, own, _ends(stop_U - start_U), state_UF):
            state_UF[part.user_P] = state_PF
    histories = Histories.of(dataset, *phases[-1].run.vocabularies)
    start_U = _counted(histories, users, time_ms, phases[-1].from_ms)
    own = histories.spans(users, start_U, np.diff(histories.offsets)[users])
    moved = dataclasses.replace(places, user_P=user_P, position_P=places.position_P - start_U[user_P])
    assert (moved.position_P >= 0).all(), "a sample before the last phase"
    scored_PN = np.zeros(places.mask_PN.shape, np.float32)
    scorer = head.best_memory().eval()
    row_of = {key: row for row, key in enumerate(zip(moved.user_P.tolist(), moved.position_P.tolist(), strict=True))}
    for part, state_PF in scanned(last, own, moved, state_UF):
        rows = [row_of[key] for key in zip(part.user_P.tolist(), part.position_P.tolist(), strict=True)]
        scored_PN[rows] = probability(score_places(scorer, state_PF, part)).numpy()
    return Scored(places, scored_PN, np.zeros((len(places), 0), np.float32))


def known_by(dataset: Dataset, moment_ms: int) -> Dataset:
    """The dataset with the vocabulary of that moment: ids seen as often before it as the dataset's own had to be.

    A lineage's vocabulary grows bundle by bundle, as the log does; the dataset's own knows the whole training part.
    """
    events = dataset.events("item_id", "category_id", "time_ms")
    events = events[events["time_ms"].to_numpy() < moment_ms]
    items, counts = np.unique(events["item_id"].to_numpy(dtype=np.int64), return_counts=True)
    categories = np.unique(events["category_id"].to_numpy(dtype=np.int64))
    least = dataset.stats["parameters"]["min_item_count"]
    known = Vocabularies(Vocabulary(items[counts >= least]), Vocabulary(categories[categories != UNKNOWN_CATEGORY]))
    return dataclasses.replace(dataset, vocabularies=known)


def scanned(model: MemoryCtr[Any], histories: Histories, places: Places, state_UF: Tensor) -> Iterator[tuple[Places, Tensor]]:
    """Every place with the memory there, each user's history folded on from their state; user u has row u of state_UF."""
    users, counts = np.unique(places.user_P, return_counts=True)
    # Longest first, as user_batch lays them out: so row r of a batch is row r of its states.
    users = users[np.argsort(-places.position_P[np.cumsum(counts) - 1], kind="stable")]
    for first in range(0, len(users), _USERS_AT_ONCE):
        rows = users[first : first + _USERS_AT_ONCE]
        batch = user_batch(histories, places, rows)
        for read in scan_places(model, batch, _CHUNK, model.unpack(state_UF[rows])):
            yield batch.places.take(np.arange(read.start, read.stop)), read.states_PF


def _ends(length_U: Int64) -> Places:
    """One place for each user: the end of their history. There is nothing to score there."""
    nothing = np.zeros((len(length_U), 1), dtype=np.int64)
    return Places(
        user_P=np.arange(len(length_U)), position_P=length_U, item_PN=nothing, category_PN=nothing,
        label_PN=nothing.astype(np.float32), mask_PN=nothing.astype(np.bool_), sample_PN=nothing - 1, features_PNC=None,
    )  # fmt: skip


def _counted(histories: Histories, users: Int64, time_ms: Int64, moment_ms: int | None) -> Int64:
    """How many events each user had before the moment; None: none."""
    if moment_ms is None:
        return np.zeros(len(users), dtype=np.int64)
    earlier = np.append(0, np.cumsum(time_ms < moment_ms))
    counted: Int64 = earlier[histories.offsets[users + 1]] - earlier[histories.offsets[users]]
    return counted
