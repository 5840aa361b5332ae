"""The parts of a step by themselves: GRU, addressing, re-balancing, losses, the CTR head (model/nn)."""

import numpy as np
import pytest
import torch
from drawn_models import SIZES, fold, make_events
from hypothesis import given
from hypothesis import strategies as st

from model.nn.addressing import ShiftAndSharpen, circular_shifts, content_weights, cosine, shares
from model.nn.ctr import MimnCtr, probability
from model.nn.gru import GruCell
from model.nn.head import FrozenAffine, TargetAttention
from model.nn.losses import ctr_loss, utilization_loss
from uic.variant import preset


def sigmoid(x: "np.ndarray") -> "np.ndarray":
    return 1 / (1 + np.exp(-x))


def test_the_gru_is_that_of_the_authors_code_by_its_equations() -> None:
    torch.manual_seed(0)
    cell = GruCell(3, 2, 4).double()
    x1, x2, h = (torch.randn(5, width).double() for width in (3, 2, 4))
    with torch.no_grad():
        after = cell(cell.project(x1), x2, h).numpy()
    x, state = np.concatenate([x1, x2], 1), h.numpy()
    gates_w, gates_b = cell.gates.weight.detach().numpy(), cell.gates.bias.detach().numpy()
    candidate_w, candidate_b = cell.candidate.weight.detach().numpy(), cell.candidate.bias.detach().numpy()
    gates = sigmoid(np.concatenate([x, state], 1) @ gates_w.T + gates_b)
    reset, update = gates[:, :4], gates[:, 4:]
    candidate = np.tanh(np.concatenate([x, reset * state], 1) @ candidate_w.T + candidate_b)
    assert np.allclose(after, update * state + (1 - update) * candidate, atol=1e-12)


def test_the_gru_starts_with_its_gates_biased_to_one() -> None:
    cell = GruCell(3, 2, 4)
    assert (cell.gates.bias == 1).all()
    assert not cell.candidate.bias.any()


def test_the_gru_is_not_the_one_of_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = GruCell(3, 0, 4).double(), torch.nn.GRUCell(3, 4).double()
    reset, update = ours.gates.weight.chunk(2)
    with torch.no_grad():
        # The same weights in torch's order (reset, update, new); its update gate keeps h as ours does.
        theirs.weight_ih.copy_(torch.cat([reset[:, :3], update[:, :3], ours.candidate.weight[:, :3]]))
        theirs.weight_hh.copy_(torch.cat([reset[:, 3:], update[:, 3:], ours.candidate.weight[:, 3:]]))
        theirs.bias_ih.copy_(torch.cat([ours.gates.bias, ours.candidate.bias]))
        theirs.bias_hh.zero_()
        x, h = torch.randn(5, 3).double(), torch.randn(5, 4).double()
        assert (ours(ours.project(x), x[:, :0], h) - theirs(x, h)).abs().max() > 1e-2
        # Where the reset gate is wide open the two are one: the difference is where it acts.
        ours.gates.bias[:4], theirs.bias_ih[:4] = 1e3, 1e3
        assert torch.allclose(ours(ours.project(x), x[:, :0], h), theirs(x, h), atol=1e-12)


def test_the_gru_multiplies_many_candidates_of_one_user_as_it_does_each_alone() -> None:
    torch.manual_seed(0)
    cell = GruCell(3, 2, 4).double()
    x_BNX, r_BD, h_BH = torch.randn(2, 5, 3).double(), torch.randn(2, 2).double(), torch.randn(2, 4).double()
    with torch.no_grad():
        together = cell(cell.project(x_BNX), r_BD.unsqueeze(1), h_BH.unsqueeze(1))
        for n in range(5):
            assert torch.allclose(together[:, n], cell(cell.project(x_BNX[:, n]), r_BD, h_BH), atol=1e-12)


