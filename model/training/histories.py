"""A dataset as training reads it: flat arrays of all events, and for each user the places where candidates are scored.

A place is (user, position): the memory after `position` events. The samples that share a place, such as a click and its
negatives, read the same memory and are scored together.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.data.dataset import Dataset
from uic.vocabulary import Vocabulary

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Places:
    """Where one split is scored: P places with up to N candidates each. Sorted by user, then position.

    user_P, position_P      the place
    item_PN, category_PN    rows of the candidates; 0 where there is none
    label_PN, mask_PN       1 for a click; mask is False where there is no candidate
    sample_PN               row of the sample in the dataset's table of samples; -1 where there is none
    """

    user_P: Int64
    position_P: Int64
    item_PN: Int64
    category_PN: Int64
    label_PN: NDArray[np.float32]
    mask_PN: NDArray[np.bool_]
    sample_PN: Int64
    features_PNC: NDArray[np.float32] | None

    def __len__(self) -> int:
        return len(self.user_P)

    @property
    def samples(self) -> int:
        return int(self.mask_PN.sum())

    def take(self, rows: Int64) -> "Places":
        features = None if self.features_PNC is None else self.features_PNC[rows]
        return Places(
            self.user_P[rows], self.position_P[rows], self.item_PN[rows], self.category_PN[rows],
            self.label_PN[rows], self.mask_PN[rows], self.sample_PN[rows], features,
        )  # fmt: skip


@dataclass(frozen=True)
class Histories:
    """All events as embedding rows, user after user in position order: user u has offsets[u] .. offsets[u + 1]."""

    users: NDArray[np.object_]
    offsets: Int64
    item_rows: Int64
    category_rows: Int64
    samples: pd.DataFrame

    @classmethod
    def of(cls, dataset: Dataset, items: Vocabulary, categories: Vocabulary) -> "Histories":
        """Rows of a dataset's events under these vocabularies."""
        events = dataset.events("user", "item_id", "category_id")
        samples = dataset.samples()
        user_of_event = events["user"].to_numpy(dtype=object)
        # The events are sorted by user: a user begins where the name changes.
        starts = np.flatnonzero(np.append(True, user_of_event[1:] != user_of_event[:-1])) if len(events) else np.zeros(0, int)
        # Who was shown something before the first event has a history too: an empty one.
        strangers = np.setdiff1d(samples["user"].to_numpy(dtype=object), user_of_event[starts])
        users = np.append(user_of_event[starts], strangers)
        return cls(
            users=users,
            offsets=np.append(starts, np.full(len(strangers) + 1, len(events))).astype(np.int64),
            item_rows=items.rows(events["item_id"].to_numpy()),
            category_rows=categories.rows(events["category_id"].to_numpy()),
            samples=samples.assign(
                user_index=pd.Index(users).get_indexer(samples["user"]),
                item_row=items.rows(samples["item_id"].to_numpy()),
                category_row=categories.rows(samples["category_id"].to_numpy()),
            ),
        )

    def rows_of(self, user: int) -> tuple[Int64, Int64]:
        """Item and category rows of one user's whole history."""
        part = slice(self.offsets[user], self.offsets[user + 1])
        return self.item_rows[part], self.category_rows[part]

    def places(self, chosen: NDArray[np.bool_], features: Sequence[str] = (), *, most: int | None = None) -> Places:
        """The places of the chosen samples; at most `most` of a user, spread evenly over them, the last always among them."""
        table = self.samples[chosen].assign(sample=np.flatnonzero(chosen))
        table = table.sort_values(["user_index", "position"], kind="stable")
        keys = table[["user_index", "position"]].to_numpy(dtype=np.int64)
        if most is not None and len(keys):
            rank = table.groupby("user_index")["position"].rank(method="dense").to_numpy(dtype=np.int64) - 1
            count = pd.Series(rank).groupby(keys[:, 0]).transform("max").to_numpy(dtype=np.int64) + 1
            # Of n places `most` are kept: those at which floor((rank + 1) most / n) goes up.
            kept = (rank + 1) * most // count > rank * most // count
            table, keys = table[kept], keys[kept]
        is_new = np.ones(len(keys), dtype=bool)
        is_new[1:] = (keys[1:] != keys[:-1]).any(axis=1)
        place = np.cumsum(is_new) - 1
        first = np.flatnonzero(is_new)
        within = np.arange(len(keys)) - first[place] if len(keys) else np.zeros(0, dtype=np.int64)
        shape = (len(first), int(within.max(initial=0)) + 1)

        def spread(values: NDArray[np.generic], fill: float) -> NDArray[np.generic]:
            out = np.full(shape, fill, dtype=values.dtype)
            out[place, within] = values
            return out

        features_PNC = None
        if features:
            columns = [spread(table[f"f_{name}"].to_numpy(dtype=np.float32), 0) for name in features]
            features_PNC = np.stack(columns, axis=-1).astype(np.float32)
        return Places(
            user_P=keys[first, 0],
            position_P=keys[first, 1],
            item_PN=spread(table["item_row"].to_numpy(dtype=np.int64), 0).astype(np.int64),
            category_PN=spread(table["category_row"].to_numpy(dtype=np.int64), 0).astype(np.int64),
            label_PN=spread(table["label"].to_numpy(dtype=np.float32), 0).astype(np.float32),
            mask_PN=spread(np.ones(len(table), dtype=np.bool_), 0).astype(np.bool_),
            sample_PN=spread(table["sample"].to_numpy(dtype=np.int64), -1).astype(np.int64),
            features_PNC=features_PNC,
        )

    def spans(self, user_R: Int64, start_R: Int64, stop_R: Int64) -> "Histories":
        """Histories of new users: each has done events start to stop of one of these users and nothing else."""
        lengths = stop_R - start_R
        ends = np.cumsum(lengths)
        first = self.offsets[user_R] + start_R
        rows = np.repeat(first - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)
        return dataclasses.replace(
            self,
            users=np.arange(len(user_R)).astype(object),
            offsets=np.append(0, ends).astype(np.int64),
            item_rows=self.item_rows[rows],
            category_rows=self.category_rows[rows],
        )

    def latest(self, places: Places, most: int) -> "tuple[Histories, Places]":
        """The same places where each is a user of its own, who has done the latest `most` events before it."""
        own = self.spans(places.user_P, np.maximum(places.position_P - most, 0), places.position_P)
        return own, dataclasses.replace(places, user_P=np.arange(len(places)), position_P=np.minimum(places.position_P, most))


