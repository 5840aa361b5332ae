"""A large table is trained by the rows that a step has read: as AdamW trains them, and the others rest."""

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import small
import torch
from alone import histories_of, untrained
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from model.data.dataset import Dataset
from model.experiments.arms import content_name
from model.nn.ctr import MimnCtr
from model.training.config import TrainConfig
from model.training.optimiser import RowAdamW, average_and_cut, optimiser_of
from model.training.run import Run, RunPlan
from model.training.train import train_epoch

WIDTH = 4
ROW_BY_ROW = {"large_table_rows": 1}


def table_of(rows: int, *, sparse: bool, seed: int = 1) -> nn.Embedding:
    torch.manual_seed(seed)
    return nn.Embedding(rows, WIDTH, padding_idx=0, sparse=sparse)


def moved(table: nn.Embedding, steps: list[list[int]], optimiser: torch.optim.Optimizer) -> Tensor:
    """The table after steps that read these rows, each in two backward passes, as gradients are accumulated in training."""
    generator = torch.Generator().manual_seed(2)
    for rows in steps:
        wanted = torch.randn(len(rows), WIDTH, generator=generator)
        for part in (slice(0, 2), slice(2, None)):
            (table(torch.tensor(rows[part], dtype=torch.long)) - wanted[part]).square().sum().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return table.weight.detach().clone()


@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(2, 7),
    steps=st.integers(1, 5),
    more=st.lists(st.integers(0, 6), max_size=8),
    decay=st.sampled_from([0.0, 1e-6, 0.5]),
)
def test_steps_that_read_every_row_are_adamws_steps(rows: int, steps: int, more: list[int], decay: float) -> None:
    read = [[*range(rows), *(row % rows for row in more)]] * steps
    ways = {}
    for sparse in (False, True):
        table = table_of(rows, sparse=sparse)
        kind = RowAdamW if sparse else torch.optim.AdamW
        ways[sparse] = moved(table, read, kind(table.parameters(), lr=0.1, weight_decay=decay))
    # The same terms in another order.
    torch.testing.assert_close(ways[True], ways[False], rtol=1e-5, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(read=st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=5))
def test_rows_that_nobody_reads_rest_and_padding_never_trains(read: list[list[int]]) -> None:
    table = table_of(10, sparse=True)
    before = table.weight.detach().clone()
    optimiser = RowAdamW(table.parameters(), lr=0.1, weight_decay=0.5)
    after = moved(table, read, optimiser)
    met = sorted({row for rows in read for row in rows} - {0})
    rest = [row for row in range(10) if row not in met]
    assert torch.equal(after[rest], before[rest])
    assert (after[met] != before[met]).any(dim=1).all()
    state = optimiser.state[table.weight]
    if state:
        assert not state["exp_avg"][rest].any()
        assert not state["exp_avg_sq"][rest].any()


def test_a_row_rests_between_two_readings_moments_and_all() -> None:
    table = table_of(4, sparse=True)
    optimiser = RowAdamW(table.parameters(), lr=0.1, weight_decay=0.5)
    after = moved(table, [[1, 2]], optimiser)
    mean = optimiser.state[table.weight]["exp_avg"].clone()
    later = moved(table, [[2], [2]], optimiser)
    assert torch.equal(later[1], after[1])
    assert torch.equal(optimiser.state[table.weight]["exp_avg"][1], mean[1])
    assert optimiser.state[table.weight]["step"] == 3


@pytest.mark.parametrize("most", [0.01, 1e9])
def test_gradients_are_cut_as_one_vector_however_they_are_kept(most: float) -> None:
    cut = {}
    for sparse in (False, True):
        model = nn.Sequential(table_of(5, sparse=sparse), nn.Linear(WIDTH, 1))
        for rows in ([1, 1, 3], [3, 4]):
            model(torch.tensor(rows)).square().sum().backward()
        average_and_cut(model, 5, most)
        cut[sparse] = [each.grad.to_dense() for each in model.parameters() if each.grad is not None]
    for one, other in zip(cut[True], cut[False], strict=True):
        torch.testing.assert_close(one, other)
    assert torch.cat([each.flatten() for each in cut[True]]).norm() <= most * 1.001


class Case:
    """Five users, and a model that has not been trained."""

    def __init__(self, root: Path) -> None:
        self.data: Dataset = small.dataset(root / "data", users=5, rows=70, items=10)
        self.run = small.run(root / "run", self.data)
        self.histories = histories_of(self.data, self.run)
        self.places = self.histories.places((self.histories.samples["split"] == "train").to_numpy())

    def trained(self, config: TrainConfig) -> MimnCtr:
        """The model after one epoch."""
        model = copy.deepcopy(untrained(self.run))
        train_epoch(model, optimiser_of(model, config), self.histories, self.places, config, 1, lambda at: None)
        return model


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("large"))