def test_similarity_is_the_cosine_and_zero_rows_give_zero_and_no_nan() -> None:
    keys = torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]]])
    rows = torch.tensor([[[6.0, 8.0], [-4.0, 3.0], [-3.0, -4.0], [0.0, 0.0]]]).expand(2, -1, -1)
    assert torch.allclose(cosine(keys, rows)[0, 0], torch.tensor([1.0, 0.0, -1.0, 0.0]), atol=1e-6)
    assert not cosine(keys, rows)[1].any()


def test_addressing_is_equation_1_and_2_without_key_memory_and_strength() -> None:
    keys, slots = torch.randn(2, 3, 5).double(), torch.randn(2, 4, 5).double()
    expected = torch.softmax(torch.nn.functional.cosine_similarity(keys.unsqueeze(2), slots.unsqueeze(1), dim=-1), -1)
    assert torch.allclose(content_weights(keys, None, slots, None), expected, atol=1e-7)


def test_addressing_takes_half_of_the_similarity_from_the_key_memory_and_sharpens_by_the_strength() -> None:
    keys, slots, shared = torch.randn(2, 3, 5).double(), torch.randn(2, 4, 5).double(), torch.randn(4, 5).double()
    strength = torch.rand(2, 3, 1).double() + 2
    similarity = 0.5 * cosine(keys, slots) + 0.5 * cosine(keys, shared.expand(2, -1, -1))
    assert torch.allclose(content_weights(keys, strength, slots, shared), torch.softmax(strength * similarity, -1), atol=1e-12)
    assert torch.allclose(content_weights(keys, None, slots, shared), torch.softmax(similarity, -1), atol=1e-12)


@given(st.integers(3, 9))
def test_shifting_takes_from_the_slot_before_and_the_slot_after_around_the_circle(slots: int) -> None:
    w = torch.arange(1.0, slots + 1)
    stay, before, after = (w @ circular_shifts(slots)).view(3, slots)
    assert stay.tolist() == w.tolist()
    assert [before[i].item() for i in range(slots)] == [w[i - 1].item() for i in range(slots)]
    assert [after[i].item() for i in range(slots)] == [w[(i + 1) % slots].item() for i in range(slots)]


def test_rebalancing_by_numbers() -> None:
    taps = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    balance = ShiftAndSharpen(taps, torch.tensor([[2.0]]), circular_shifts(4))
    # .5 w_i + .25 w_{i-1} + .25 w_{i+1} of [.4, .4, .2, 0] is [.3, .35, .2, .15]; squares over their sum:
    squares = torch.tensor([[0.3, 0.35, 0.2, 0.15]]) ** 2
    assert torch.allclose(balance(torch.tensor([[0.4, 0.4, 0.2, 0.0]])), squares / squares.sum(), atol=1e-6)
    only_before = ShiftAndSharpen(torch.tensor([[-99.0, 99.0, -99.0]]), torch.tensor([[1.0]]), circular_shifts(4))
    assert torch.allclose(only_before(torch.tensor([[0.4, 0.3, 0.2, 0.1]])), torch.tensor([[0.1, 0.4, 0.3, 0.2]]))


@pytest.mark.parametrize("weights", [[0.125] * 8, [1e-5] * 7 + [1.0], [1.0] + [0.0] * 7, [1e-30] * 8])
def test_sharpening_by_the_largest_power_neither_underflows_nor_gives_nan_nor_a_nan_gradient(weights: list[float]) -> None:
    # Clipped head parameters reach softplus(20): a power of 84, and 0.125^84 is below what float32 holds.
    power = torch.tensor([[84.0]], requires_grad=True)
    taps = torch.tensor([[20.0, -20.0, -20.0]], requires_grad=True)
    w = torch.tensor([weights], requires_grad=True)
    sharp = ShiftAndSharpen(taps, power, circular_shifts(8))(w)
    assert torch.allclose(sharp.sum(), torch.tensor(1.0))
    sharp.square().sum().backward()
    for leaf in (power, taps, w):
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()


