"""The generator's promise: what it says must become of each event is what the rules of uic/update.py decide."""

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from drawn import updater
from hypothesis import given, settings
from hypothesis import strategies as st

from uic.errors import BadInput, InvalidEvent
from uic.event import BehaviourEvent, parse_event
from uic.fold import fold
from uic.synthetic.block import Block, Expected, Generated, Ids
from uic.synthetic.generate import generate
from uic.synthetic.poison import FILE_KINDS, POISONS, REASONS
from uic.synthetic.spec import SyntheticSpec, parse_spec
from uic.synthetic.tally import Tally
from uic.update import Outcome, Rules, admit, fingerprints, remember

NOW_MS = 1_790_000_000_000
MIXED = SyntheticSpec(events=20_000, users=300, duplicates=0.2, disorder=0.15, too_late=0.1, poison=0.1, seed=7)


class Judge:
    """The rules of the stream, asked event by event."""

    def __init__(self, spec: SyntheticSpec) -> None:
        self.spec = spec
        self.accepted = frozenset(spec.behaviours)
        self.rules = Rules(lateness_ms=spec.lateness_ms)
        self.rings: dict[str, bytes] = {}
        self.last_ms: dict[str, int] = {}
        self.applied: Counter[str] = Counter()
        self.behind = 0

    def __call__(self, record: Generated) -> Expected:
        if record.key is None:
            return Expected("dead", "bad_key")  # RecordReader.java
        try:
            event = parse_event(record.payload, now_ms=NOW_MS, accepted=self.accepted, key=record.key.decode())
        except InvalidEvent as error:
            return Expected("dead", error.reason)
        user = event.user_id
        ring, marks = self.rings.get(user, bytes(16 * self.spec.ring)), fingerprints(event)
        outcome, _ = admit(ring, self.last_ms.get(user), event, marks, self.rules)
        if outcome is Outcome.APPLIED:
            self.rings[user] = remember(ring, self.applied[user], marks)
            self.behind += event.time_ms < self.last_ms.get(user, 0)
            self.last_ms[user] = max(event.time_ms, self.last_ms.get(user, 0))
            self.applied[user] += 1
        return Expected(outcome.value)


def shares(rng: list[float]) -> dict[str, float]:
    """Four shares that leave at least a little for fresh events."""
    total = sum(rng) + 0.2
    return dict(zip(("duplicates", "disorder", "too_late", "poison"), (each / total for each in rng), strict=True))


@st.composite
def specs(draw: st.DrawFn) -> SyntheticSpec:
    step_ms = draw(st.integers(3, 20))
    lateness_ms = draw(st.integers(16 * step_ms + 1, 100 * step_ms))
    return SyntheticSpec(
        users=draw(st.integers(1, 20)),
        items=draw(st.integers(3, 9)),
        categories=3,
        seed=draw(st.integers(0, 2**40)),
        events=draw(st.integers(0, 400)),
        zipf=draw(st.sampled_from([0.0, 1.1])),
        hot_share=draw(st.sampled_from([0.0, 0.5, 1.0])),
        event_ids=draw(st.sampled_from([0.0, 0.5, 1.0])),
        step_ms=step_ms,
        lateness_ms=lateness_ms,
        ring=draw(st.integers(1, 20)),
        block=draw(st.integers(1, 150)),
        **shares(draw(st.lists(st.sampled_from([0.0, 0.1, 1.0, 5.0]), min_size=4, max_size=4))),
    )


def records(spec: SyntheticSpec, ids: Ids | None = None) -> list[Generated]:
    return [record for block in generate(spec, ids) for record in block]


def tally_of(blocks: list[Block]) -> Tally:
    tally = Tally()
    for block in blocks:
        tally.add(block)
    return tally


@settings(max_examples=200)
@given(specs())
def test_what_is_expected_of_an_event_is_what_the_rules_decide(spec: SyntheticSpec) -> None:
    judge = Judge(spec)
    made = records(spec)
    assert len(made) == spec.events
    assert [judge(record) for record in made] == [record.expected for record in made]


