"""DIEN as two ONNX graphs: what does not depend on the candidate is computed once a request (Part A of Fig. 2, KDD '19).

    history.onnx      [T] rows of the history -> the first GRU's states, what the second GRU takes of them, the pooled events
    candidates.onnx   those, and [N] rows of the candidates -> [N] probabilities: attention, AUGRU, head, all in one call

The weights are those of model/nn/dien.py and the tables those of the MIMN bundle. Both graphs are written by hand, since they
are to be as quick as ONNX Runtime gets: the first GRU is its own operator (its `linear_before_reset=0` is the cell of
model/nn/gru.py), the AUGRU a Scan of ten nodes a step over all candidates, and the attention's first layer is multiplied once
an event and candidate with the candidate inside the weights, so that their product is never laid out. An exported loop of the
torch model has thousands of nodes and one length.
"""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper, parser

from benchmarks.rtp.dien import CANDIDATES, HISTORY, OnnxDien
from model.nn.ctr import probability
from model.nn.dien import DienCtr
from model.nn.history import Events
from uic.bundle import Bundle
from uic.memory import Float32
from uic.models import Dien
from uic.tolerance import excess

_HISTORY = """
<ir_version: 9, opset_import: ["" : 20]>
history (int32[T] item, int32[T] category) => (float[T, H] interests, float[T, G] gates, float[T, H] fresh, float[X] pooled) {
    of_item = Gather <axis=0> (items, item)
    of_category = Gather <axis=0> (categories, category)
    events = Concat <axis=1> (of_item, of_category)
    one = Constant <value_ints=[1]> ()
    steps = Unsqueeze (events, one)
    states, last = GRU <hidden_size=UNITS, linear_before_reset=0> (steps, gru_w, gru_r, gru_b)
    flat = Constant <value_ints=[-1, UNITS]> ()
    interests = Reshape (states, flat)
    gates = Gemm (interests, gates_of_interest, gates_bias)
    fresh = Gemm (interests, fresh_of_interest, fresh_bias)
    first = Constant <value_ints=[0]> ()
    pooled = ReduceMean <keepdims=0> (events, first)
}
"""

_CANDIDATES = """
<ir_version: 9, opset_import: ["" : 20]>
candidates (float[T, H] interests, float[T, G] gates, float[T, H] fresh, float[X] pooled, int64[N] item, int64[N] category)
    => (float[N] chance) {
    of_item = Gather <axis=0> (items, item)
    of_category = Gather <axis=0> (categories, category)
    query = Concat <axis=1> (of_item, of_category)

    one = Constant <value_ints=[1]> ()
    two = Constant <value_ints=[2]> ()
    query_row = Unsqueeze (query, two)
    in_product = Mul (query_row, of_product)
    weights = Add (in_product, of_fact)
    own = Gemm (query, of_query, first_bias)
    own_row = Unsqueeze (own, one)
    of_pairs = MatMul (interests, weights)
    hidden_1_in = Add (of_pairs, own_row)
    hidden_1 = Sigmoid (hidden_1_in)
    hidden_2_mul = MatMul (hidden_1, second)
    hidden_2_in = Add (hidden_2_mul, second_bias)
    hidden_2 = Sigmoid (hidden_2_in)
    score = MatMul (hidden_2, third)
    attention = Softmax <axis=1> (score)
    unit = Constant <value_float=1.0> ()
    kept = Sub (unit, attention)
    keep = Transpose <perm=[1, 0, 2]> (kept)

    at_first = Mul (query, nothing)
    evolved = Scan <num_scan_inputs=3, body = step (float[N, H] h, float[G] gate, float[H] new, float[N, 1] keeps)
        => (float[N, H] after) {
        both_in = Gemm (h, gates_of_state, gate)
        both = Sigmoid (both_in)
        reset, update = Split <axis=1, num_outputs=2> (both)
        updated = Mul (update, keeps)
        reset_h = Mul (reset, h)
        candidate_in = Gemm (reset_h, fresh_of_state, new)
        candidate = Tanh (candidate_in)
        gap = Sub (h, candidate)
        moved = Mul (updated, gap)
        after = Add (candidate, moved)
    }> (at_first, gates, fresh, keep)

    product = Mul (query, pooled)
    shape = Shape (query)
    pooled_rows = Expand (pooled, shape)
    seen = Concat <axis=1> (query, evolved, pooled_rows, product)
    scaled = Mul (seen, gamma)
    shifted = Add (scaled, beta)
    layer_1 = Gemm (shifted, head_1, head_1_bias)
    relu_1 = PRelu (layer_1, slope_1)
    layer_2 = Gemm (relu_1, head_2, head_2_bias)
    relu_2 = PRelu (layer_2, slope_2)
    logit = Gemm (relu_2, head_3, head_3_bias)
    raw = Sigmoid (logit)
    chance = Squeeze (raw, one)
}
"""