def test_the_gradient_of_sharpening_is_that_of_the_plain_quotient() -> None:
    def plain(w: torch.Tensor, taps: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
        s = torch.softmax(taps, -1)
        mixed = s[:, :1] * w + s[:, 1:2] * w.roll(1, -1) + s[:, 2:] * w.roll(-1, -1)
        return mixed**power / (mixed**power).sum(-1, keepdim=True)

    torch.manual_seed(0)
    inputs = [torch.softmax(torch.randn(2, 5).double(), -1), torch.randn(2, 3).double(), torch.rand(2, 1).double() + 4]
    inputs = [each.requires_grad_() for each in inputs]
    direction = torch.randn(2, 5).double()
    ours = ShiftAndSharpen(inputs[1], inputs[2], circular_shifts(5).double())(inputs[0])
    expected = torch.autograd.grad((plain(*inputs) * direction).sum(), inputs)
    for have, want in zip(torch.autograd.grad((ours * direction).sum(), inputs), expected, strict=True):
        assert torch.allclose(have, want, atol=1e-12)


def test_shares_sum_to_one_and_are_zero_before_the_first_write() -> None:
    assert torch.allclose(shares(torch.tensor([[1.0, 3.0], [500.0, 1500.0]])), torch.tensor([[0.25, 0.75]] * 2))
    assert shares(torch.zeros(1, 4)).tolist() == [[0.0] * 4]


def test_the_click_loss_is_the_binary_cross_entropy_and_the_authors_is_half_of_it() -> None:
    logits, labels = torch.tensor([[1.0, -1.0], [0.5, 2.0]]).double(), torch.tensor([1.0, 0.0]).double()
    p = torch.softmax(logits, -1)[:, 0]
    expected = -torch.stack([p[0].log(), (1 - p[1]).log()])
    assert torch.allclose(ctr_loss(logits, labels, "bce", reduce=False), expected)
    assert torch.allclose(ctr_loss(logits, labels, "bce"), expected.mean())
    assert torch.allclose(ctr_loss(logits, labels, "half_softmax"), expected.mean() / 2, atol=1e-7)
    assert torch.allclose(probability(logits), p)


def test_the_utilization_loss_by_numbers() -> None:
    g = torch.tensor([[1.0, 3.0], [2.0, 2.0]])
    # shares .25, .75: 2 (.25)^2; equal: 0
    assert utilization_loss(2 * g, "share", 8.0, reduce=False).tolist() == [1.0, 0.0]
    assert utilization_loss(100 * g, "share", 8.0).item() == 0.5
    # The authors': mean over batch and slots of (g - mean)^2, over m, over B.
    assert utilization_loss(g, "raw", 8.0).item() == pytest.approx(8 * 2 / 4 / 2 / 2)
    assert utilization_loss(g, "none", 8.0).item() == 0.0


def test_shares_are_not_levelled_before_four_events_a_slot() -> None:
    # Two slots: memories of 7 events do not count, those of 8 do, each by itself and with a gradient.
    g = torch.tensor([[1.0, 6.0], [1.0, 7.0], [0.0, 7.0]], requires_grad=True)
    losses = utilization_loss(g, "share", 1.0, reduce=False)
    assert losses.tolist() == [0.0, pytest.approx(2 * 0.375**2), 0.0]
    losses.sum().backward()
    assert g.grad is not None
    assert g.grad.any(dim=1).tolist() == [False, True, False]


def test_the_split_attention_is_din_on_the_concatenated_pairs() -> None:
    torch.manual_seed(0)
    attention = TargetAttention(4).double()
    q_BNX, f_BTX = torch.randn(2, 3, 4).double(), torch.randn(2, 5, 4).double()
    mask = torch.tensor([[True] * 5, [True, True, False, False, True]])
    q, f = q_BNX.unsqueeze(2).expand(-1, -1, 5, -1), f_BTX.unsqueeze(1).expand(-1, 3, -1, -1)
    with torch.no_grad():
        hidden = torch.sigmoid(attention.first(torch.cat([q, f, q - f, q * f], -1)))
        scores = attention.third(torch.sigmoid(attention.second(hidden))).squeeze(-1)
        for given_mask, expected in ((None, scores), (mask, scores.masked_fill(~mask.unsqueeze(1), float("-inf")))):
            seen = torch.softmax(expected, -1) @ f_BTX
            assert torch.allclose(attention(q_BNX, f_BTX, given_mask), seen, atol=1e-12)


def test_the_affine_is_a_batch_norm_that_never_moved() -> None:
    affine = FrozenAffine(2)
    with torch.no_grad():
        affine.gamma.copy_(torch.tensor([2.0, 1.0]))
        affine.beta.copy_(torch.tensor([0.0, 5.0]))
        assert torch.allclose(
            affine(torch.tensor([1.0, 1.0])), torch.tensor([2.0, 1.0]) / 1.001**0.5 + torch.tensor([0.0, 5.0])
        )


def make_model(name: str, features: int = 0, **changes: object) -> MimnCtr:
    torch.manual_seed(1)
    model = MimnCtr(preset(name, **{**SIZES, **changes}), item_rows=9, category_rows=5, head_features=features)
    return model.double().eval()


def test_the_padding_row_is_zero_and_never_trains() -> None:
    model = make_model("default")
    item, category = torch.tensor([[0, 3]]), torch.tensor([[0, 2]])
    assert not model.embedding(item, category)[0, 0].any()
    model.score(model.initial_state(1), item, category).sum().backward()
    for table in (model.embedding.items, model.embedding.categories):
        assert table.weight.grad is not None
        assert not table.weight.grad[0].any()
        assert table.weight.grad[2:4].any()


@pytest.mark.parametrize("name", ["default", "official", "paper"])
def test_the_head_sees_each_candidate_alone_and_its_features_last(name: str) -> None:
    model = make_model(name, features=2)
    state = fold(model.step, make_events(model.step, 2, 5))
    item, category = torch.tensor([[2, 3, 4], [5, 6, 2]]), torch.tensor([[2, 3, 1], [1, 2, 3]])
    features = torch.randn(2, 3, 2).double()
    with torch.no_grad():
        together = model.score(state, item, category, features)
        for n in range(3):
            pick = slice(n, n + 1)
            alone = model.score(state, item[:, pick], category[:, pick], features[:, pick])
            assert torch.allclose(alone, together[:, pick], atol=1e-12)
        inputs = model.head.inputs(model.step, state, model.embedding(item, category), features)
        assert torch.equal(inputs[..., -2:], features)
        assert torch.equal(inputs[..., : SIZES["event_width"]], model.embedding(item, category))


def test_the_read_out_is_over_all_channels_or_over_the_last_written_one() -> None:
    for name, is_all in (("default", True), ("official", False)):
        model = make_model(name)
        state = fold(model.step, make_events(model.step, 1, 9))
        assert state.channels is not None
        other = state.channels.clone()
        last = state.last_channels[0].argmax() if state.last_channels is not None else int(torch.argmax(other[0].abs().sum(-1)))
        untouched = [each for each in range(4) if each != last and other[0, each].any()]
        assert untouched, "the history must have written more than one channel"
        other[0, untouched] *= -2
        item, category = torch.tensor([[2]]), torch.tensor([[3]])
        with torch.no_grad():
            same = torch.equal(model.score(state, item, category), model.score(state._replace(channels=other), item, category))
        assert same != is_all


def test_the_sum_of_add_vectors_reaches_the_head_as_the_mean_over_slots() -> None:
    for name, scale in (("official", 4.0), ("default", 1.0)):
        model = make_model(name)
        state = fold(model.step, make_events(model.step, 1, 3))
        candidate = make_events(model.step, 1, 1, seed=2)
        with torch.no_grad():
            inputs = model.head.inputs(model.step, state, candidate)
        assert torch.allclose(inputs[0, 0, -6:], state.add_pool[0] / scale * candidate[0, 0], atol=1e-12)