def test_disorder_is_within_lateness_where_that_is_as_short_as_can_be() -> None:
    """With one place to be displaced to, an event out of order is as late as it may be, to the millisecond."""
    spec = SyntheticSpec(users=1, events=2000, disorder=0.3, step_ms=5, lateness_ms=81)
    judge = Judge(spec)
    assert {judge(record) for record in records(spec)} == {Expected("applied")}
    assert judge.behind > 500


def test_a_tally_is_what_the_offline_fold_makes_of_the_same_bytes() -> None:
    spec = replace(MIXED, events=3000, users=40, lateness_ms=100_000, poisons=FILE_KINDS, items=20, categories=9)
    blocks = list(generate(spec))
    tally, dead = tally_of(blocks), Counter[str]()

    def valid() -> list[BehaviourEvent]:
        events = []
        for _, payload, _ in (record for block in blocks for record in block):
            try:
                events.append(parse_event(payload, now_ms=NOW_MS, accepted=frozenset(spec.behaviours)))
            except InvalidEvent as error:
                dead[error.reason] += 1
        return events

    folded = fold(updater(lateness_ms=spec.lateness_ms), valid())
    assert dead == tally.dead
    assert {outcome.value: count for outcome, count in folded.outcomes.items()} | {"dead": dead.total()} == tally.outcomes
    sequences = {user: memory.sequence for user, memory in folded.memories.items()}
    assert sequences == {f"u{number}": count for number, count in enumerate(tally.applied.tolist()) if count}
    assert json.loads(tally.as_json()) == {"outcomes": tally.outcomes, "dead": dead, "applied": tally.applied.tolist()}


def test_the_shares_are_those_asked_for() -> None:
    judge, made = Judge(MIXED), records(MIXED)
    counts = Counter(judge(record).outcome for record in made)
    for outcome, share in {"applied": 0.6, "duplicate": 0.2, "late": 0.1, "dead": 0.1}.items():
        assert abs(counts[outcome] / len(made) - share) < 0.015  # over four standard deviations
    assert abs(judge.behind / len(made) - MIXED.disorder) < 0.015


def test_every_kind_of_poison_comes_as_often() -> None:
    dead = tally_of(list(generate(replace(MIXED, poison=0.5)))).dead
    assert set(dead) == set(REASONS)
    kinds = Counter(poison.reason for poison in POISONS.values())
    for reason, count in dead.items():
        assert abs(count / dead.total() - kinds[reason] / len(POISONS)) < 0.02


def test_duplicates_tenfold_are_nine_of_ten() -> None:
    outcomes = tally_of(list(generate(SyntheticSpec(events=20_000, duplicates=0.9)))).outcomes
    assert abs(outcomes["applied"] / 20_000 - 0.1) < 0.01
    assert outcomes["applied"] + outcomes["duplicate"] == 20_000


def test_disorder_reaches_close_to_the_lateness_and_lateness_close_to_it() -> None:
    spec = replace(MIXED, lateness_ms=60_000, disorder=0.3, too_late=0.3, duplicates=0.0, poison=0.0)
    last_ms, behind = 0, {"applied": 0, "late": 10**9}
    for record in records(replace(spec, users=1)):
        time_ms = json.loads(record.payload)["time_ms"]
        compare = max if record.expected.outcome == "applied" else min
        behind[record.expected.outcome] = compare(behind[record.expected.outcome], last_ms - time_ms)
        last_ms = max(last_ms, time_ms)
    assert 55_000 < behind["applied"] <= 60_000 < behind["late"] < 61_000


@pytest.mark.parametrize("changes", [{"hot_share": 0.4}, {"hot_share": 0.4, "zipf": 1.1, "duplicates": 0.3}])
def test_the_hot_user_takes_the_share_asked_for(changes: dict[str, Any]) -> None:
    made = records(SyntheticSpec(events=20_000, **changes))
    assert abs(sum(record.key == b"u0" for record in made) / len(made) - 0.4) < 0.02


