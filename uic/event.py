"""The behaviour event and how it is read from the wire.

On the wire an event is one JSON object:

    {"user_id": "u1", "item_id": 42, "category_id": 7, "behaviour": "click", "time_ms": 1511539217000,
     "event_id": "optional", "source": "optional"}
"""

import json
from typing import Annotated, Any, NoReturn

import msgspec

from uic.errors import InvalidEvent

MAX_EVENT_BYTES = 1 << 20
MAX_TEXT_BYTES = 128
_INT64 = 1 << 63
# So many characters never take more than MAX_TEXT_BYTES.
_SURELY_SHORT = MAX_TEXT_BYTES // 4

_Int64 = Annotated[int, msgspec.Meta(ge=-_INT64, le=_INT64 - 1)]


class BehaviourEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One thing a user did. Ids are the raw ones of the log; the bundle's vocabulary maps them to embedding rows."""

    user_id: str
    item_id: _Int64
    category_id: _Int64
    behaviour: str
    time_ms: _Int64
    event_id: str | None = None
    source: str | None = None


def parse_event(
    payload: bytes,
    *,
    now_ms: int,
    accepted: frozenset[str] | None = None,
    max_ahead_ms: int = 86_400_000,
    key: str | None = None,
) -> BehaviourEvent:
    """Read and check one event; raises InvalidEvent with a reason that dead letters are counted by.

    `accepted` are the behaviours of the bundle (None: all). An event more than `max_ahead_ms` after `now_ms` is refused, so
    that one wrong clock cannot make every later event of its user late. `key`: the user that the log filed it under, who must
    be the event's.

    >>> parse_event(b'{"user_id": 7, "item_id": 1, "category_id": 2, "behaviour": "buy", "time_ms": 5}', now_ms=9).user_id
    '7'
    """
    if len(payload) > MAX_EVENT_BYTES:
        raise InvalidEvent("too_large", f"event: expected at most {MAX_EVENT_BYTES} bytes, got {len(payload)}")
    event = _plain_event(payload)
    if event is None:
        event = _checked_event(payload)
    if key is not None and event.user_id != key:
        raise InvalidEvent("key_mismatch", f"key: the event is of user {event.user_id!r}, its key names {key!r}")
    if event.time_ms < 0:
        raise InvalidEvent("negative_time", f"time_ms: expected milliseconds since 1970, got {event.time_ms}")
    if event.time_ms > now_ms + max_ahead_ms:
        ahead_s = (event.time_ms - now_ms) // 1000
        raise InvalidEvent(
            "time_in_future",
            f"time_ms: {event.time_ms} is {ahead_s} s ahead of the clock, allowed are {max_ahead_ms // 1000} s",
        )
    if accepted is not None and event.behaviour not in accepted:
        raise InvalidEvent(
            "behaviour_not_accepted", f"behaviour: the bundle accepts {', '.join(sorted(accepted))}, got {event.behaviour!r}"
        )
    return event


def _plain_event(payload: bytes) -> BehaviourEvent | None:
    """The event where nothing about it is unusual, in a tenth of the time; None leaves the decision to `_checked_event`."""
    try:
        # From bytes msgspec would pass over wrong UTF-8 in fields that it skips.
        event: BehaviourEvent = _PLAIN.decode(payload if payload.isascii() else payload.decode())
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    # Written out: a loop would take as long as the decoder.
    event_id, source = event.event_id, event.source
    is_plain = (
        0 < len(event.user_id) <= _SURELY_SHORT
        and 0 < len(event.behaviour) <= _SURELY_SHORT
        and (event_id is None or 0 < len(event_id) <= _SURELY_SHORT)
        and (source is None or 0 < len(source) <= _SURELY_SHORT)
    )
    return event if is_plain else None


def _checked_event(payload: bytes) -> BehaviourEvent:
    """The event field by field, with the reason where it is none."""
    try:
        fields = _DECODER.decode(payload.decode())
    except UnicodeDecodeError as error:
        raise InvalidEvent(
            "bad_encoding", f"event: expected UTF-8, got byte 0x{payload[error.start]:02x} at {error.start}"
        ) from None
    except RecursionError:
        raise InvalidEvent("bad_json", "event: expected a flat JSON object, got one nested too deeply") from None
    except ValueError as error:
        raise InvalidEvent("bad_json", f"event: expected a JSON object, got {_short(payload)}: {error}") from None
    if not isinstance(fields, dict):
        raise InvalidEvent("bad_json", f"event: expected a JSON object, got {_short(payload)}")

    return BehaviourEvent(
        user_id=_text(fields, "user_id"),
        item_id=_integer(fields, "item_id"),
        category_id=_integer(fields, "category_id"),
        behaviour=_text(fields, "behaviour", integers=False),
        time_ms=_integer(fields, "time_ms"),
        event_id=None if fields.get("event_id") is None else _text(fields, "event_id"),
        source=None if fields.get("source") is None else _text(fields, "source"),
    )


def to_json(event: BehaviourEvent) -> bytes:
    """The event as it goes over the wire, without a line end; the inverse of `parse_event`."""
    fields = {name: value for name in BehaviourEvent.__struct_fields__ if (value := getattr(event, name)) is not None}
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()


def _text(fields: dict[str, Any], name: str, *, integers: bool = True) -> str:
    value = _required(fields, name)
    if integers and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise InvalidEvent("wrong_type", f"{name}: expected text, got {_short(value)}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidEvent("bad_encoding", f"{name}: expected text that UTF-8 can write, got {_short(value)}") from None
    if not 1 <= size <= MAX_TEXT_BYTES:
        raise InvalidEvent("bad_length", f"{name}: expected 1 to {MAX_TEXT_BYTES} UTF-8 bytes, got {size}")
    return value


def _integer(fields: dict[str, Any], name: str) -> int:
    value = _required(fields, name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidEvent("wrong_type", f"{name}: expected a whole number, got {_short(value)}")
    if not -_INT64 <= value < _INT64:
        raise InvalidEvent("out_of_range", f"{name}: expected a 64-bit integer, got {_short(value)}")
    return value


def _required(fields: dict[str, Any], name: str) -> Any:  # any JSON value: the callers check it
    value = fields.get(name)
    if value is None:
        raise InvalidEvent("missing_field", f"{name}: missing; the event has {_names(fields)}")
    return value


def _names(fields: dict[str, Any]) -> str:
    # Quoted and cut: a name may be a megabyte, or a lone surrogate that nobody could write down.
    return ", ".join(_short(name) for name in sorted(fields)[:12]) or "no fields"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_PLAIN = msgspec.json.Decoder(BehaviourEvent)
# Made once: json.loads with an argument makes a decoder at every call.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _short(value: object) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}... ({len(text)} characters)"
