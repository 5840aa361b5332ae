"""Ten thousand events a user: what becomes of a memory and of the scores from it, long after what training has seen.

Every history is repeated until it is long enough, and read whenever it has been gone through once more: interests that do not
change. A memory that lasts scores then as it did after the first time; what it loses, it loses by its age alone.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from model.data.dataset import Dataset
from model.experiments.arms import Json
from model.experiments.lineage import scanned
from model.nn.ctr import probability
from model.training.evaluate import Scored
from model.training.histories import Histories, Places
from model.training.reading import score_places
from model.training.run import Run
from uic.memory import MemoryLayout

MOMENTS = (300, 1000, 3000, 10_000)
_USERS = 256
_LEAST_EVENTS = 20


@torch.no_grad()
def long_run(run: Run, dataset: Dataset, users: int = _USERS, moments: Sequence[int] = MOMENTS) -> list[Json]:
    """After each history as it is, then repeated up to about so many events (the median of `events`): the AUC, how far the
    probabilities have moved on average, and how far each tensor of the memories."""
    model = run.best_memory().eval()
    histories = Histories.of(dataset, *run.vocabularies)
    chosen = (histories.samples["split"] == "test").to_numpy()
    places = _some(histories.places(chosen, run.plan.features, most=1), users)
    length_P = places.position_P
    rounds_RP = np.stack([np.ones_like(length_P), *(-(-moment // length_P) for moment in moments)])
    repeated = _repeated(histories, places, rounds_RP[-1])
    everyone, stop_P = np.arange(len(places)), np.zeros_like(length_P)
    state_PF = model.blank(len(places)).clone()
    found: list[Json] = []
    for rounds_P in rounds_RP:
        start_P, stop_P = stop_P, length_P * rounds_P
        own = repeated.spans(everyone, start_P, stop_P)
        ahead = dataclasses.replace(places, user_P=everyone, position_P=stop_P - start_P)
        for part, read_PF in scanned(model, own, ahead, state_PF.clone()):
            state_PF[part.user_P] = read_PF
        probability_PN = probability(score_places(model, state_PF, places)).numpy()
        if not found:
            first_PF, first_PN = state_PF.clone(), probability_PN
        found.append(
            {
                "events": int(np.median(stop_P)),
                "auc": Scored(places, probability_PN, np.zeros((len(places), 0), np.float32)).measure("long run").auc,
                "moved": float(np.abs(probability_PN - first_PN)[places.mask_PN].mean()),
                "distance": _distances(model.layout, first_PF, state_PF),
            }
        )
    return found


def _some(places: Places, users: int) -> Places:
    """The last test place of so many users, drawn once, who have a history worth repeating."""
    long_enough = np.flatnonzero(places.position_P >= _LEAST_EVENTS)
    drawn = np.random.default_rng(0).permutation(long_enough)[:users]
    return places.take(np.sort(drawn))


def _repeated(histories: Histories, places: Places, rounds_P: "np.typing.NDArray[np.int64]") -> Histories:
    """Each place as a user of its own whose history is gone through so many times."""
    once = [
        tuple(part[:stop] for part in histories.rows_of(int(user)))
        for user, stop in zip(places.user_P, places.position_P, strict=True)
    ]
    items = [np.tile(item, rounds) for (item, _), rounds in zip(once, rounds_P, strict=True)]
    categories = [np.tile(category, rounds) for (_, category), rounds in zip(once, rounds_P, strict=True)]
    return dataclasses.replace(
        histories,
        users=np.arange(len(places)).astype(object),
        offsets=np.append(0, np.cumsum([len(each) for each in items])).astype(np.int64),
        item_rows=np.concatenate(items),
        category_rows=np.concatenate(categories),
    )


def _distances(layout: MemoryLayout, first_PF: torch.Tensor, now_PF: torch.Tensor) -> dict[str, float]:
    """How far each tensor has moved, over its norm after the first time; the median over the users."""
    found, start = {}, 0
    for spec in layout.tensors:
        part = slice(start, start + spec.size)
        start += spec.size
        if spec.name in ("applied", "utilization", *layout.variant.summed):  # they count events, and grow with them
            continue
        moved = (now_PF[:, part] - first_PF[:, part]).norm(dim=1) / first_PF[:, part].norm(dim=1).clamp_min(1e-12)
        found[spec.name] = float(moved.median())
    return found
