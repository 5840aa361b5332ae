"""The laws of an answer: order, company and padding change no score, and a memory that cannot be used is never scored from."""

import sys
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[1] / "training"))

import small

from serving.answer import answer
from serving.model import Model
from serving.scorer import Scorer
from serving.wire import Asked, Candidate, Refused, ScoreRequest, UserScores
from uic.bundle import Bundle
from uic.errors import BadInput, BundleError, StoreError
from uic.store.contract import InMemoryStore

# The same float32 sums, in a batch of another shape.
ROUNDING = 1e-6
INT64 = st.integers(-(2**63), 2**63 - 1)
IDS = st.one_of(st.integers(0, 210), INT64)
CANDIDATES = st.lists(st.builds(Candidate, IDS, IDS), max_size=12)
ASKED = st.lists(st.builds(Asked, st.sampled_from(["low", "high", "nobody", "broken"]), CANDIDATES), min_size=1, max_size=6)


class Broken(InMemoryStore):
    """A store whose bytes of some users went wrong after they were written."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: dict[str, bytes | Exception] = {}

    def read(self, user_id: str, as_of: date | None = None) -> bytes | None:
        found = self.wrong.get(user_id)
        if isinstance(found, Exception):
            raise found
        return super().read(user_id, as_of) if found is None else found


class Read(dict[str, bytes]):
    """Bytes by user, as a store gives them."""

    def read(self, user_id: str, as_of: date | None = None) -> bytes | None:
        return self.get(user_id)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(Bundle.open(tiny.make_bundle(tmp_path_factory.mktemp("tiny") / "bundle")))


@pytest.fixture(scope="module")
def featured(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(Bundle.open(tiny.make_bundle(tmp_path_factory.mktemp("featured") / "bundle", features=("price", "hour"))))


@pytest.fixture(scope="module")
def store(model: Model) -> Broken:
    store = Broken()
    for user, level in (("low", -2.0), ("high", 0.5)):
        store.write(user, model.bundle.codec.encode(tiny.memory(model.bundle, level, sequence=7)))
    store.wrong["broken"] = b"UICM and no more"
    return store


def ask(model: Model, store: Broken, *asked: Asked, as_of: date | None = None) -> list[UserScores]:
    return answer(ScoreRequest(list(asked), as_of), model, store).users


def one(model: Model, store: Broken, user: str) -> UserScores:
    return ask(model, store, Asked(user, [Candidate(5, 2), Candidate(1)]))[0]


@settings(max_examples=40)
@given(asked=ASKED)
def test_a_user_has_the_same_scores_in_any_company(model: Model, store: Broken, asked: list[Asked]) -> None:
    together = ask(model, store, *asked)
    for each, found in zip(asked, together, strict=True):
        (alone,) = ask(model, store, each)
        assert (found.user_id, found.found, found.why, found.memory) == (alone.user_id, alone.found, alone.why, alone.memory)
        np.testing.assert_allclose(found.probabilities, alone.probabilities, rtol=0, atol=ROUNDING)


@settings(max_examples=40)
@given(asked=ASKED, data=st.data())
def test_scores_come_in_the_order_asked(model: Model, store: Broken, asked: list[Asked], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(asked[0].candidates))))
    shuffled = Asked(asked[0].user_id, [asked[0].candidates[place] for place in order])
    straight, moved = ask(model, store, asked[0])[0], ask(model, store, shuffled)[0]
    expected = [straight.probabilities[place] for place in order]
    np.testing.assert_allclose(moved.probabilities, expected, rtol=0, atol=ROUNDING)


@settings(max_examples=40)
@given(asked=ASKED)
def test_scores_are_those_of_the_formula(model: Model, store: Broken, asked: list[Asked]) -> None:
    level = {"low": -2.0, "high": 0.5}
    for each, found in zip(asked, ask(model, store, *asked), strict=True):
        rows = [
            (model.bundle.items.row(candidate.item_id), model.bundle.categories.row(candidate.category_id))
            for candidate in each.candidates
        ]
        logits = [level.get(found.user_id, 0.0) + item / 64 + category / 16 for item, category in rows]
        np.testing.assert_allclose(found.probabilities, [1 / (1 + np.exp(-logit)) for logit in logits], rtol=0, atol=ROUNDING)


def test_scores_are_those_of_the_scorer(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A trained and exported bundle, users with long and short lists in one request."""
    world = small.world(tmp_path_factory.getbasetemp() / "small")
    model, scorer = Model(world.bundle), Scorer(world.bundle, InMemoryStore())
    draw = np.random.default_rng(2)
    asked = [
        Asked(user, [Candidate(int(item), int(item) % 7) for item in draw.integers(95, 140, size)])
        for user, size in zip([*world.memories, "stranger"], [1, 40, 3, 0, *[20] * 20], strict=False)
    ]
    found = answer(ScoreRequest(asked), model, Read(world.memories)).users
    assert {each.found for each in found} == {"live", "initial"}
    for each, scores in zip(asked, found, strict=True):
        memory = world.codec.decode(world.memories[scores.user_id]) if scores.found == "live" else world.bundle.initial
        items = np.array([candidate.item_id for candidate in each.candidates], dtype=np.int64)
        categories = np.array([candidate.category_id for candidate in each.candidates], dtype=np.int64)
        np.testing.assert_allclose(scores.probabilities, scorer.score_memory(memory, items, categories), rtol=0, atol=ROUNDING)


