"""The optimiser: AdamW, which of a large table moves the rows that a step has read and leaves the others alone."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim.adamw import adamw

from model.nn.ctr import CtrModel
from model.training.config import TrainConfig


class RowAdamW(torch.optim.AdamW):
    """AdamW whose step costs what the rows cost that it moves.

    Dense gradients: AdamW itself, bit for bit. A table with a sparse gradient (model/nn/embedding.py): the rows that the
    gradient names move as AdamW would move a table of these rows alone, counting the table's steps. The other rows rest: their
    weights do not decay, what momentum they have does not move them, and their moments do not fade. (AdamW moves a row for some
    ten steps more after it was read once, so that the same reading moves it less far here.)

    The state is AdamW's, so training goes on with sparse gradients where it was dense before, and the other way round.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # nobody here asks it to compute the loss anew
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    self._move_rows(parameter, parameter.grad.coalesce(), group)
                    parameter.grad = None  # it is used up; AdamW refuses what is sparse
        super().step()

    def _move_rows(self, table: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[table]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
        rows_R = gradient.indices()[0]
        held = (table, state["exp_avg"], state["exp_avg_sq"])
        weight_RE, mean_RE, square_RE = (each[rows_R] for each in held)
        beta1, beta2 = group["betas"]
        adamw(
            [weight_RE], [gradient.values()], [mean_RE], [square_RE], [], [state["step"]], foreach=False,
            amsgrad=False, beta1=beta1, beta2=beta2, lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"],
            maximize=False,
        )  # fmt: skip
        for each, moved_RE in zip(held, (weight_RE, mean_RE, square_RE), strict=True):
            each.index_copy_(0, rows_R, moved_RE)


def optimiser_of(model: CtrModel, config: TrainConfig) -> RowAdamW:
    """The optimiser of a run; its large tables are trained row by row from now on."""
    model.embedding.give_rows(config.large_table_rows)
    plain = [p for p in model.parameters() if p.dim() < 2]
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return RowAdamW(groups, lr=config.learning_rate)


def average_and_cut(model: nn.Module, samples: int, most: float) -> None:
    """Divide gradients that were summed over so many samples, and cut them, all taken as one vector, to the norm `most`."""
    gradients = []
    for parameter in model.parameters():
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            # One row for each that was read: the zeros beside them add nothing to the norm.
            gradients.append(parameter.grad.values())
        elif parameter.grad is not None:
            gradients.append(parameter.grad)
    for gradient in gradients:
        gradient /= samples
    factor = (most / (get_total_norm(gradients) + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient *= factor
