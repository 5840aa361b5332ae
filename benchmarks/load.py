"""What the benchmarks run over: a bundle of the default preset with random weights, and events of many users as bytes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from uic.bundle import Bundle
from uic.errors import BundleError

ITEMS = 100_000
CATEGORIES = 1_000
BEHAVIOURS = ["pv", "cart", "fav", "buy"]
START_MS = 1_511_539_200_000
_BLOCK = 50_000
Record = tuple[bytes, bytes]


@dataclass(frozen=True, kw_only=True)
class Load:
    """Events in the order of the log: first one of every user, so that each has a memory, then `drawn` ones by popularity.

    `zipf` None: every user is as likely. Otherwise the exponent over the users' ranks.
    """

    users: int
    zipf: float | None
    drawn: int

    @property
    def name(self) -> str:
        size = f"{self.users // 1_000_000}M" if self.users >= 1_000_000 else f"{self.users // 1000}k"
        return f"{size}-{'uniform' if self.zipf is None else 'zipf'}"

    @property
    def total(self) -> int:
        return self.users + self.drawn

    def records(self) -> Iterator[Record]:
        """(key, payload) of every event."""
        order = np.random.default_rng(3).permutation(self.users)
        for start in range(0, self.users, _BLOCK):
            yield from events(order[start : start + _BLOCK], seed=start, first_ms=START_MS + start)
        for start in range(0, self.drawn, _BLOCK):
            yield from self.draw(min(_BLOCK, self.drawn - start), self.users + start)

    def draw(self, count: int, start: int) -> list[Record]:
        """`count` events by popularity, as they stand in the log from `start` on."""
        users = users_of(count, self.users, self.zipf, seed=start)
        return events(users, seed=start, first_ms=START_MS + start)


def bundle(path: Path) -> Bundle:
    """The bundle at `path`, made if there is none: the default preset, untrained, whose step costs what a trained one does."""
    try:
        return Bundle.open(path)
    except BundleError:
        import torch

        from model.nn.ctr import MimnCtr
        from onnx_export.bundle import write_bundle
        from uic.variant import preset

        torch.manual_seed(1)
        model = MimnCtr(preset("default"), item_rows=ITEMS + 2, category_rows=CATEGORIES + 2).eval()
        return write_bundle(
            model,
            path,
            item_ids=np.arange(1, ITEMS + 1, dtype=np.int64),
            category_ids=np.arange(1, CATEGORIES + 1, dtype=np.int64),
            behaviours=BEHAVIOURS,
            features=[],
            lineage="benchmark",
            parent=None,
            training_cut_off_ms=0,
            training={"seed": 1},
        )


def users_of(count: int, users: int, zipf: float | None, seed: int) -> NDArray[np.int64]:
    """Whose event each of `count` is."""
    rng = np.random.default_rng(seed)
    if zipf is None:
        return rng.integers(0, users, count)
    shares = np.arange(1, users + 1, dtype=np.float64) ** -zipf
    ranks = np.searchsorted(np.cumsum(shares / shares.sum()), rng.random(count))
    return np.minimum(ranks, users - 1)


def events(users_N: NDArray[np.int64], *, seed: int, first_ms: int) -> list[Record]:
    """(key, payload) of one event for each of `users_N`, a millisecond apart."""
    rng = np.random.default_rng(seed)
    items = rng.zipf(1.2, len(users_N)) % ITEMS + 1
    categories = items % CATEGORIES + 1
    behaviours = rng.integers(0, len(BEHAVIOURS), len(users_N))
    made = []
    for time_ms, user, item, category, kind in zip(
        range(first_ms, first_ms + len(users_N)),
        users_N.tolist(),
        items.tolist(),
        categories.tolist(),
        behaviours.tolist(),
        strict=True,
    ):
        key = f"u{user}"
        made.append(
            (
                key.encode(),
                f'{{"user_id":"{key}","item_id":{item},"category_id":{category},"behaviour":"{BEHAVIOURS[kind]}",'
                f'"time_ms":{time_ms}}}'.encode(),
            )
        )
    return made
