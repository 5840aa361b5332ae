"""Generated events as columns and as bytes, each with what must become of it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from uic.synthetic.poison import POISONS, REASONS, Fields, spoil
from uic.synthetic.spec import SyntheticSpec

Int64 = NDArray[np.int64]

# The kinds of events that are drawn.
FRESH, DISORDER, DUPLICATE, TOO_LATE, POISON = range(5)

# The rows of an event as numbers; the id is the number of the record, -1 where the event has none.
USER, ITEM, CATEGORY, BEHAVIOUR, TIME, ID = range(6)


class Ids(NamedTuple):
    """The raw ids that items and categories have, such as those of a bundle's vocabulary."""

    items: Int64
    categories: Int64


class Expected(NamedTuple):
    """What must become of an event: applied, duplicate, late or dead; `reason` is a dead letter's."""

    outcome: str
    reason: str = ""


class Generated(NamedTuple):
    """One record: Kafka key, payload, and out of band what must become of it."""

    key: bytes | None
    payload: bytes
    expected: Expected


EXPECTED = (Expected("applied"), Expected("duplicate"), Expected("late"), *(Expected("dead", reason) for reason in REASONS))
_CODE_OF_KIND = np.array([0, 0, 1, 2, 3], dtype=np.int8)
_CODE_OF_REASON = {reason: 3 + place for place, reason in enumerate(REASONS)}


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive records as columns. `codes` are places in EXPECTED; `users` the numbers of the users drawn."""

    keys: list[bytes | None]
    payloads: list[bytes]
    codes: NDArray[np.int8]
    users: Int64

    def __len__(self) -> int:
        return len(self.payloads)

    def __iter__(self) -> Iterator[Generated]:
        for key, payload, code in zip(self.keys, self.payloads, self.codes.tolist(), strict=True):
            yield Generated(key, payload, EXPECTED[code])


def user_id(number: int) -> str:
    """The id of a user by number: how `Block.users` and the tally count them."""
    return f"u{number}"


def written(spec: SyntheticSpec, ids: Ids, kind_N: Int64, rows_RN: Int64, draw_N: NDArray[np.float64]) -> Block:
    """The records as bytes."""
    users, times, numbers = (rows_RN[row].tolist() for row in (USER, TIME, ID))
    items, categories = ids.items[rows_RN[ITEM]].tolist(), ids.categories[rows_RN[CATEGORY]].tolist()
    texts = [f'"behaviour":{json.dumps(text, ensure_ascii=False)},"time_ms":' for text in spec.behaviours]
    behaviours = rows_RN[BEHAVIOUR].tolist()
    lines = [
        f'{{"user_id":"u{user}","item_id":{item},"category_id":{category},{texts[behaviour]}{time}'
        + ("}" if number < 0 else f',"event_id":"e{number}"}}')
        for user, item, category, behaviour, time, number in zip(
            users, items, categories, behaviours, times, numbers, strict=True
        )
    ]
    # One text is encoded and split much faster than many are encoded.
    payloads = "\n".join(lines).encode().split(b"\n")
    keys: list[bytes | None] = [*"\n".join([f"u{user}" for user in users]).encode().split(b"\n")]
    codes = _CODE_OF_KIND[kind_N]
    for at in np.flatnonzero(kind_N == POISON).tolist():
        kind = spec.poisons[int(draw_N[at] * len(spec.poisons))]
        fields: Fields = {
            "user_id": user_id(users[at]),
            "item_id": items[at],
            "category_id": categories[at],
            "behaviour": spec.behaviours[behaviours[at]],
            "time_ms": times[at],
        }
        keys[at], payloads[at] = spoil(kind, user_id(users[at]).encode(), fields)
        codes[at] = _CODE_OF_REASON[POISONS[kind].reason]
    return Block(keys, payloads, codes, rows_RN[USER])
