"""What synthetic behaviour is asked for: one frozen value, checked when it is made; a person writes it as name=value words."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from uic.errors import BadInput
from uic.synthetic.poison import POISONS

REACH = 16
"""How far back, counted in applied events of the whole stream, an event may look that is out of order or comes again."""


@dataclass(frozen=True, kw_only=True)
class SyntheticSpec:
    """What is generated. Shares are of all events; the rest is fresh. Times are event times, in milliseconds."""

    users: int = field(default=1_000, metadata={"help": "users, u0 to u999"})
    items: int = field(default=10_000, metadata={"help": "items"})
    categories: int = field(default=100, metadata={"help": "categories"})
    behaviours: tuple[str, ...] = field(default=("click", "buy"), metadata={"help": "behaviours that the job accepts, with +"})
    seed: int = field(default=0, metadata={"help": "the same seed makes the same bytes"})
    events: int | None = field(default=None, metadata={"help": "how many; none: without end"})
    zipf: float = field(default=0.0, metadata={"help": "exponent of the users' Zipf distribution; 0: all alike"})
    item_zipf: float = field(default=1.0, metadata={"help": "the same of items within a category"})
    hot_share: float = field(default=0.0, metadata={"help": "share of the events that user u0 alone takes"})
    event_ids: float = field(default=0.5, metadata={"help": "share of the events that carry an event_id"})
    duplicates: float = field(default=0.0, metadata={"help": "share that came before; 0.9: everything ten times"})
    disorder: float = field(default=0.0, metadata={"help": "share behind its user's last event, within lateness"})
    too_late: float = field(default=0.0, metadata={"help": "share further behind: late events"})
    poison: float = field(default=0.0, metadata={"help": "share that cannot be applied: dead letters"})
    poisons: tuple[str, ...] = field(default=tuple(POISONS), metadata={"help": "kinds of poison, with +"})
    start_ms: int = field(default=1_500_000_000_000, metadata={"help": "time of the first event; must lie in the past"})
    step_ms: int = field(default=100, metadata={"help": "time from one applied event to the next"})
    interest_ms: int = field(default=86_400_000, metadata={"help": "how long a user keeps an interest"})
    lateness_ms: int = field(default=86_400_000, metadata={"help": "the job's allowed lateness"})
    ring: int = field(default=16, metadata={"help": "places of the bundle's fingerprint ring"})
    block: int = field(default=16_384, metadata={"help": "events made at once; another number makes other bytes"})

    def __post_init__(self) -> None:
        wrong = [
            f"{name}: expected at least {least}, got {getattr(self, name)}"
            for name, least in (
                ("users", 1), ("items", 1), ("categories", 1), ("seed", 0), ("zipf", 0), ("item_zipf", 0),
                ("step_ms", 3), ("interest_ms", 1), ("lateness_ms", 0), ("ring", 0), ("block", 1),
            )
            if getattr(self, name) < least
        ]  # fmt: skip
        shares = {name: getattr(self, name) for name in ("duplicates", "disorder", "too_late", "poison")}
        for name, share in {**shares, "hot_share": self.hot_share, "event_ids": self.event_ids}.items():
            if not 0 <= share <= 1:
                wrong.append(f"{name}: expected a share from 0 to 1, got {share}")
        if sum(shares.values()) > 1 + 1e-9:
            wrong.append(f"{' + '.join(shares)}: expected at most 1, got {sum(shares.values()):g}")
        if self.events is not None and self.events < 0:
            wrong.append(f"events: expected at least 0, got {self.events}")
        if self.categories > self.items:
            wrong.append(f"categories: expected at most as many as items, {self.items}, got {self.categories}")
        if self.start_ms < (before_ms := 2 * self.lateness_ms + 64 * self.step_ms):
            wrong.append(f"start_ms: expected at least {before_ms} (twice lateness_ms and 64 steps), got {self.start_ms}")
        if self.disorder > 0 and self.disorder_slots < 1:
            wrong.append(f"disorder: needs lateness_ms of at least {REACH * self.step_ms + 1}, got {self.lateness_ms}")
        if self.duplicates > 0 and self.ring == 0:
            wrong.append("duplicates: this ring has no places, nothing would be known again")
        if not self.behaviours:
            wrong.append("behaviours: expected at least one")
        if unknown := sorted(set(self.poisons) - set(POISONS)):
            wrong.append(f"poisons: unknown {', '.join(unknown)}; known are {', '.join(POISONS)}")
        if self.poison > 0 and not self.poisons:
            wrong.append("poisons: expected at least one kind")
        if wrong:
            raise BadInput("synthetic events: " + "; ".join(wrong))

    @property
    def disorder_slots(self) -> int:
        """How many different displacements disorder has within the lateness."""
        return max(0, ((self.lateness_ms - 1) // self.step_ms - REACH) // 2 + 1)


def parse_spec(words: Iterable[str], **known: Any) -> SyntheticSpec:  # fields of a spec, as a caller has them
    """A spec from words such as `users=1000`; several may stand in one text. `known` are fields that the words may change.

    >>> spec = parse_spec(["users=1_000_000 zipf=1.1", "poisons=cut_off+no_key"], events=5)
    >>> spec.users, spec.zipf, spec.poisons, spec.events
    (1000000, 1.1, ('cut_off', 'no_key'), 5)
    """
    fields = {each.name: each for each in dataclasses.fields(SyntheticSpec)}
    values = dict(known)
    for word in " ".join(words).replace(",", " ").split():
        name, sign, text = word.partition("=")
        if not sign or name not in fields:
            raise BadInput(f"synthetic events: expected name=value, got {word!r}; names are {', '.join(fields)}")
        try:
            values[name] = _value(fields[name], text)
        except ValueError:
            raise BadInput(f"synthetic events: {name}: expected {fields[name].metadata['help']}; got {text!r}") from None
    return SyntheticSpec(**values)


def _value(of: "dataclasses.Field[Any]", text: str) -> object:
    if isinstance(of.default, tuple):
        return tuple(text.split("+"))
    return float(text) if isinstance(of.default, float) else int(text)


def help_text() -> str:
    """Every field with its default and meaning, a line each."""

    def shown(default: object) -> str:
        if default is None:
            return ""
        return f"={'+'.join(default)}" if isinstance(default, tuple) else f"={default}"

    return "\n\n".join(
        f"{each.name}{shown(each.default)}: {each.metadata['help']}" for each in dataclasses.fields(SyntheticSpec)
    )
