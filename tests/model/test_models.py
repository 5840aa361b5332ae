"""Laws of every model behind the one interface (model/nn/ctr.py): padding, order, company, gradients, and the numpy oracle."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.nn.ctr import CtrModel, MemoryCtr, PooledCtr
from model.nn.history import Events, HistoryCtr
from model.nn.models import MODELS, make, make_memory
from model.nn.sequence import scan
from model.nn.state import first, pack
from model.nn.step import MemoryStep
from uic.errors import BadInput
from uic.memory import MemoryLayout
from uic.models import NAMES, AnyVariant, Delta, Gru4Rec, Mlp, Rum, Sdim, memory_from_json, model_variant, variant_from_json
from uic.oracle import NumpyStep
from uic.tolerance import memory_excess

ITEMS, CATEGORIES = 12, 5
MEMORIES = [name for name in NAMES if issubclass(MODELS[name], MemoryCtr)]
HISTORIES = [name for name in NAMES if issubclass(MODELS[name], HistoryCtr)]
UNORDERED = ("mlp", "din", "sdim")
histories = st.lists(st.tuples(st.integers(1, ITEMS - 1), st.integers(1, CATEGORIES - 1)), min_size=1, max_size=9)


def variant_of(name: str, pooling: str = "mean") -> AnyVariant:
    sizes: dict[str, dict[str, Any]] = {"sdim": {"hashes": 3, "bits": 2}, "delta": {"key_width": 5, "value_width": 3}}
    return model_variant(name, "default", embedding=3, slots=4, switches={"pooling": pooling, **sizes.get(name, {})})


def drawn(name: str, seed: int = 0, features: int = 0) -> CtrModel:
    """A model in float64 whose embeddings are as large as training makes them."""
    torch.manual_seed(seed)
    model = make(variant_of(name), item_rows=ITEMS, category_rows=CATEGORIES, head_features=features).double()
    with torch.no_grad():
        for table in (model.embedding.items, model.embedding.categories):
            table.weight[1:] = torch.randn(table.weight[1:].shape)
    return model


def rows(history: list[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
    items, categories = torch.tensor(history).view(-1, 2).unbind(1)
    return items.unsqueeze(0), categories.unsqueeze(0), torch.ones(1, len(history), dtype=torch.bool)


def seen_of(model: CtrModel, items_PL: Tensor, categories_PL: Tensor, mask_PL: Tensor) -> Any:
    """What the model sees of these histories, padded where the mask says so."""
    if isinstance(model, HistoryCtr):
        return Events(items_PL, categories_PL, mask_PL)
    assert isinstance(model, MemoryCtr)
    return pack(scan(model.step, model.embedding(items_PL, categories_PL), mask_PL).state)


def logits(model: CtrModel, items_PL: Tensor, categories_PL: Tensor, mask_PL: Tensor, candidates: int = 2) -> Tensor:
    candidate_N, kind_N = torch.arange(1, candidates + 1), torch.arange(candidates) % 3 + 1
    of_places = (candidate_N.expand(len(items_PL), -1), kind_N.expand(len(items_PL), -1))
    return model.logits(seen_of(model, items_PL, categories_PL, mask_PL), *of_places)


every_model = pytest.mark.parametrize("name", NAMES)
every_memory = pytest.mark.parametrize("name", MEMORIES)


@every_model
@settings(max_examples=8)
@given(histories, st.integers(10, 16), st.data())
def test_padding_anywhere_changes_nothing(name: str, history: list[tuple[int, int]], total: int, data: st.DataObject) -> None:
    model = drawn(name)
    places = sorted(data.draw(st.permutations(range(total)))[: len(history)])
    items, categories, _ = rows(history)
    mask = torch.zeros(1, total, dtype=torch.bool)
    mask[0, places] = True
    padded = [torch.full((1, total), 2).masked_scatter(mask, values) for values in (items, categories)]
    with torch.no_grad():
        torch.testing.assert_close(logits(model, *padded, mask), logits(model, *rows(history)), rtol=0, atol=1e-10)


@every_model
def test_the_order_of_events_matters_where_it_should(name: str) -> None:
    model = drawn(name)
    with torch.no_grad():
        one, other = (logits(model, *rows(history)) for history in ([(3, 1), (7, 2), (9, 4)], [(9, 4), (3, 1), (7, 2)]))
    difference = (one - other).abs().max().item()
    assert difference < 1e-12 if name in UNORDERED else difference > 1e-6


@every_model
def test_users_of_any_length_side_by_side_are_scored_as_each_alone(name: str) -> None:
    model = drawn(name)
    generator = torch.Generator().manual_seed(1)
    items, categories = (torch.randint(1, high, (4, 6), generator=generator) for high in (ITEMS, CATEGORIES))
    mask = torch.arange(6) < torch.tensor([[3], [6], [0], [1]])
    with torch.no_grad():
        together = logits(model, items, categories, mask)
        for user, length in ((0, 3), (1, 6), (3, 1)):
            alone = [tensor[user : user + 1, :length] for tensor in (items, categories, mask)]
            torch.testing.assert_close(together[user : user + 1], logits(model, *alone), rtol=0, atol=1e-10)
        candidates = torch.tensor([[1, 2]])
        torch.testing.assert_close(together[2:3], model.logits(model.blank(1), candidates, candidates), rtol=0, atol=1e-10)


@every_model
def test_each_candidate_is_scored_as_if_it_were_alone(name: str) -> None:
    model = drawn(name)
    with torch.no_grad():
        many, one = (logits(model, *rows([(3, 1), (7, 2), (9, 4)]), candidates=n) for n in (5, 1))
    torch.testing.assert_close(many[:, :1], one, rtol=0, atol=1e-10)


@every_model
def test_gradients_reach_every_parameter_and_never_the_padding_row(name: str) -> None:
    model = drawn(name, seed=3, features=2)
    generator = torch.Generator().manual_seed(2)
    items, categories = (torch.randint(1, high, (6, 9), generator=generator) for high in (ITEMS, CATEGORIES))
    candidates = torch.randint(1, CATEGORIES, (6, 3), generator=generator)
    mask = torch.arange(9) < torch.tensor([[9], [8], [4], [2], [1], [0]])
    features = torch.randn(6, 3, 2, generator=generator).double()
    scored = model.logits(seen_of(model, items, categories, mask), candidates, candidates, features)
    (scored[..., 0] - scored[..., 1]).square().sum().backward()
    for which, parameter in model.named_parameters():
        assert parameter.grad is not None, which
        # A softmax over scores does not see what is added to all of them.
        assert parameter.grad.abs().max() > 0 or which.endswith("attention.third.bias"), which
    for table in (model.embedding.items, model.embedding.categories):
        assert not table.weight.grad[0].any()


@every_memory
@settings(max_examples=6)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_a_run_over_many_events_is_the_fold_of_single_ones(name: str, lengths: list[int]) -> None:
    model = drawn(name)
    assert isinstance(model, MemoryCtr)
    going = sorted(lengths, reverse=True)
    events = torch.randn(4, len(going), 6, generator=torch.Generator().manual_seed(len(going))).double()
    state = first(model.initial_state(4), going[0])
    with torch.no_grad():
        runs = model.step.run(state, events[: going[0]], going)
        for t, (users, have) in enumerate(zip(going, runs, strict=True)):
            state = model.step(first(state, users), events[:users, t])
            torch.testing.assert_close(pack(have), pack(state), rtol=0, atol=1e-10)


@every_memory
def test_the_state_is_the_layout_whose_size_no_history_changes(name: str) -> None:
    model = drawn(name)
    assert isinstance(model, MemoryCtr)
    layout, state = MemoryLayout(memory_from_json(model.variant.to_json())), model.initial_state(2)
    given = {key: value for key, value in zip(type(state)._fields, state, strict=True) if value is not None}
    assert [(key, tuple(value.shape[1:])) for key, value in given.items()] == [(t.name, t.shape) for t in layout.tensors]
    with torch.no_grad():
        for _ in range(3):
            state = model.step(state, torch.ones(2, 6).double())
            assert pack(state).shape == (2, layout.size_F)
    assert model.unpack(pack(state)).applied.tolist() == [[3.0], [3.0]]


@pytest.mark.parametrize("pooling", ["mean", "sum"])
@every_memory
def test_the_numpy_oracle_makes_the_same_memory_of_200_events(name: str, pooling: str) -> None:
    torch.manual_seed(5)
    variant = variant_of(name, pooling)
    model = make_memory(variant, item_rows=ITEMS, category_rows=CATEGORIES)
    with torch.no_grad():
        for table in (model.embedding.items, model.embedding.categories):
            table.weight[1:] = 0.5 * torch.randn(table.weight[1:].shape)
    tables = [table.weight.detach().numpy() for table in (model.embedding.items, model.embedding.categories)]
    dense = {key: value.numpy() for key, value in model.state_dict().items() if not key.startswith("embedding.")}
    oracle, rng = NumpyStep(model.layout, dense, *tables), np.random.default_rng(5)
    with torch.no_grad():
        state = model.initial_state(3)
        state_BF = pack(state).numpy()
        for _ in range(200):
            items, categories = rng.integers(1, ITEMS, 3), rng.integers(1, CATEGORIES, 3)
            state = model.step(state, model.embedding(torch.from_numpy(items), torch.from_numpy(categories)))
            state_BF = oracle(state_BF, items, categories)
            assert (oracle.margin_B > 1e-6).all()
    for tensor, excess_B in memory_excess(model.layout, pack(state).numpy(), state_BF).items():
        assert excess_B.max() <= 1.0, tensor


def test_the_delta_rule_reads_back_what_was_written_last_under_a_key() -> None:
    model = drawn("delta")
    assert isinstance(model, PooledCtr)
    with torch.no_grad():
        model.step.to_gates.weight.zero_()
        model.step.to_gates.bias[:] = torch.tensor([40.0, 40.0, 40.0, 40.0])  # keeps all, writes all
        model.to_queries.weight.copy_(model.step.to_keys.weight)
        events = torch.randn(3, 6, generator=torch.Generator().manual_seed(1)).double()
        state = model.initial_state(1)
        for event in (*events, events[0]):
            state = model.step(state, event.unsqueeze(0))
        (read,) = model.read(state, events[:1].unsqueeze(0))
        torch.testing.assert_close(read[0, 0], model.step.to_values(events[0]), rtol=0, atol=1e-9)


def test_sdim_reads_the_events_that_share_the_candidates_signature() -> None:
    model = drawn("sdim")
    assert isinstance(model, PooledCtr)
    event = torch.randn(1, 6, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        state = model.step(model.step(model.initial_state(1), event), -event)
        for candidate in (event, -event):
            (read,) = model.read(state, 3.0 * candidate.unsqueeze(0))
            torch.testing.assert_close(read[0], candidate / candidate.norm(), rtol=0, atol=1e-9)
        (nothing,) = model.read(model.initial_state(1), event.unsqueeze(0))
        assert not nothing.any()


@pytest.mark.parametrize("name", HISTORIES)
def test_what_needs_raw_events_is_no_memory_and_says_so(name: str) -> None:
    variant = variant_of(name)
    for refused in (lambda: memory_from_json(variant.to_json()), lambda: make_memory(variant, item_rows=2, category_rows=2)):
        with pytest.raises(BadInput, match=rf"{name} looks at a user's raw events .* neither exported nor streamed; mimn, mlp"):
            refused()


@every_model
def test_a_variant_survives_json_and_a_newer_one_is_refused(name: str) -> None:
    variant = variant_of(name)
    assert variant_from_json(variant.to_json()) == variant
    with pytest.raises(BadInput, match="unknown switches"):
        variant_from_json({**variant.to_json(), "forgetting": 1})
    with pytest.raises(BadInput, match="expected a model out of mimn, mlp"):
        variant_from_json({**variant.to_json(), "model": "sasrec"})


@pytest.mark.parametrize(
    "one", [Mlp(), Mlp(pooling="sum"), Gru4Rec(units=8), Rum(slots=3), Sdim(bits=2), Delta(heads=1), Delta(key_width=8)]
)
def test_no_two_memories_share_a_layout(one: Any) -> None:
    others = [Mlp(), Gru4Rec(), Rum(), Sdim(), Delta()]
    assert sum(MemoryLayout(one).layout_id == MemoryLayout(other).layout_id for other in others) == (one in others)


def test_every_memory_has_a_run_of_its_own_or_the_one_of_the_interface() -> None:
    assert {name for name in MEMORIES if type(drawn(name).step).run is not MemoryStep.run} == {"mimn"}