def test_an_answer_says_what_a_memory_was(model: Model, store: Broken) -> None:
    found = one(model, store, "high")
    assert (found.found, found.why) == ("live", None)
    assert found.memory is not None
    assert (found.memory.events, found.memory.bundle_version, found.memory.last_event_ms) == (7, 1, tiny.toy.START_MS)
    assert (one(model, store, "nobody").found, one(model, store, "nobody").memory) == ("initial", None)


def test_a_number_as_user_is_the_user_of_that_name(model: Model, store: Broken) -> None:
    store.write("60", model.bundle.codec.encode(tiny.memory(model.bundle, 1.0)))
    assert ask(model, store, Asked(60, []))[0] == ask(model, store, Asked("60", []))[0]


@pytest.mark.parametrize("change", ["checksum", "layout", "format", "truncated", "magic", "not_finite"])
def test_a_memory_that_cannot_be_used_is_never_scored_from(model: Model, store: Broken, change: str, tmp_path: Path) -> None:
    codec = model.bundle.codec
    blob = bytearray(codec.encode(tiny.memory(model.bundle, 3.0)))
    if change == "layout":
        other = Bundle.open(tiny.make_bundle(tmp_path / "other", slots=5))
        blob = bytearray(other.codec.encode(tiny.memory(other, 3.0)))
    elif change == "truncated":
        del blob[-1]
    elif change == "not_finite":
        blob = bytearray(codec.encode(tiny.memory(model.bundle, float("nan"))))
    else:
        blob[{"checksum": -9, "format": 4, "magic": 0}[change]] ^= 4
    store.wrong["damaged"] = bytes(blob)
    found, new = one(model, store, "damaged"), one(model, store, "nobody")
    assert (found.found, found.why, found.memory) == ("incompatible", change, None)
    assert found.probabilities == new.probabilities


def test_one_damaged_memory_does_not_take_the_answer_from_the_others(model: Model, store: Broken) -> None:
    candidates = [Candidate(5, 2)]
    users = ask(model, store, Asked("low", candidates), Asked("broken", candidates), Asked("high", candidates))
    assert [user.found for user in users] == ["live", "incompatible", "live"]
    assert users[0].probabilities == ask(model, store, Asked("low", candidates))[0].probabilities


def test_as_of_reads_what_was_there_when_the_day_began(model: Model) -> None:
    store, day_ms = Broken(), 86_400_000
    for number, level in ((1, -2.0), (2, 0.5), (3, 1.0)):
        memory = tiny.memory(model.bundle, level, sequence=number, log_time_ms=number * day_ms)
        store.write("u", model.bundle.codec.encode(memory))
    now, then = one(model, store, "u"), ask(model, store, Asked("u", []), as_of=date(1970, 1, 3))[0]
    assert (now.found, then.found) == ("live", "as_of")
    assert now.memory is not None
    assert then.memory is not None
    assert (now.memory.events, then.memory.events) == (3, 1)
    with pytest.raises(Refused, match=r"as of 1975-01-01: .*newest day") as refused:
        ask(model, store, Asked("u", []), as_of=date(1975, 1, 1))
    assert (refused.value.status, refused.value.code) == (422, "day_not_kept")


@pytest.mark.parametrize("error", [StoreError("the disk is gone"), Exception("IO error: No such file"), TimeoutError("slow")])
def test_a_store_that_does_not_answer_gives_no_scores(model: Model, store: Broken, error: Exception) -> None:
    store.wrong["lost"] = error
    with pytest.raises(Refused, match="the online store does not answer") as refused:
        one(model, store, "lost")
    assert (refused.value.status, refused.value.code) == (503, "store")


def test_features_count_by_name_and_unknown_ones_are_passed_over(featured: Model) -> None:
    def scores(*features: dict[str, float]) -> list[float]:
        asked = Asked("u", [Candidate(1, 1, each) for each in features])
        return answer(ScoreRequest([asked]), featured, Read()).users[0].probabilities

    first, second, third = scores(
        {"price": 0.25, "hour": 0.5}, {"hour": 0.5, "price": 0.25, "new": 9.0}, {"price": 1.0, "hour": 0.5}
    )
    assert first == second
    assert third > first


@pytest.mark.parametrize("features", [None, {}, {"price": 1.0}, {"price": 1.0, "hour": 1e39}])
def test_features_that_cannot_be_used_are_refused(featured: Model, features: dict[str, float] | None) -> None:
    with pytest.raises(Refused, match="head features") as refused:
        answer(ScoreRequest([Asked("u", [Candidate(1, 1, features)])]), featured, Read())
    assert (refused.value.status, refused.value.code) == (422, "features")


def test_scores_that_are_not_finite_from_any_memory_are_refused(tmp_path: Path) -> None:
    nowhere = Model(Bundle.open(tiny.make_bundle(tmp_path / "nan", shift=float("nan"))))
    with pytest.raises(Refused, match="no finite score"):
        answer(ScoreRequest([Asked("u", [Candidate(1)])]), nowhere, Read())


def test_a_model_warms_every_size_and_refuses_to_score_from_nonsense(model: Model, tmp_path: Path) -> None:
    model.warm(most_users=4, most_candidates=50)
    with pytest.raises(BundleError, match="no finite score"):
        Model(Bundle.open(tiny.make_bundle(tmp_path / "nan", shift=float("nan")))).warm(most_users=1, most_candidates=1)


def test_no_bad_input_of_the_store_but_a_day_is_passed_on(model: Model, store: Broken) -> None:
    store.wrong["day"] = BadInput("as of 2020-01-01: no day is kept yet")
    with pytest.raises(Refused, match="no day is kept yet"):
        one(model, store, "day")
