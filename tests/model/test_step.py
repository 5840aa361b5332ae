"""The laws of one step (model/nn/mimn.py), the same for every preset and ablation."""

import pytest
import torch
from drawn_models import SIZES, VARIANTS, fold, largest_difference, make_events, make_step, tensors
from hypothesis import given, settings
from hypothesis import strategies as st

from model.nn.mimn import MimnState, MimnStep, write_memory
from uic.memory import MemoryLayout
from uic.variant import Variant, preset

every_variant = pytest.mark.parametrize("name", VARIANTS)
every_seed = pytest.mark.parametrize("seed", [0, 1, 2])


def assert_laws_of_one_step(step: MimnStep, users: int, length: int, seed: int) -> None:
    """What holds for any step: weights sum to 1, finite states of fixed shapes, counts, gates in their ranges."""
    v = step.variant
    events_BTX = make_events(step, users, length, seed)
    state = step.initial_state(users)
    shapes = [(spec.name, (users, *spec.shape)) for spec in MemoryLayout(v).tensors]
    with torch.no_grad():
        for t in range(length):
            before = state
            kept = before.map(torch.clone)
            state, trace = step.advance(before, step.project(events_BTX[:, t]))
            assert largest_difference(before, kept) == 0.0, "the state given was changed"
            for weights_BM in (trace.read_weights, trace.write_weights):
                assert (weights_BM >= 0).all()
                assert torch.allclose(weights_BM.sum(-1), torch.ones(users).double(), atol=1e-12)
            assert (trace.add.abs() <= 1).all()
            assert [(name, tuple(tensor.shape)) for name, tensor in tensors(state).items()] == shapes
            assert all(torch.isfinite(tensor).all() for tensor in tensors(state).values())
            assert (state.applied == t + 1).all()
            # Each event adds weights of sum 1 to g, whichever regularisation is on.
            assert torch.allclose(state.utilization.sum(-1), torch.full((users,), t + 1.0).double(), atol=1e-9)
            if state.channels is not None and before.channels is not None:
                changed_BM = (state.channels != before.channels).any(-1)
                assert (changed_BM.sum(-1) == v.top_channels).all()
                best = trace.read_weights.sort(descending=True).indices[:, : v.top_channels]
                assert changed_BM.gather(1, best).all()
                if state.last_channels is not None:
                    assert torch.equal(state.last_channels, changed_BM.double())


@every_variant
@every_seed
def test_every_variant_keeps_the_laws_of_one_step(name: str, seed: int) -> None:
    assert_laws_of_one_step(make_step(VARIANTS[name], seed), users=3, length=6, seed=seed)


@settings(max_examples=40)
@given(
    st.builds(
        Variant,
        event_width=st.integers(1, 5),
        controller_units=st.integers(1, 5),
        slots=st.integers(3, 7),
        slot_width=st.integers(1, 5),
        output_width=st.integers(1, 5),
        top_channels=st.integers(1, 3),
        mur=st.sampled_from(["none", "shift", "transfer"]),
        utilization=st.sampled_from(["raw", "share"]),
        key_memory=st.booleans(),
        temperature=st.booleans(),
        miu=st.booleans(),
        miu_memory=st.sampled_from(["before", "after"]),
        miu_readout=st.sampled_from(["state", "last_output"]),
        pooling=st.sampled_from(["sum", "mean"]),
        head_controller=st.booleans(),
        read_feedback=st.booleans(),
    ),
    st.integers(1, 3),
)
def test_any_sizes_and_switches_keep_the_laws_of_one_step(variant: Variant, users: int) -> None:
    assert_laws_of_one_step(make_step(variant), users, length=3, seed=0)


@every_variant
def test_the_size_of_a_memory_does_not_depend_on_how_long_the_history_is(name: str) -> None:
    step = make_step(VARIANTS[name])
    sizes = {fold(step, make_events(step, 1, length)).pack().shape for length in (0, 1, 50)}
    assert sizes == {(1, MemoryLayout(step.variant).size_F)}


@every_variant
def test_packing_a_state_is_undone_by_unpacking_it_in_the_order_of_the_layout(name: str) -> None:
    step = make_step(VARIANTS[name])
    layout = MemoryLayout(step.variant)
    state = fold(step, make_events(step, 2, 3))
    assert largest_difference(MimnState.unpack(state.pack(), layout), state) == 0.0
    views = layout.split(state.pack().float().numpy())
    for name_of, tensor in tensors(state).items():
        assert torch.equal(torch.from_numpy(views[name_of].copy()), tensor.float())


