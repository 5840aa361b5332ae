"""What an experiment compares: arms (rows of its table), the claims it tests, and what the paper reports.

    Arm          one row: a model, what is switched in it, and how its training differs from the others'
    Claim        one row is better than another: what the paper says, tested by a paired interval
    Experiment   a table or figure of the paper's section 5

Which experiments there are is in tables.py; nothing here trains.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from uic.errors import BadInput

Json = dict[str, Any]  # plans and results: JSON


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A row: trained once for every seed, with everything that is not named here alike in all rows.

    switches   fields of the model's variant (uic/variant.py, uic/models.py)
    train      fields of TrainConfig
    """

    name: str
    model: str
    switches: Json = field(default_factory=dict)
    train: Json = field(default_factory=dict)


class Claim(NamedTuple):
    """`better` has the higher AUC than `worse`; both are names of arms, or of groups of them."""

    better: str
    worse: str


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table or a figure.

    title    what the paper calls it
    about    one paragraph: what is compared, and how that differs from the paper
    paper    the paper's AUC by column and arm, on its own data: to be read beside ours, never compared in numbers
    groups   arms that are one model in several settings: a claim about a group is about the arm that the validation chose
    """

    name: str
    title: str
    about: str
    arms: tuple[Arm, ...]
    claims: tuple[Claim, ...] = ()
    paper: dict[str, dict[str, float]] = field(default_factory=dict)
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)

    def only(self, names: Sequence[str]) -> "Experiment":
        """The same with these rows alone, and the controls: for a first look, or where time is short."""
        known = [arm.name for arm in self.arms]
        if unknown := [name for name in names if name not in known]:
            raise BadInput(f"--only: expected some of {'; '.join(known)}, got {'; '.join(unknown)}")
        kept = tuple(arm for arm in self.arms if arm.name in names or arm.train.get("history") == "none")
        there = {arm.name for arm in kept}
        left = ", ".join(name for name in known if name not in there)
        groups = {group: tuple(name for name in arms if name in there) for group, arms in self.groups.items()}
        groups = {group: arms for group, arms in groups.items() if arms}
        return dataclasses.replace(
            self,
            about=f"{self.about} Left out: {left}." if left else self.about,
            arms=kept,
            claims=tuple(claim for claim in self.claims if {*claim} <= there | groups.keys()),
            groups=groups,
        )


def content_name(model: str, seed: int, content: Json) -> str:
    """The folder of a run: what it trains is its name, so whoever asks for the same finds it trained.

    >>> content_name("mimn", 7, {"slots": 8})
    'mimn-s7-c41a02374c'
    """
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return f"{model}-s{seed}-{digest[:10]}"
