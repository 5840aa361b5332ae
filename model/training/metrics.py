"""AUC, logloss and per-user AUC of click probabilities."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import log_loss, roc_auc_score

from uic.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """What a split was scored with. `user_auc` is the mean AUC of users who have both labels, weighted by their samples."""

    samples: int
    users: int
    auc: float
    logloss: float
    user_auc: float
    users_with_both_labels: int

    def to_json(self) -> dict[str, float]:
        return dataclasses.asdict(self)


def measure(user: NDArray[np.int64], label: NDArray[np.float32], probability: NDArray[np.float32], name: str = "") -> Metrics:
    """Metrics over samples; raises BadInput where the labels are all alike, since no AUC exists then."""
    if len(np.unique(label)) < 2:
        raise BadInput(f"split {name or 'given'}: expected clicks and non-clicks, got {len(label)} samples of one kind; no AUC")
    if not np.isfinite(probability).all():
        raise BadInput(
            f"split {name or 'given'}: {int((~np.isfinite(probability)).sum())} of {len(label)} probabilities are not finite"
        )
    of_users = user_aucs(user, label, probability)
    return Metrics(
        samples=len(label),
        users=len(np.unique(user)),
        auc=float(roc_auc_score(label, probability)),
        logloss=float(log_loss(label, probability.astype(np.float64), labels=[0, 1])),
        user_auc=float(np.average(of_users["auc"], weights=of_users["samples"])) if len(of_users) else float("nan"),
        users_with_both_labels=len(of_users),
    )


def user_aucs(user: NDArray[np.int64], label: NDArray[np.float32], probability: NDArray[np.float32]) -> pd.DataFrame:
    """`auc` and `samples` of each user who has both labels, by user."""
    table = pd.DataFrame({"user": user, "label": label, "p": probability})
    table["rank"] = table.groupby("user")["p"].rank()
    clicks = table[table["label"] > 0].groupby("user").agg(n=("rank", "size"), ranks=("rank", "sum"))
    size = table.groupby("user").size().reindex(clicks.index)
    both = size > clicks["n"]
    # Mann-Whitney: the share of (click, non-click) pairs of a user in the right order, ties counting half.
    n, total = clicks["n"][both], size[both]
    return pd.DataFrame({"auc": (clicks["ranks"][both] - n * (n + 1) / 2) / (n * (total - n)), "samples": total})
