"""Scores candidates from a stored memory: work that does not depend on how long the history is."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from uic.bundle import Bundle
from uic.errors import BadInput
from uic.memory import Float32, UserMemory
from uic.runtime import OnnxScore
from uic.store.contract import OnlineStore

Found = Literal["live", "initial"]


@dataclass(frozen=True)
class Scores:
    """Probabilities in the order asked, and what they were read from.

    found   `live`: the user's memory in the store; `initial`: the store has never seen the user
    """

    probability_N: Float32
    found: Found
    memory: UserMemory


class Scorer:
    """A bundle's right half over an online store."""

    def __init__(self, bundle: Bundle, store: OnlineStore) -> None:
        self._bundle = bundle
        self._store = store
        self._score = OnnxScore(bundle)

    def score(
        self, user_id: str, item_ids: NDArray[np.int64], category_ids: NDArray[np.int64], features_NC: Float32 | None = None
    ) -> Scores:
        """P(click) of N candidates for one user. Raises CorruptMemory: a broken memory is never scored from."""
        blob = self._store.read(user_id)
        memory = self._bundle.initial if blob is None else self._bundle.published.decode(blob)
        found: Found = "initial" if blob is None else "live"
        return Scores(self.score_memory(memory, item_ids, category_ids, features_NC), found, memory)

    def score_blob(self, blob: bytes, item_ids: NDArray[np.int64], category_ids: NDArray[np.int64]) -> Float32:
        """P(click) of N candidates from the bytes of a memory."""
        return self.score_memory(self._bundle.published.decode(blob), item_ids, category_ids)

    def score_memory(
        self,
        memory: UserMemory,
        item_ids: NDArray[np.int64],
        category_ids: NDArray[np.int64],
        features_NC: Float32 | None = None,
    ) -> Float32:
        """P(click) of N candidates from a memory."""
        wanted = self._bundle.manifest.head_features
        given = 0 if features_NC is None else features_NC.shape[-1]
        if given != len(wanted):
            raise BadInput(f"head features: the bundle wants {len(wanted)} ({', '.join(wanted) or 'none'}), got {given}")
        if len(category_ids) != len(item_ids):
            raise BadInput(f"candidates: {len(item_ids)} items, got {len(category_ids)} categories")
        if features_NC is not None and len(features_NC) != len(item_ids):
            raise BadInput(f"head features: {len(item_ids)} candidates, got features of {len(features_NC)}")
        if len(item_ids) == 0:
            return np.zeros(0, dtype=np.float32)  # the graph cannot broadcast over nothing
        result: Float32 = self._score(
            memory.state_F.reshape(1, -1),
            self._bundle.items.rows(item_ids).reshape(1, -1),
            self._bundle.categories.rows(category_ids).reshape(1, -1),
            None,
            None if features_NC is None else features_NC[None],
        )[0]
        return result
