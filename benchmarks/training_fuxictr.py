"""The side of FuxiCTR in its own environment: one forward and backward of its DIN or DIEN whenever a line names it.

    python training_fuxictr.py USERS LENGTH ITEMS CATEGORIES THREADS        then a name a line on standard input

Answers with the names there are, then with seconds, a line each. Run by benchmarks/training.py; nothing of this project can be
imported here. The models are those of the wheel (model_zoo.LongCTR), of the sizes that model/nn has by default.

    same      the layers that model/nn has too: attention by an MLP of 80 and 40 with sigmoid, softmax, PReLU, sums of events
    default   as FuxiCTR has them: Dice and no softmax for DIN, a bilinear attention, batch norm and no sums for DIEN
"""

import sys
import tempfile
import time
from typing import Any

import torch
from fuxictr.features import FeatureMap  # type: ignore[import-not-found]  # it is in an environment of its own
from model_zoo.LongCTR.DIEN.DIEN import DIEN  # type: ignore[import-not-found]  # see above
from model_zoo.LongCTR.DIN.DIN import DIN  # type: ignore[import-not-found]  # see above

EMBEDDING = 16
_SIZES = {"dnn_hidden_units": [200, 80], "attention_hidden_units": [80, 40], "embedding_dim": EMBEDDING}
_SAME = {"dnn_activations": "PReLU", "batch_norm": False}
_REST = {
    "optimizer": "adam", "loss": "binary_crossentropy", "task": "binary_classification", "metrics": ["AUC"],
    "verbose": 0, "model_root": tempfile.gettempdir(),
}  # fmt: skip
MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "din, same": (DIN, {**_SAME, "attention_hidden_activations": "Sigmoid", "din_use_softmax": True}),
    "dien, same": (
        DIEN,
        {**_SAME, "attention_type": "din_attention", "attention_activation": "Sigmoid", "enable_sum_pooling": True},
    ),
    "din, default": (DIN, {}),
    "dien, default": (DIEN, {}),
}


def features(items: int, categories: int) -> FeatureMap:
    """An item and its category, for the candidate and for every event alike."""
    made = FeatureMap("training", tempfile.gettempdir())
    for name, rows in (("item_id", items), ("cate_id", categories)):
        made.features[name] = {
            "source": "item", "type": "categorical", "vocab_size": rows, "padding_idx": 0, "embedding_dim": EMBEDDING,
        }  # fmt: skip
    made.labels = ["label"]
    return made


def batch_of(users: int, length: int, items: int, categories: int) -> tuple[dict[str, Any], dict[str, Any], torch.Tensor]:
    """Histories of one length at random, the candidate behind each."""
    drawn = torch.Generator().manual_seed(1)
    rows = {
        name: torch.randint(1, most, (users * (length + 1),), generator=drawn)
        for name, most in (("item_id", items), ("cate_id", categories))
    }
    labels = torch.randint(0, 2, (users,), generator=drawn).float()
    return {"label": labels}, rows, torch.ones(users, length)


def forward_and_backward(model: Any, batch: tuple[dict[str, Any], dict[str, Any], torch.Tensor]) -> float:
    """Seconds of one batch."""
    began = time.perf_counter()
    model.zero_grad(set_to_none=True)
    model.compute_loss(model.forward(batch), model.get_labels(batch)).backward()
    return time.perf_counter() - began


def main(users: int, length: int, items: int, categories: int, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    batch, known = batch_of(users, length, items, categories), features(items, categories)
    models = {name: kind(known, **_SIZES, **asked, **_REST).train() for name, (kind, asked) in MODELS.items()}
    print(";".join(models), flush=True)  # noqa: T201  # what the other side reads
    for line in sys.stdin:
        print(forward_and_backward(models[line.strip()], batch), flush=True)  # noqa: T201  # see above


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
