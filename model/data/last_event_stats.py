"""What is counted of a dataset made by the paper's protocol (last_event.py): vocabulary, leak figures, statistics.

As in prepare.py, but asked of tables on disk: `events` is the ordered log, `stored` what the dataset has of it, `training` that
of the training users. The shape of stats.json is that of prepare.py, and has a few keys more.
"""

from typing import Any

import numpy as np
import pandas as pd

from model.data.dataset import SPLITS
from model.data.event_log import UNKNOWN_CATEGORY
from model.data.leak import IN_HISTORY, POPULARITY, UNSEEN, LeakFigures, auc_of
from model.data.log_table import LogTable
from model.data.vocabulary import Vocabularies
from uic.vocabulary import Vocabulary

UNBORN = "item new to everyone"


def vocabularies_of(log: LogTable, min_item_count: int) -> Vocabularies:
    """The items with enough events in the training part, and all its categories."""
    items = log.arrays(f"SELECT item_id AS id FROM training GROUP BY 1 HAVING count(*) >= {min_item_count} ORDER BY 1")
    categories = log.arrays(
        f"SELECT DISTINCT category_id AS id FROM training WHERE category_id <> {UNKNOWN_CATEGORY} ORDER BY 1"
    )
    return Vocabularies(Vocabulary(items["id"]), Vocabulary(categories["id"]))


def leaks(log: LogTable, samples: pd.DataFrame) -> LeakFigures:
    """The AUC of each single feature alone, on the valid and the test samples."""
    asked = samples[samples["split"] != "train"].reset_index(drop=True)
    log.put("asked", asked.assign(number=np.arange(len(asked))))
    found = pd.DataFrame(
        log.arrays(
            """WITH candidates AS (SELECT DISTINCT item_id FROM asked),
            trained AS (SELECT item_id, count(*) AS events FROM training SEMI JOIN candidates USING (item_id) GROUP BY 1),
            born AS (SELECT item_id, min(time_ms) AS first_ms FROM events SEMI JOIN candidates USING (item_id) GROUP BY 1),
            met AS (
                SELECT DISTINCT a.number FROM stored e JOIN asked a ON a.user = e.user AND a.item_id = e.item_id
                WHERE e.position < a.position)
            SELECT a.split AS split, a.label AS label, coalesce(t.events, 0) AS popularity, m.number IS NOT NULL AS met,
                coalesce(b.first_ms >= a.time_ms, TRUE) AS unborn
            FROM asked a LEFT JOIN trained t USING (item_id) LEFT JOIN born b USING (item_id) LEFT JOIN met m USING (number)
            ORDER BY number"""
        )
    )
    figures: LeakFigures = {}
    for split in SPLITS[1:]:
        part = found[found["split"] == split]
        label, count = part["label"].to_numpy(), part["popularity"].to_numpy()
        features = {
            UNSEEN: count == 0,
            IN_HISTORY: part["met"].to_numpy(),
            POPULARITY: count,
            UNBORN: part["unborn"].to_numpy(),
        }
        figures[split] = {name: auc_of(label, values) for name, values in features.items()}
    return figures


def statistics(
    log: LogTable, samples: pd.DataFrame, vocabularies: Vocabularies, split_times: dict[str, int] | None
) -> dict[str, Any]:  # JSON
    """Counts of the log as it was read, of the dataset, and of its samples."""
    counted = f"""count(*) AS events, count(DISTINCT item_id) AS items,
        count(DISTINCT category_id) FILTER (category_id <> {UNKNOWN_CATEGORY}) AS categories"""
    read = log.row(f"SELECT {counted}, count(DISTINCT user_id) AS users FROM {log.source}")
    kept = log.row(
        f"""SELECT {counted}, count(DISTINCT e.user) AS users,
        count(*) FILTER (category_id = {UNKNOWN_CATEGORY}) AS events_without_category FROM stored e"""
    )
    behaviours = log.arrays("SELECT behaviour, count(*) AS n FROM stored GROUP BY 1 ORDER BY 1")
    lives = log.arrays("SELECT count(*) AS length, max(time_ms) - min(time_ms) AS ms FROM stored e GROUP BY e.user")
    times = log.row("SELECT min(time_ms) AS first_ms, max(time_ms) AS last_ms FROM stored")
    after_training = log.row("SELECT max(time_ms) + 1 AS ms FROM training")["ms"]
    by_split = samples.groupby(["split", "label"]).size()
    return {
        # No user is in two parts: none of the test users has an event that was trained on.
        "label": "cold-user",
        "cold_user_share": 1.0,
        "median_lifetime_minutes": float(np.median(lives["ms"])) / 60_000,
        **kept,
        "rows_read": read["events"],
        "log": {name: read[name] for name in ("users", "items", "categories")},
        "events_by_behaviour": dict(zip(behaviours["behaviour"].tolist(), behaviours["n"].tolist(), strict=True)),
        "vocabulary": {"items": len(vocabularies.items), "categories": len(vocabularies.categories)},
        "history_length": {
            name: int(np.percentile(lives["length"], q)) for name, q in (("p50", 50), ("p90", 90), ("max", 100))
        },
        "samples": {
            split: {"positive": int(by_split.get((split, 1), 0)), "negative": int(by_split.get((split, 0), 0))}
            for split in SPLITS
        },
        "candidate_ends_history": _candidate_ends_history(log, samples),
        "split_by": "user" if split_times is None else "time of the user's last event",
        # Where chance divides the users, training has seen the whole time, of its own users.
        "times": times | (split_times or {"valid_from_ms": after_training, "test_from_ms": after_training}),
    }


def _candidate_ends_history(log: LogTable, samples: pd.DataFrame) -> dict[str, float]:
    """Of positives and of negatives, the share whose candidate is the very last event of its history."""
    log.put("scored", samples)
    shares = log.arrays(
        """SELECT s.label AS label, count(e.item_id) / count(*) AS share FROM scored s
        LEFT JOIN stored e ON e.user = s.user AND e.position = s.position - 1 AND e.item_id = s.item_id GROUP BY 1"""
    )
    by_label = dict(zip(shares["label"].tolist(), shares["share"].tolist(), strict=True))
    return {name: float(by_label.get(label, 0.0)) for name, label in (("positive", 1), ("negative", 0))}
