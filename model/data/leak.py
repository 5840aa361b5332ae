"""The leak check: what one can tell about the label without knowing the user's taste.

Three single features are scored by AUC on the valid and the test samples. When "never seen in training" alone separates
positives from negatives, a model learns how the negatives were drawn, and its AUC says nothing.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model.data.ordering import OrderedLog, codes_of
from uic.errors import BadInput

LEAK_LIMIT = 0.6
UNSEEN = "item unseen in training"
IN_HISTORY = "item already in the history"
POPULARITY = "popularity in training"

LeakFigures = dict[str, dict[str, float | None]]
"""AUC by split and feature; None where the split has labels of one kind only."""


def leak_figures(log: OrderedLog, samples: pd.DataFrame, *, valid_from_ms: int) -> LeakFigures:
    """The AUC of each single feature alone, on the valid and the test samples."""
    items, item_codes = np.unique(log.items, return_inverse=True)
    popularity = np.bincount(item_codes[log.times < valid_from_ms], minlength=len(items))
    figures: LeakFigures = {}
    for split in ("valid", "test"):
        part = samples[samples["split"] == split]
        label = part["label"].to_numpy()
        candidate = pd.Index(items).get_indexer(pd.Index(part["item_id"]))
        count = np.where(candidate >= 0, popularity[candidate], 0)
        figures[split] = {
            UNSEEN: auc_of(label, count == 0),
            IN_HISTORY: auc_of(label, _in_history(log, item_codes, part, candidate)),
            POPULARITY: auc_of(label, count),
        }
    return figures


def check_leak(figures: LeakFigures) -> None:
    """Raise BadInput where "item unseen in training" alone tells the label, in either direction."""
    for split, by_feature in figures.items():
        auc = by_feature[UNSEEN]
        if auc is not None and max(auc, 1 - auc) > LEAK_LIMIT:
            raise BadInput(
                f'leak check: on the {split} samples "{UNSEEN}" alone reaches an AUC of {auc:.3f}, expected '
                f"{1 - LEAK_LIMIT:.1f} to {LEAK_LIMIT:.1f}; candidates of another age than the positives give the label away. "
                "With drawn negatives, make the window smaller (--window-hours); with labelled impressions, take positives "
                "and negatives from the same impressions. Nothing was written."
            )


def _in_history(
    log: OrderedLog, item_codes: NDArray[np.int64], part: pd.DataFrame, candidate: NDArray[np.int64]
) -> NDArray[np.bool_]:
    span = int(item_codes.max()) + 1
    # The log is sorted by position within a user, so the first row of a (user, item) pair has its smallest position.
    pairs, first = np.unique(log.user_codes * span + item_codes, return_index=True)
    users = codes_of(log, part["user"])
    wanted = users * span + candidate
    at = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    met = (pairs[at] == wanted) & (users >= 0) & (candidate >= 0)
    result: NDArray[np.bool_] = met & (log.positions[first[at]] < part["position"].to_numpy())
    return result


def auc_of(label: NDArray[np.int8], score: NDArray[np.generic]) -> float | None:
    """The AUC of one feature alone; None where the labels are of one kind."""
    from sklearn.metrics import roc_auc_score  # a second to load, and only needed here

    if len(np.unique(label)) < 2:
        return None
    return float(roc_auc_score(label, score))
