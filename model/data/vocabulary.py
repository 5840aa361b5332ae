"""The two vocabularies of a dataset, items and categories, and their file. The lookup itself is uic/vocabulary.py."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from uic.errors import BadInput
from uic.vocabulary import Vocabulary


class Vocabularies(NamedTuple):
    """The raw item ids and category ids that have an embedding row of their own, in row order."""

    items: Vocabulary
    categories: Vocabulary

    def save(self, path: Path) -> None:
        """Write `item_ids` and `category_ids` to an uncompressed .npz."""
        np.savez(path, item_ids=self.items.ids, category_ids=self.categories.ids)

    @classmethod
    def load(cls, path: Path) -> "Vocabularies":
        """Read what `save` wrote; raises BadInput for anything else. Never unpickles."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in ("item_ids", "category_ids")}
        except FileNotFoundError:
            raise BadInput(f"{path}: expected the vocabulary, but the file is missing; prepare the dataset again") from None
        except Exception as error:  # np.load answers damaged bytes with errors of zipfile, zlib, struct, pickle and its own
            raise BadInput(f"{path}: expected arrays item_ids and category_ids, got {error}") from None
        for name, ids in arrays.items():
            if ids.dtype != np.int64 or ids.ndim != 1:
                raise BadInput(f"{path}: {name}: expected a list of int64, got {ids.dtype} of shape {ids.shape}")
        return cls(Vocabulary(arrays["item_ids"]), Vocabulary(arrays["category_ids"]))