@every_variant
def test_users_of_a_batch_do_not_touch_each_other(name: str) -> None:
    step = make_step(VARIANTS[name])
    events = make_events(step, 3, 5)
    together = fold(step, events)
    for user in range(3):
        alone = fold(step, events[user : user + 1])
        assert largest_difference(together.map(lambda tensor: tensor[user : user + 1]), alone) < 1e-12  # noqa: B023  # called before the loop goes on


@every_variant
def test_the_order_of_events_matters(name: str) -> None:
    step = make_step(VARIANTS[name])
    events = make_events(step, 1, 4)
    assert largest_difference(fold(step, events), fold(step, events.flip(1))) > 1e-3


@every_variant
def test_reading_with_candidates_changes_no_memory_and_each_candidate_reads_alone(name: str) -> None:
    step = make_step(VARIANTS[name])
    state = fold(step, make_events(step, 2, 5))
    kept = state.map(torch.clone)
    candidates = make_events(step, 2, 4, seed=9)
    with torch.no_grad():
        read_BNO = step.candidate_read(state, candidates)
        assert largest_difference(state, kept) == 0.0
        for n in range(4):
            assert torch.allclose(step.candidate_read(state, candidates[:, n : n + 1])[:, 0], read_BNO[:, n], atol=1e-12)
    assert (read_BNO[:, 0] - read_BNO[:, 1]).abs().max() > 1e-4


@every_variant
def test_reading_with_a_candidate_is_the_output_of_one_more_step_on_it_and_its_read(name: str) -> None:
    step = make_step(VARIANTS[name])
    state = fold(step, make_events(step, 2, 5))
    candidate = make_events(step, 2, 1, seed=9)
    with torch.no_grad():
        assert torch.allclose(
            step.candidate_read(state, candidate)[:, 0], step.output(step(state, candidate[:, 0])), atol=1e-12
        )


def test_the_write_is_equation_4_by_numbers() -> None:
    slots = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    weights, erase, add = torch.tensor([[0.5, 0.0, 1.0]]), torch.tensor([[1.0, 0.5]]), torch.tensor([[10.0, -2.0]])
    after = write_memory(slots, weights, erase, add)
    #  1 (1 - .5) + .5 10, 2 (1 - .25) - .5 2;   untouched;   5 (1 - 1) + 10, 6 (1 - .5) - 2
    assert after.tolist() == [[[5.5, 0.5], [3.0, 4.0], [10.0, 1.0]]]
    assert slots.tolist() == [[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]]


def test_means_and_sums_of_events_are_what_they_are_called() -> None:
    for pooling in ("sum", "mean"):
        step = make_step(preset("default", pooling=pooling, **SIZES))
        events = make_events(step, 2, 7)
        state, adds = step.initial_state(2), []
        with torch.no_grad():
            for t in range(7):
                state, trace = step.advance(state, step.project(events[:, t]))
                adds.append(trace.add)
        add_BTD = torch.stack(adds, 1)
        expected = (events.sum(1), add_BTD.sum(1)) if pooling == "sum" else (events.mean(1), add_BTD.mean(1))
        assert torch.allclose(state.event_pool, expected[0], atol=1e-12)
        assert torch.allclose(state.add_pool, expected[1], atol=1e-12)


@pytest.mark.parametrize("top_channels", [1, 2, 3])
def test_equal_read_weights_update_the_channels_of_the_lowest_indexes(top_channels: int) -> None:
    # Equal slots without key memory: every read weight is the same.
    step = make_step(
        preset("default", mur="none", key_memory=False, top_channels=top_channels, miu_readout="last_output", **SIZES)
    )
    state = step.initial_state(2)._replace(slots=torch.ones(2, 4, 6).double())
    after, trace = step.advance(state, step.project(make_events(step, 2, 1)[:, 0]))
    assert torch.equal(trace.read_weights, trace.read_weights[:, :1].expand(-1, 4))
    assert after.last_channels is not None
    assert after.last_channels.tolist() == [[1.0] * top_channels + [0.0] * (4 - top_channels)] * 2


def test_the_channel_is_fed_by_the_slot_before_or_after_the_write_as_the_variant_says() -> None:
    made = {}
    for when in ("before", "after"):
        step = make_step(preset("default", miu_memory=when, **SIZES))
        state = fold(step, make_events(step, 1, 3))
        event = make_events(step, 1, 1, seed=5)[:, 0]
        with torch.no_grad():
            after, trace = step.advance(state, step.project(event))
            (place,) = trace.read_weights.argmax(-1)
            source = (state if when == "before" else after).slots[:, place]
            assert state.channels is not None
            assert after.channels is not None
            expected = step.channel(step.channel.project(event), source, state.channels[:, place])
        assert torch.allclose(after.channels[:, place], expected, atol=1e-12)
        made[when] = expected
    assert not torch.allclose(made["before"], made["after"])


