"""How many samples a second each model trains on: forward and backward of batches with one target a history.

    python -m benchmarks.training                     every model, 128 histories of 100 events, on one thread
    python -m benchmarks.training --threads 2 --models mimn dien

Rounds go through all models in turn, so that what else the machine does meets each alike; the median round counts. The
optimiser is left out: it costs every model the same, and depends on the size of the tables.
"""

import argparse
import statistics
import time

import numpy as np
import torch

from model.nn.ctr import CtrModel
from model.nn.losses import ctr_loss
from model.nn.models import make
from model.training.histories import Places, UserBatch
from model.training.reading import readings, score_places
from uic.models import NAMES, model_variant

ITEMS, CATEGORIES = 10_000, 100


def batch_of(users: int, length: int, seed: int = 1) -> UserBatch:
    """Histories of one length at random, each read once at its end for one candidate."""
    rng = np.random.default_rng(seed)
    places = Places(
        user_P=np.arange(users),
        position_P=np.full(users, length),
        item_PN=rng.integers(1, ITEMS, (users, 1)),
        category_PN=rng.integers(1, CATEGORIES, (users, 1)),
        label_PN=rng.integers(0, 2, (users, 1)).astype(np.float32),
        mask_PN=np.ones((users, 1), dtype=bool),
        sample_PN=np.arange(users)[:, None],
        features_PNC=None,
    )
    nobody = torch.zeros(0, dtype=torch.long)
    return UserBatch(
        places,
        torch.from_numpy(rng.integers(1, ITEMS, (users, length))),
        torch.from_numpy(rng.integers(1, CATEGORIES, (users, length))),
        places.position_P,
        [nobody] * length + [torch.arange(users)],
    )


def make_model(name: str) -> CtrModel:
    """A model of the default sizes, untrained."""
    torch.manual_seed(1)
    variant = model_variant(name, "default", embedding=16, slots=8, switches={})
    return make(variant, item_rows=ITEMS, category_rows=CATEGORIES)


def forward_and_backward(model: CtrModel, batch: UserBatch) -> float:
    """Seconds of one batch."""
    began = time.perf_counter()
    model.zero_grad(set_to_none=True)
    for part, seen, _ in readings(model, batch, chunk=batch.positions):
        logits = score_places(model, seen, part)
        ctr_loss(logits, torch.from_numpy(part.label_PN)).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return time.perf_counter() - began


def measure(names: list[str], *, users: int, length: int, rounds: int) -> dict[str, float]:
    """The median seconds of a batch by model."""
    batch, models = batch_of(users, length), {name: make_model(name) for name in names}
    for model in models.values():
        forward_and_backward(model, batch)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, model in models.items():
            taken[name].append(forward_and_backward(model, batch))
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--batch", type=int, default=128, help="histories of a batch")
    parser.add_argument("--length", type=int, default=100, help="events of a history")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    taken = measure(asked.models, users=asked.batch, length=asked.length, rounds=asked.rounds)
    dien_s = taken.get("dien")
    print(f"{asked.batch} histories of {asked.length} events, {asked.threads} thread(s), torch {torch.__version__}")  # noqa: T201  # a benchmark's output
    for name, seconds in taken.items():
        compared = f"  {seconds / dien_s:5.2f} of DIEN's time" if dien_s else ""
        print(f"{name:8} {1000 * seconds:7.1f} ms  {asked.batch / seconds:8.0f} samples/s{compared}")  # noqa: T201  # see above


if __name__ == "__main__":
    main()
