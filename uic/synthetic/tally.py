"""What must have become of a whole generated stream: counts by outcome and every user's number of applied events."""

import json
from collections import Counter
from typing import Any

import numpy as np

from uic.synthetic.block import EXPECTED, Block, Int64


class Tally:
    """Sums up blocks. `applied[n]` is the number of applied events of user n, and so the sequence of that user's memory."""

    def __init__(self) -> None:
        self._codes = np.zeros(len(EXPECTED), np.int64)
        self.applied: Int64 = np.zeros(0, np.int64)

    def add(self, block: Block) -> None:
        self._codes += np.bincount(block.codes, minlength=len(EXPECTED))
        counts = np.bincount(block.users[block.codes == 0], minlength=len(self.applied))
        counts[: len(self.applied)] += self.applied
        self.applied = counts

    @property
    def outcomes(self) -> Counter[str]:
        """Events by outcome."""
        totals: Counter[str] = Counter()
        for expected, count in zip(EXPECTED, self._codes.tolist(), strict=True):
            totals[expected.outcome] += count
        return +totals

    @property
    def dead(self) -> Counter[str]:
        """Dead letters by reason."""
        pairs = zip(EXPECTED, self._codes.tolist(), strict=True)
        return +Counter({expected.reason: count for expected, count in pairs if expected.reason})

    def as_json(self) -> str:
        """{"outcomes": {...}, "dead": {...}, "applied": [count of u0, of u1, ...]}; users after the last one have none."""
        content: dict[str, Any] = {"outcomes": self.outcomes, "dead": self.dead, "applied": self.applied.tolist()}
        return json.dumps(content) + "\n"
