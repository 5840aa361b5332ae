"""The scorer gives from stored bytes what the model gives from a history."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from model.nn.ctr import probability
from model.nn.mimn import MimnState
from model.training.evaluate import score
from model.training.histories import Histories
from model.training.weights import model_of
from serving.scorer import Scorer
from uic.errors import BadInput, ChecksumMismatch, LayoutMismatch, NotAMemory, TruncatedMemory
from uic.memory import Float32
from uic.store.contract import InMemoryStore

sys.path.append(str(Path(__file__).parents[1] / "training"))

import small

ITEMS = np.array([101, 105, 987654321])
CATEGORIES = np.array([2, -1, 77])
# ONNX Runtime and torch add the same float32 numbers in another order.
ROUNDING = 1e-6


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> small.World:
    return small.world(tmp_path_factory.getbasetemp() / "small")


@pytest.fixture(scope="module")
def featured(tmp_path_factory: pytest.TempPathFactory) -> small.World:
    return small.world(tmp_path_factory.getbasetemp() / "small", small.FEATURES)


def scorer_of(world: small.World) -> Scorer:
    store = InMemoryStore()
    for user, blob in world.memories.items():
        store.write(user, blob)
    return Scorer(world.bundle, store)


def by_torch(world: small.World, state_F: Float32, features_NC: Float32 | None = None) -> Float32:
    model = model_of(world.bundle).eval()
    state = MimnState.unpack(torch.from_numpy(state_F.copy())[None], model.layout)
    rows = (
        torch.from_numpy(world.bundle.items.rows(ITEMS))[None],
        torch.from_numpy(world.bundle.categories.rows(CATEGORIES))[None],
    )
    with torch.no_grad():
        logits = model.score(state, *rows, None if features_NC is None else torch.from_numpy(features_NC)[None])
    result: Float32 = probability(logits)[0].numpy()
    return result


def test_a_stored_memory_gives_torchs_probabilities(world: small.World) -> None:
    scorer = scorer_of(world)
    for user, blob in world.memories.items():
        scores = scorer.score(user, ITEMS, CATEGORIES)
        assert scores.found == "live"
        assert scores.memory.sequence == sum(event.user_id == user for event in world.events)
        expected = by_torch(world, world.codec.decode(blob).state_F)
        np.testing.assert_allclose(scores.probability_N, expected, rtol=0, atol=ROUNDING)
        np.testing.assert_array_equal(scorer.score_blob(blob, ITEMS, CATEGORIES), scores.probability_N)


def test_events_folded_one_by_one_score_as_the_scan_of_training_does(world: small.World) -> None:
    """From the bytes at exactly a sample's position, the probability that training's evaluation gives it."""
    model = model_of(world.bundle)
    histories = Histories.of(world.data, world.bundle.items, world.bundle.categories)
    places = histories.places((histories.samples["split"] == "test").to_numpy())
    offline = score(model, histories, places)
    scorer = Scorer(world.bundle, InMemoryStore())
    samples = world.data.samples()
    for place in range(len(places)):
        user, position = str(histories.users[places.user_P[place]]), int(places.position_P[place])
        own = [event for event in world.events if event.user_id == user][:position]
        blob = small.fold(world.bundle, own).get(user)
        memory = world.bundle.initial if blob is None else world.codec.decode(blob)
        asked = samples.iloc[places.sample_PN[place][places.mask_PN[place]]]
        stored = scorer.score_memory(memory, asked["item_id"].to_numpy(), asked["category_id"].to_numpy())
        np.testing.assert_allclose(stored, offline.probability_PN[place][places.mask_PN[place]], rtol=0, atol=1e-5)


def test_a_user_whom_the_store_never_saw_has_the_initial_memory(world: small.World) -> None:
    scores = scorer_of(world).score("stranger", ITEMS, CATEGORIES)
    assert (scores.found, scores.memory) == ("initial", world.bundle.initial)
    with torch.no_grad():
        initial_F = model_of(world.bundle).initial_state(1).pack()[0].numpy()
    np.testing.assert_allclose(scores.probability_N, by_torch(world, initial_F), rtol=0, atol=ROUNDING)


def test_a_candidate_scores_the_same_in_any_company(world: small.World) -> None:
    scorer = scorer_of(world)
    whole = scorer.score("u3", ITEMS, CATEGORIES).probability_N
    for place in range(len(ITEMS)):
        alone = scorer.score("u3", ITEMS[place : place + 1], CATEGORIES[place : place + 1]).probability_N
        np.testing.assert_allclose(alone, whole[place : place + 1], rtol=0, atol=ROUNDING)


def test_no_candidates_have_no_probabilities(world: small.World) -> None:
    nothing = np.zeros(0, dtype=np.int64)
    assert scorer_of(world).score("u3", nothing, nothing).probability_N.shape == (0,)


def test_candidates_without_their_categories_are_refused(world: small.World) -> None:
    with pytest.raises(BadInput, match="3 items, got 2 categories"):
        scorer_of(world).score("u3", ITEMS, CATEGORIES[:2])


def changed(blob: bytes, at: int) -> bytes:
    return blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (lambda blob: changed(blob, 200), ChecksumMismatch),
        (lambda blob: changed(blob, len(blob) - 1), ChecksumMismatch),
        (lambda blob: blob[:-1], TruncatedMemory),
        (lambda blob: b"", TruncatedMemory),
        (lambda blob: changed(blob, 0), NotAMemory),
        (lambda blob: changed(blob, 8), LayoutMismatch),
    ],
)
def test_a_broken_memory_is_never_scored_from(
    world: small.World, wrong: Callable[[bytes], bytes], error: type[Exception]
) -> None:
    blob = wrong(world.memories["u3"])
    with pytest.raises(error):
        scorer_of(world).score_blob(blob, ITEMS, CATEGORIES)
    with pytest.raises(error):
        Scorer(world.bundle, Broken(blob)).score("u3", ITEMS, CATEGORIES)


class Broken(InMemoryStore):
    """A store whose bytes went wrong after they were written."""

    def __init__(self, blob: bytes) -> None:
        super().__init__()
        self._blob = blob

    def read(self, user_id: str) -> bytes | None:
        return self._blob


def test_head_features_count(featured: small.World) -> None:
    scorer = scorer_of(featured)
    state_F = featured.codec.decode(featured.memories["u3"]).state_F
    first_NC = np.random.default_rng(8).random((len(ITEMS), 2)).astype(np.float32)
    given = [
        scorer.score("u3", ITEMS, CATEGORIES, features_NC).probability_N for features_NC in (first_NC, first_NC[:, ::-1].copy())
    ]
    np.testing.assert_allclose(given[0], by_torch(featured, state_F, first_NC), rtol=0, atol=ROUNDING)
    assert (given[0] != given[1]).any()


@pytest.mark.parametrize("columns", [None, 1, 3])
def test_another_number_of_head_features_is_refused_with_the_names_wanted(featured: small.World, columns: int | None) -> None:
    features_NC = None if columns is None else np.zeros((len(ITEMS), columns), dtype=np.float32)
    with pytest.raises(BadInput, match=rf"wants 2 \(price, hour\), got {columns or 0}"):
        scorer_of(featured).score("u3", ITEMS, CATEGORIES, features_NC)


def test_head_features_that_nobody_wants_are_refused(world: small.World) -> None:
    with pytest.raises(BadInput, match=r"wants 0 \(none\), got 1"):
        scorer_of(world).score("u3", ITEMS, CATEGORIES, np.zeros((len(ITEMS), 1), dtype=np.float32))


def test_head_features_of_other_candidates_are_refused(featured: small.World) -> None:
    with pytest.raises(BadInput, match="3 candidates, got features of 2"):
        scorer_of(featured).score("u3", ITEMS, CATEGORIES, np.zeros((2, 2), dtype=np.float32))
