"""The switches of the model (uic/variant.py): what is refused, and what the presets stand for."""

from typing import Any

import pytest
from drawn import variants
from hypothesis import given

from uic.errors import BadInput
from uic.variant import Variant, preset


@given(variants)
def test_a_variant_survives_json(variant: Variant) -> None:
    assert Variant.from_json(variant.to_json()) == variant


@pytest.mark.parametrize(("switch", "used"), [("head_controller", True), ("read_feedback", False)])
def test_a_younger_switch_is_told_only_where_it_is_used(switch: str, used: bool) -> None:
    # What was written before there was the switch stays byte for byte what it was, and is read by releases without it.
    assert switch not in Variant().to_json()
    assert Variant(**{switch: used}).to_json() == {**Variant().to_json(), switch: used}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mur": "shfit"}, "model.mur: expected one of none, shift, transfer, got 'shfit'"),
        ({"pooling": "max"}, "model.pooling: expected one of sum, mean"),
        ({"slots": 0}, "model.slots: expected a whole number from 1 to 65535, got 0"),
        ({"slots": 65536}, "got 65536"),
        ({"slots": True}, "model.slots: expected a whole number"),
        ({"slot_width": 4.0}, "model.slot_width: expected a whole number from 1 to 65535, got 4.0"),
        ({"miu": 1}, "model.miu: expected true or false, got 1"),
        ({"slots": 2}, "mur=shift mixes a slot with both neighbours and needs 3, got 2"),
        ({"slots": 4, "top_channels": 5}, "model.top_channels: expected at most slots = 4, got 5"),
    ],
)
def test_a_variant_that_cannot_be_is_refused_with_its_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Variant(**changes)


def test_two_slots_are_enough_without_the_shift() -> None:
    assert Variant(slots=2, mur="none").slots == 2


def test_switches_of_a_newer_release_are_named() -> None:
    with pytest.raises(BadInput, match="unknown switches forgetting; made by a newer release"):
        Variant.from_json({**Variant().to_json(), "forgetting": 1})


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadInput, match="expected one of official, paper, default, got 'offical'"):
        preset("offical")


def test_the_presets_are_what_the_issue_and_the_specification_say() -> None:
    official, paper, default = (preset(name) for name in ("official", "paper", "default"))
    assert (official.mur, official.utilization, official.key_memory, official.temperature) == ("shift", "raw", True, True)
    assert (official.miu_memory, official.miu_readout, official.pooling, official.top_channels) == (
        "before",
        "last_output",
        "sum",
        1,
    )
    assert (paper.mur, paper.utilization, paper.key_memory, paper.temperature) == ("transfer", "share", False, False)
    assert (paper.miu_memory, paper.miu_readout) == ("after", "state")
    assert (default.mur, default.utilization, default.key_memory, default.temperature) == ("shift", "share", True, True)
    assert (default.miu_memory, default.miu_readout, default.pooling) == ("before", "state", "mean")
