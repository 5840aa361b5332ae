"""Events that nobody can apply, each with the reason that its dead letter must give. For load and faults (uic/synthetic.py).

A kind is an ordinary event with one thing wrong. `KEY_KINDS` are wrong in their Kafka key alone, so they do not exist in files.
Bytes beyond MAX_EVENT_BYTES (`too_large`) are not among them: a megabyte each, they would be the whole load.
"""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from uic.event import MAX_TEXT_BYTES

Fields = dict[str, Any]  # the fields of an event as JSON has them, some of a wrong type on purpose
_FUTURE_MS = 4_102_444_800_000  # 2100: ahead of any clock that runs this


class Poison(NamedTuple):
    """How an event is spoiled. `spoil` makes the payload from the event's fields."""

    reason: str
    spoil: Callable[[Fields], bytes]


def _json(fields: Fields) -> bytes:
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()


def _with(name: str, value: Any) -> Callable[[Fields], bytes]:  # any JSON value, right or wrong
    return lambda fields: _json({**fields, name: value})


def _without(name: str) -> Callable[[Fields], bytes]:
    return lambda fields: _json({other: value for other, value in fields.items() if other != name})


POISONS: dict[str, Poison] = {
    "cut_off": Poison("bad_json", lambda fields: _json(fields)[:-7]),
    "in_a_list": Poison("bad_json", lambda fields: _json([fields])),  # type: ignore[arg-type]  # not an object: the point
    "not_utf8": Poison("bad_encoding", lambda fields: _json(fields).replace(b"u", b"\xff", 1)),
    "no_item": Poison("missing_field", _without("item_id")),
    "no_user": Poison("missing_field", _with("user_id", None)),
    "item_as_text": Poison("wrong_type", lambda fields: _json({**fields, "item_id": str(fields["item_id"])})),
    "half_a_category": Poison("wrong_type", _with("category_id", 0.5)),
    "long_behaviour": Poison("bad_length", _with("behaviour", "x" * (MAX_TEXT_BYTES + 1))),
    "huge_item": Poison("out_of_range", _with("item_id", 1 << 63)),
    "before_1970": Poison("negative_time", _with("time_ms", -1)),
    "in_2100": Poison("time_in_future", _with("time_ms", _FUTURE_MS)),
    "strange_behaviour": Poison("behaviour_not_accepted", _with("behaviour", "no-such-behaviour")),
    "no_key": Poison("bad_key", _json),
    "key_of_another": Poison("key_mismatch", _json),
}
KEY_KINDS = ("no_key", "key_of_another")
FILE_KINDS = tuple(kind for kind in POISONS if kind not in KEY_KINDS)
REASONS = tuple(dict.fromkeys(poison.reason for poison in POISONS.values()))


def spoil(kind: str, key: bytes, fields: Fields) -> tuple[bytes | None, bytes]:
    """Kafka key and payload of an event spoiled in this way.

    >>> spoil("no_user", b"u1", {"user_id": "u1", "item_id": 5})
    (b'u1', b'{"user_id":null,"item_id":5}')
    """
    payload = POISONS[kind].spoil(fields)
    match kind:
        case "no_key":
            return None, payload
        case "key_of_another":
            return key + b"-other", payload
    return key, payload
