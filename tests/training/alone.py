"""What training computes in one scan, computed the slow way: every sample from a fold of its own, event by event."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.data.dataset import Dataset
from model.nn.ctr import MimnCtr
from model.nn.losses import ctr_loss, utilization_loss
from model.nn.mimn import MimnState
from model.training.config import TrainConfig
from model.training.histories import Histories
from model.training.run import Run


class Alone:
    """Samples of a dataset scored one by one, each user's history read from the event table."""

    def __init__(self, data: Dataset, made: Run) -> None:
        self.samples = data.samples()
        self._vocabularies = made.vocabularies
        self._events = {user: table.sort_values("position") for user, table in data.events().groupby("user")}

    def memory(self, model: MimnCtr, user: str, position: int) -> MimnState:
        """The memory of a user after the first `position` events."""
        state = model.initial_state(1)
        items, categories = self._vocabularies
        history = self._events[user].iloc[:position]
        for item, category in zip(history["item_id"], history["category_id"], strict=True):
            event = model.embedding(torch.tensor([items.row(item)]), torch.tensor([categories.row(category)]))
            state = model.step(state, event)
        return state

    def logits(self, model: MimnCtr, sample: "pd.Series[float]", state: MimnState) -> Tensor:
        items, categories = self._vocabularies
        item, category = items.row(int(sample["item_id"])), categories.row(int(sample["category_id"]))
        return model.score(state, torch.tensor([[item]]), torch.tensor([[category]]))[0, 0]

    def losses(self, model: MimnCtr, rows: Iterable[int], config: TrainConfig) -> Tensor:
        """The loss of each of these samples, [S]."""
        losses = []
        for row in rows:
            sample = self.samples.iloc[row]
            state = self.memory(model, sample["user"], int(sample["position"]))
            loss = ctr_loss(self.logits(model, sample, state), torch.tensor(float(sample["label"])), config.loss)
            losses.append(loss + utilization_loss(state.utilization, config.regulariser, config.regulariser_weight))
        return torch.stack(losses)

    @torch.no_grad()
    def probabilities(self, model: MimnCtr, rows: Iterable[int]) -> NDArray[np.float32]:
        scored = []
        for row in rows:
            sample = self.samples.iloc[row]
            logits = self.logits(model, sample, self.memory(model, sample["user"], int(sample["position"])))
            scored.append(torch.softmax(logits, dim=-1)[0].item())
        return np.array(scored, dtype=np.float32)


def untrained(made: Run) -> MimnCtr:
    """The model with which a run begins."""
    torch.manual_seed(made.plan.config.seed)
    return made.model()


def histories_of(data: Dataset, made: Run) -> Histories:
    return Histories.of(data, made.vocabularies.items, made.vocabularies.categories)