def test_the_first_step_of_a_training_is_the_same_either_way(case: Case) -> None:
    # Several backward passes and one step, whose gradient is cut; at first no row has momentum that could go on moving it.
    asked = {**small.CONFIG, "chunk": 5, "samples_per_step": 10**6, "clip_norm": 0.05, "weight_decay": 0.0}
    dense, by_rows = (case.trained(TrainConfig(**{**asked, **more})) for more in ({}, ROW_BY_ROW))
    assert by_rows.embedding.items.sparse
    assert not dense.embedding.items.sparse
    for name, value in dense.state_dict().items():
        torch.testing.assert_close(by_rows.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_a_table_is_large_by_its_own_rows(case: Case) -> None:
    items, categories = (len(each) for each in case.run.vocabularies)
    assert categories < items
    model = untrained(case.run)
    model.embedding.give_rows(items)
    assert model.embedding.items.sparse
    assert not model.embedding.categories.sparse


def test_a_run_row_by_row_is_one_training_however_often_it_was_begun(case: Case, tmp_path: Path) -> None:
    straight = small.trained(tmp_path / "straight", case.data, config=ROW_BY_ROW)
    begun = small.trained(tmp_path / "begun", case.data, config={**ROW_BY_ROW, "epochs": 1})
    small.train_quietly(begun.with_epochs(2), case.data)
    assert small.without_seconds(begun.metrics) == small.without_seconds(straight.metrics)
    one, other = begun.load("last.pt"), straight.load("last.pt")
    assert one is not None
    assert other is not None
    for name, value in other["model"].items():
        assert torch.equal(one["model"][name], value), name
    for place, state in other["optimiser"]["state"].items():
        for name, value in state.items():
            assert torch.equal(one["optimiser"]["state"][place][name], value), name


def test_an_optimisers_state_is_the_same_thing_for_both_ways(case: Case) -> None:
    dense, by_rows = (optimiser_of(untrained(case.run), TrainConfig(large_table_rows=rows)) for rows in (10**6, 1))
    for one, other in ((dense, by_rows), (by_rows, dense)):
        other.load_state_dict(one.state_dict())
    config = TrainConfig(**{**small.CONFIG, **ROW_BY_ROW})
    model = untrained(case.run)
    optimiser = optimiser_of(model, config)
    train_epoch(model, optimiser, case.histories, case.places, config, 1, lambda at: None)
    model.embedding.give_rows(10**6)
    train_epoch(model, optimiser, case.histories, case.places, config, 2, lambda at: None)
    assert all(each.isfinite().all() for each in model.parameters())


def test_trained_on_row_by_row_what_nobody_reads_stays_the_parents(case: Case, tmp_path: Path) -> None:
    known = case.run.vocabularies
    grown = known._replace(items=known.items.extended(np.arange(1000, 1010)))
    plan = dataclasses.replace(case.run.plan, train={**case.run.plan.train, **ROW_BY_ROW, "epochs": 1})
    made = Run.create(tmp_path / "run", plan, grown)
    parent = untrained(made).state_dict()
    made.save("parent.pt", {"model": parent})
    small.train_quietly(made, case.data)
    before, after = parent["embedding.items.weight"], made.best_model().embedding.items.weight
    assert torch.equal(after[-10:], before[-10:])
    assert torch.equal(after[0], torch.zeros_like(after[0]))
    assert (after[2:-10] != before[2:-10]).any(dim=1).all()


def test_settings_that_came_later_leave_the_name_of_a_run_as_it_was() -> None:
    on_cpu = TrainConfig(device="cpu")
    assert content_name("mimn", 7, on_cpu.decisive()) == "mimn-s7-b08dc3ce56"
    assert TrainConfig(device="cpu", threads=2).decisive() == on_cpu.decisive()
    for changed in (TrainConfig(device="cpu", precision="bfloat16"), TrainConfig(device="cpu", large_table_rows=10)):
        assert changed.decisive() != on_cpu.decisive()


def test_a_run_begun_before_there_was_mixed_precision_was_trained_in_float32(case: Case) -> None:
    plan = case.run.plan
    older = {name: value for name, value in plan.train.items() if name not in ("precision", "large_table_rows")}
    begun = RunPlan(**{**vars(plan), "train": {**older, "device": "cpu"}})
    asked = RunPlan(**{**vars(plan), "train": TrainConfig(**{**small.CONFIG, "device": "cpu"}).resolved().to_json()})
    assert begun.differences(asked) == []
    assert begun.config.precision == "float32"