def write_graphs(bundle: Bundle, folder: Path, *, seed: int = 1, events: int = 60, candidates: int = 7) -> float:
    """Write both graphs of an untrained DIEN over the bundle's tables; returns how far their scores are from torch's.

    In units of the house's tolerance (1e-5 relative and absolute) over a history of `events`; at most 1 is agreement.
    """
    torch.manual_seed(seed)
    width = bundle.layout.variant.event_width
    tables = {"item_rows": bundle.items.table_rows, "category_rows": bundle.categories.table_rows}
    model = DienCtr(Dien(event_width=width, units=width, length=events), **tables).eval()
    items, categories = (torch.from_numpy(np.array(table)) for table in bundle.embeddings())
    with torch.no_grad():
        model.embedding.items.weight.copy_(items)
        model.embedding.categories.weight.copy_(categories)
    folder.mkdir(parents=True, exist_ok=True)
    weights = _weights(model)
    for name, text in ((HISTORY, _HISTORY), (CANDIDATES, _CANDIDATES)):
        graph = parser.parse_model(text.replace("UNITS", str(width)))
        wanted = {each for node in _nodes(graph.graph) for each in node.input}
        graph.graph.initializer.extend(numpy_helper.from_array(weights[each], each) for each in sorted(wanted & set(weights)))
        onnx.checker.check_model(graph, full_check=True)
        (folder / name).write_bytes(graph.SerializeToString())
    return _difference(model, OnnxDien(folder), events, candidates)


def _nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    bodies = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return [*graph.node, *(node for body in bodies for node in _nodes(body))]


def _weights(model: DienCtr) -> dict[str, Float32]:
    """The initializers of both graphs by name."""
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    width = model.variant.event_width
    # The operator's order is update, reset, new; ours is reset, update (model/nn/gru.py). Its second biases stay zero.
    reset, update = np.split(state["extraction.gates.weight"], 2)
    reset_b, update_b = np.split(state["extraction.gates.bias"], 2)
    gru = np.concatenate([update, reset, state["extraction.candidate.weight"]])
    gru_bias = np.concatenate([update_b, reset_b, state["extraction.candidate.bias"], np.zeros(3 * width, np.float32)])
    query, fact, difference, product = np.split(state["attention.first.weight"], 4, axis=1)
    head = state["mlp.third.weight"]
    made = {
        "items": state["embedding.items.weight"],
        "categories": state["embedding.categories.weight"],
        "gru_w": gru[None, :, :width],
        "gru_r": gru[None, :, width:],
        "gru_b": gru_bias[None],
        "gates_of_interest": state["evolution.gates.weight"][:, :width].T,
        "gates_bias": state["evolution.gates.bias"],
        "fresh_of_interest": state["evolution.candidate.weight"][:, :width].T,
        "fresh_bias": state["evolution.candidate.bias"],
        "of_product": product.T[None],
        "of_fact": (fact - difference).T[None],
        "of_query": (query + difference).T,
        "first_bias": state["attention.first.bias"],
        "second": state["attention.second.weight"].T,
        "second_bias": state["attention.second.bias"],
        "third": state["attention.third.weight"].T,
        "nothing": np.zeros(1, np.float32),
        "gates_of_state": state["evolution.gates.weight"][:, width:].T,
        "fresh_of_state": state["evolution.candidate.weight"][:, width:].T,
        "gamma": state["mlp.affine.gamma"] / np.float32(1.001**0.5),
        "beta": state["mlp.affine.beta"],
        "head_1": state["mlp.first.weight"].T,
        "head_1_bias": state["mlp.first.bias"],
        "slope_1": state["mlp.first_slope.weight"],
        "head_2": state["mlp.second.weight"].T,
        "head_2_bias": state["mlp.second.bias"],
        "slope_2": state["mlp.second_slope.weight"],
        # P(click) of two logits is the sigmoid of their difference.
        "head_3": (head[:1] - head[1:]).T,
        "head_3_bias": state["mlp.third.bias"][:1] - state["mlp.third.bias"][1:],
    }
    return {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in made.items()}


@torch.no_grad()
def _difference(model: DienCtr, scorer: OnnxDien, events: int, candidates: int) -> float:
    rng = np.random.default_rng(0)
    rows = [table.num_embeddings for table in (model.embedding.items, model.embedding.categories)]
    item_T, category_T = (rng.integers(1, most, events, dtype=np.int32) for most in rows)
    item_N, category_N = (rng.integers(1, most, candidates) for most in rows)
    item_1T, category_1T = (torch.from_numpy(rows_T[None].astype(np.int64)) for rows_T in (item_T, category_T))
    seen = Events(item_1T, category_1T, torch.ones(1, events, dtype=torch.bool))
    wanted = probability(model.logits(seen, torch.from_numpy(item_N[None]), torch.from_numpy(category_N[None])))
    return float(excess(scorer(item_T, category_T, item_N, category_N), wanted[0].numpy()).max())
