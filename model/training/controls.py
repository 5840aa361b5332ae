"""Controls: what is left of a model's AUC when its histories are taken away, put out of order, or given to somebody else."""

import dataclasses

import numpy as np

from model.nn.ctr import CtrModel
from model.training.evaluate import Scored, score
from model.training.histories import Histories, Places


def sampled(places: Places, most: int, seed: int = 0) -> Places:
    """At most `most` places, drawn without replacement; in the same order."""
    if len(places) <= most:
        return places
    return places.take(np.sort(np.random.default_rng(seed).choice(len(places), most, replace=False)))


def shuffled_order(model: CtrModel, histories: Histories, places: Places, seed: int = 0) -> Scored:
    """Every place scored from the same events of its user in a random order."""
    return _scored(model, histories, places, places.user_P, np.random.default_rng(seed))


def another_users(model: CtrModel, histories: Histories, places: Places, seed: int = 0) -> Scored:
    """Every place scored from as many first events of another user as it had of its own (or all that user has)."""
    rng = np.random.default_rng(seed)
    users = np.arange(len(histories.users))
    donors = (places.user_P + rng.integers(1, max(2, len(users)), size=len(places))) % len(users)
    return _scored(model, histories, places, donors, None)


def _scored(
    model: CtrModel,
    histories: Histories,
    places: Places,
    donor_P: "np.typing.NDArray[np.int64]",
    shuffle: np.random.Generator | None,
) -> Scored:
    """The places scored from histories in which each is a user of its own, with the first events of its donor."""
    items, categories, lengths = [], [], []
    for donor, position in zip(donor_P, places.position_P, strict=True):
        item_rows, category_rows = histories.rows_of(int(donor))
        length = min(int(position), len(item_rows))
        order = np.arange(length) if shuffle is None else shuffle.permutation(length)
        items.append(item_rows[:length][order])
        categories.append(category_rows[:length][order])
        lengths.append(length)
    own = dataclasses.replace(
        histories,
        users=np.arange(len(places)).astype(object),
        offsets=np.append(0, np.cumsum(lengths)).astype(np.int64),
        item_rows=np.concatenate(items),
        category_rows=np.concatenate(categories),
    )
    moved = dataclasses.replace(places, user_P=np.arange(len(places)), position_P=np.array(lengths, dtype=np.int64))
    # Measured as the users they are: a user AUC over single places would be another figure.
    return dataclasses.replace(score(model, own, moved), places=places)