@pytest.mark.parametrize("read_feedback", [True, False])
def test_h_follows_the_events_alone_just_where_reads_are_not_fed_back_however_long_it_is_trained(read_feedback: bool) -> None:
    step = make_step(preset("default", read_feedback=read_feedback, **SIZES)).float()
    events, going = make_events(step, 3, 6).float(), [3] * 6
    optimiser = torch.optim.AdamW(step.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        step.run(step.initial_state(3), events, going)[-1].pack().square().sum().backward()
        optimiser.step()
    start = step.initial_state(3)
    other = start._replace(read=torch.randn_like(start.read), slots=torch.randn_like(start.slots))
    with torch.no_grad():
        one, two = (step.run(each, events, going)[-1] for each in (start, other))
    assert torch.equal(one.controller, two.controller) is not read_feedback
    assert not torch.equal(one.read, two.read)


@pytest.mark.parametrize("name", ["default", "official", "paper, key memory and temperature"])
def test_head_parameters_and_outputs_beyond_20_act_as_20(name: str) -> None:
    step = make_step(VARIANTS[name])
    state, event, candidate = fold(step, make_events(step, 2, 3)), make_events(step, 2, 1), make_events(step, 2, 2, seed=9)
    seen = {}
    with torch.no_grad():
        signs = torch.sign(step.to_heads.bias.normal_())
        for size in (15.0, 20.0, 25.0, 500.0):
            step.to_heads.weight.zero_()
            step.to_heads.bias.copy_(size * signs)
            seen[size] = step(state, event[:, 0]), step.candidate_read(state, candidate)
        for size, is_same in ((15.0, False), (25.0, True), (500.0, True)):
            assert (largest_difference(seen[size][0], seen[20.0][0]) == 0.0) == is_same
            assert torch.equal(seen[size][1], seen[20.0][1]) == is_same
        step.to_output.bias.fill_(1e6)
        assert (step.output(state) == 20.0).all()
        assert (step.candidate_read(state, candidate) == 20.0).all()


def test_the_initial_memory_is_the_same_for_every_user_and_has_seen_nothing() -> None:
    step = make_step(preset("official", **SIZES))
    state = step.initial_state(3)
    assert torch.equal(state.slots, torch.tanh(step.initial_slots).expand(3, -1, -1))
    assert torch.equal(state.read, torch.tanh(step.initial_read).expand(3, -1))
    for name, tensor in tensors(state).items():
        assert name in ("slots", "read") or not tensor.any()
    assert "initial_slots" in step.state_dict()
    assert "initial_slots" not in dict(step.named_parameters()), "M_0 is saved, and never trained"


def grads(loss: torch.Tensor, *inputs: torch.Tensor) -> list[float]:
    """The largest absolute gradient of a loss for each input, 0 where there is none."""
    found = torch.autograd.grad(loss, inputs, allow_unused=True, retain_graph=True)
    return [0.0 if grad is None else grad.abs().max().item() for grad in found]


@pytest.mark.parametrize("name", ["default", "official", "no miu", "two channels, after the write"])
def test_no_gradient_reaches_the_head_parameters_through_g(name: str) -> None:
    step = make_step(VARIANTS[name])
    state = fold(step, make_events(step, 2, 3)).map(lambda tensor: tensor.requires_grad_())
    after = step(state, make_events(step, 2, 1, seed=4)[:, 0])
    assert grads(after.slots.square().sum() + after.controller.sum() + after.add_pool.square().sum(), state.utilization) == [
        0.0
    ]
    assert grads(step.candidate_read(state, make_events(step, 2, 1)).square().sum(), state.utilization) == [0.0]
    assert grads(after.utilization.sum(), state.utilization) == [1.0]


def test_with_shift_the_gradient_of_g_goes_through_taps_and_power_and_not_through_the_written_weight() -> None:
    step = make_step(VARIANTS["official"])
    state = fold(step, make_events(step, 2, 3)).map(lambda tensor: tensor.requires_grad_())
    after = step(state, make_events(step, 2, 1, seed=4)[:, 0])
    loss = after.utilization.square().sum()
    # w is found from slots and keys; the statistic sees w detached, so neither slots nor key memory get a gradient.
    assert step.key_memory is not None
    assert grads(loss, state.slots, step.key_memory) == [0.0, 0.0]
    width = step.variant.slot_width + 6
    (grad,) = torch.autograd.grad(loss, [step.to_heads.weight], retain_graph=True)
    row_has_gradient = grad.abs().sum(1) > 0
    taps_and_power = range(width + step.variant.slot_width + 2, 2 * width)
    assert row_has_gradient.nonzero().flatten().tolist() == list(taps_and_power)
    assert grads(after.slots.square().sum(), step.key_memory)[0] > 0
    step.regularises_content = True
    after = step(state, make_events(step, 2, 1, seed=4)[:, 0])
    assert min(grads(after.utilization.square().sum(), state.slots, step.key_memory)) > 0


@pytest.mark.parametrize("name", ["no mur", "paper, key memory and temperature"])
def test_without_shift_the_gradient_of_g_goes_through_the_written_weight(name: str) -> None:
    step = make_step(VARIANTS[name])
    state = fold(step, make_events(step, 2, 3)).map(lambda tensor: tensor.requires_grad_())
    after = step(state, make_events(step, 2, 1, seed=4)[:, 0])
    assert min(grads(after.utilization.square().sum(), state.slots, step.key_memory)) > 0


def test_the_transfer_matrix_is_trained_through_g() -> None:
    step = make_step(VARIANTS["paper"])
    state = fold(step, make_events(step, 2, 3))
    after = step(state, make_events(step, 2, 1, seed=4)[:, 0])
    assert min(grads(after.utilization.square().sum(), step.transfer.weight, step.transfer.bias)) > 0


def test_no_gradient_goes_from_a_channel_into_the_slot_before_the_write() -> None:
    for name, is_stopped in (("official", True), ("default", True), ("two channels, after the write", False)):
        step = make_step(VARIANTS[name])
        state = fold(step, make_events(step, 2, 3)).map(lambda tensor: tensor.requires_grad_())
        after = step(state, make_events(step, 2, 1, seed=4)[:, 0])
        assert after.channels is not None
        assert (grads(after.channels.square().sum(), state.slots) == [0.0]) == is_stopped


def test_the_pool_of_add_vectors_sees_the_add_vector_and_no_write_weight() -> None:
    step = make_step(VARIANTS["official"])
    state = fold(step, make_events(step, 2, 3)).map(lambda tensor: tensor.requires_grad_())
    after = step(state, make_events(step, 2, 1, seed=4)[:, 0])
    (grad,) = torch.autograd.grad(after.add_pool.square().sum(), [step.to_heads.weight], retain_graph=True)
    rows = grad.abs().sum(1).nonzero().flatten().tolist()
    assert rows == list(range(len(grad) - step.variant.slot_width, len(grad)))


def test_the_transfer_moves_weights_by_rows_of_a_softmax_over_shares_of_g() -> None:
    step = make_step(VARIANTS["paper"])
    state = fold(step, make_events(step, 2, 3))
    event = step.project(make_events(step, 2, 1, seed=4)[:, 0])
    plain = make_step(preset("paper", mur="none", **SIZES))
    plain.load_state_dict({name: value for name, value in step.state_dict().items() if not name.startswith("transfer")})
    with torch.no_grad():
        after, trace = step.advance(state, event)
        _, before = plain.advance(state, event)
        g = state.utilization / state.utilization.sum(-1, keepdim=True)
        transfer = torch.softmax((g @ step.transfer.weight.T + step.transfer.bias).view(2, 4, 4), dim=-1)
        expected = torch.einsum("bi,bij->bj", before.write_weights, transfer)
    assert torch.allclose(trace.write_weights, expected, atol=1e-12)
    assert torch.allclose(after.utilization - state.utilization, expected, atol=1e-12)
    assert (expected - before.write_weights).abs().max() > 1e-6


def test_without_miu_there_are_no_channels_and_without_mur_no_head_sees_g() -> None:
    step = make_step(VARIANTS["no miu"])
    assert fold(step, make_events(step, 1, 2)).channels is None
    assert not hasattr(step, "channel")
    step = make_step(VARIANTS["no mur"])
    state = fold(step, make_events(step, 1, 2))
    event = make_events(step, 1, 1, seed=3)[:, 0]
    other = state._replace(utilization=state.utilization * 7)
    with torch.no_grad():
        assert torch.equal(step(state, event).slots, step(other, event).slots)


def test_what_the_heads_see_of_g_is_over_400_or_a_share() -> None:
    for utilization, changes in (("raw", True), ("share", False)):
        step = make_step(preset("official", utilization=utilization, **SIZES))
        state = fold(step, make_events(step, 1, 4))
        event = make_events(step, 1, 1, seed=3)[:, 0]
        with torch.no_grad():
            doubled = step(state._replace(utilization=2 * state.utilization), event).slots
            assert (not torch.allclose(doubled, step(state, event).slots, atol=1e-14)) == changes