@dataclass(frozen=True)
class UserBatch:
    """Users scanned side by side, longest first: at position t the first `active(t)` of them are still read or advanced.

    item_BT, category_BT    rows, zero after a user's last needed event
    last_B                  the last position at which each user is read
    readers                 for each position, which users (rows of the batch) are read, in the order of `places`
    negatives               where the auxiliary loss is trained: at each place an item and category that was not the event
    """

    places: Places
    item_BT: Tensor
    category_BT: Tensor
    last_B: Int64
    readers: list[Tensor]
    negatives: tuple[Tensor, Tensor] | None = None

    @property
    def positions(self) -> int:
        """Positions to visit: one more than the last that is read."""
        return int(self.last_B.max(initial=-1)) + 1

    def advancing(self, t: int) -> int:
        """How many users, counted from the first, go on past position t."""
        return int(np.count_nonzero(self.last_B > t))


def user_batch(histories: Histories, places: Places, users: Int64, device: str = "cpu") -> UserBatch:
    """Lay out the histories of `users` up to the last place each is read at; every user must have a place."""
    starts = np.searchsorted(places.user_P, users, side="left")
    stops = np.searchsorted(places.user_P, users, side="right")
    last = places.position_P[stops - 1]
    order = np.argsort(-last, kind="stable")
    users, starts, stops, last = users[order], starts[order], stops[order], last[order]
    longest = int(last.max(initial=0))
    item_BT = np.zeros((len(users), longest), dtype=np.int64)
    category_BT = np.zeros((len(users), longest), dtype=np.int64)
    for row, (user, length) in enumerate(zip(users, last, strict=True)):
        items, categories = histories.rows_of(int(user))
        item_BT[row, :length], category_BT[row, :length] = items[:length], categories[:length]
    rows = np.concatenate([np.arange(start, stop) for start, stop in zip(starts, stops, strict=True)])
    batch_row = np.repeat(np.arange(len(users)), stops - starts)
    # Places in the order in which the scan meets them: by position, then by row of the batch.
    met = np.lexsort((batch_row, places.position_P[rows]))
    rows, batch_row = rows[met], batch_row[met]
    cuts = np.searchsorted(places.position_P[rows], np.arange(longest + 2))
    readers = [torch.from_numpy(batch_row[cuts[t] : cuts[t + 1]]).to(device) for t in range(longest + 1)]
    return UserBatch(
        places.take(rows), torch.from_numpy(item_BT).to(device), torch.from_numpy(category_BT).to(device), last, readers
    )


@dataclass(frozen=True)
class Negatives:
    """Where events that did not happen are drawn from: every distinct (item, category) of the histories, each as likely."""

    item_N: Int64
    category_N: Int64

    @classmethod
    def of(cls, histories: Histories) -> "Negatives":
        pairs = np.unique(np.stack([histories.item_rows, histories.category_rows]), axis=1)
        return cls(pairs[0], pairs[1])

    def drawn(self, batch: UserBatch, rng: np.random.Generator) -> UserBatch:
        """The batch with a negative at each place; one that is in its user's history is drawn once more."""
        drawn_BT = rng.integers(len(self.item_N), size=tuple(batch.item_BT.shape))
        for row_T, own_T in zip(drawn_BT, batch.item_BT.cpu().numpy(), strict=True):
            known = np.isin(self.item_N[row_T], own_T)
            row_T[known] = rng.integers(len(self.item_N), size=int(known.sum()))
        device = batch.item_BT.device
        pair = (torch.from_numpy(self.item_N[drawn_BT]).to(device), torch.from_numpy(self.category_N[drawn_BT]).to(device))
        return dataclasses.replace(batch, negatives=pair)