def test_users_are_zipf_distributed_where_asked() -> None:
    counts = Counter(record.key for record in records(SyntheticSpec(users=1000, zipf=1.1, events=40_000)))
    weights = np.arange(1, 1001.0) ** -1.1
    expected = 40_000 * weights / weights.sum()
    for rank in (0, 1, 2, 9, 99):
        assert abs(counts[f"u{rank}".encode()] - expected[rank]) < 5 * np.sqrt(expected[rank])
    flat = Counter(record.key for record in records(SyntheticSpec(users=10, events=20_000)))
    assert len(flat) == 10
    assert max(flat.values()) < 2300


def test_a_user_has_a_few_interests_that_change_with_time() -> None:
    spec = SyntheticSpec(users=1, events=30_000, categories=50, items=5000, step_ms=100, interest_ms=1_000_000, item_zipf=0.5)
    categories = [json.loads(record.payload)["category_id"] for record in records(spec)]
    early, late = Counter(categories[:2000]), Counter(categories[-2000:])
    assert len(early) <= 6
    assert len(late) <= 6
    assert early.most_common(1) != late.most_common(1)
    assert len(set(categories)) >= 8


def test_items_are_popular_by_zipf_and_belong_to_one_category() -> None:
    made = [json.loads(record.payload) for record in records(SyntheticSpec(events=20_000, item_zipf=1.0))]
    assert len({(each["item_id"], each["category_id"]) for each in made}) == len({each["item_id"] for each in made})
    counts = sorted(Counter(each["item_id"] for each in made).values(), reverse=True)
    assert counts[0] > 20 * counts[len(counts) // 2]


def test_the_ids_of_a_bundle_are_the_ones_that_come() -> None:
    ids = Ids(np.array([-(2**63), 5, 2**63 - 1]), np.array([77, -3]))
    spec = SyntheticSpec(items=3, categories=2, events=500, duplicates=0.3, item_zipf=0)
    made = [json.loads(record.payload) for record in records(spec, ids)]
    assert {each["item_id"] for each in made} == set(ids.items.tolist())
    assert {each["category_id"] for each in made} == set(ids.categories.tolist())
    with pytest.raises(BadInput, match="expected ids of 4 items"):
        next(generate(replace(spec, items=4), ids))


def test_the_same_seed_makes_the_same_bytes_and_fewer_events_are_a_prefix() -> None:
    spec = replace(MIXED, events=500, block=200)
    made = records(spec)
    assert records(spec) == made
    assert records(replace(spec, events=333)) == made[:333]
    assert records(replace(spec, seed=8)) != made
    endless = generate(replace(spec, events=None))
    assert [record for _ in range(3) for record in next(endless)][:500] == made


def test_in_files_no_poison_is_in_the_key_and_no_line_is_broken() -> None:
    for key, payload, _ in records(replace(MIXED, poison=0.5, poisons=FILE_KINDS, duplicates=0, events=5000)):
        assert key is not None
        assert payload
        assert not set(b"\r\n") & set(payload)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"users": 0}, "users: expected at least 1, got 0"),
        ({"poison": 0.6, "duplicates": 0.6}, "expected at most 1, got 1.2"),
        ({"disorder": 0.1, "lateness_ms": 10}, "disorder: needs lateness_ms of at least 1601, got 10"),
        ({"start_ms": 5}, "start_ms: expected at least"),
        ({"categories": 5, "items": 4}, "categories: expected at most as many as items, 4, got 5"),
        ({"poisons": ("arsenic",)}, "poisons: unknown arsenic; known are cut_off"),
        ({"duplicates": 0.1, "ring": 0}, "this ring has no places"),
    ],
)
def test_what_cannot_be_generated_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        SyntheticSpec(**fields)


def test_a_spec_is_read_from_words() -> None:
    spec = parse_spec(["users=50,zipf=1.1", "behaviours=pv+buy  seed=3"], events=9)
    assert spec == SyntheticSpec(users=50, zipf=1.1, behaviours=("pv", "buy"), seed=3, events=9)
    for word, message in {
        "user=5": "expected name=value, got 'user=5'; names are users",
        "users=x": "users: expected users",
    }.items():
        with pytest.raises(BadInput, match=message):
            parse_spec([word])
