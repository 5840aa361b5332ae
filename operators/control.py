"""What travels on the control topic: one JSON object a message, told apart by "kind".

    prepare   make this bundle ready beside the active one, check it, and say whether it may follow
    promote   from here on events are applied with this bundle
    forget    a user's memory goes from keyed state, as the file of uic/forgetting.py says; taken back as soon as that is done

Each is addressed `to` one start of one job: what was meant for an earlier run, or for another job, is passed over, so the topic
can be read from its beginning. The last `promote` heeded is what the operator keeps as broadcast state, byte for byte.
"""

import msgspec

from uic.errors import BadInput

FORMAT = 1


class Prepare(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="prepare"):
    """`digest` is that of the bundle's manifest (uic/registry.py); `issued_ms` also tells a message from another one."""

    to: str
    version: int
    url: str
    digest: str
    issued_ms: int
    format: int = FORMAT


class Promote(Prepare, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="promote"):
    """The same bundle, after every subtask has said that it is ready."""


class Forget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="forget"):
    """`until_ms`: how far the log had come; `token`: tells the answer, a deletion in the snapshots topic, from others."""

    to: str
    user: str
    until_ms: int
    token: str
    format: int = FORMAT


Message = Prepare | Promote
_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)
_forget_decoder = msgspec.json.Decoder(Forget)
# Text that is not UTF-8, and what is nested too deeply, msgspec tells with errors that are not its own.
_NO_MESSAGE = (msgspec.MsgspecError, UnicodeError, RecursionError)


def to_json(message: Message | Forget) -> bytes:
    """The message as canonical bytes.

    >>> to_json(Promote(to="a1", version=5, url="r", digest="d", issued_ms=7)).decode()
    '{"digest":"d","format":1,"issued_ms":7,"kind":"promote","to":"a1","url":"r","version":5}'
    """
    return msgspec.json.encode(message, order="sorted")


def read(data: bytes) -> Message:
    """The message in these bytes; raises BadInput for anything else, kinds of a newer release among it."""
    try:
        message = _decoder.decode(data)
    except _NO_MESSAGE as error:
        raise BadInput(f"control message: {error}: {data[:200]!r}") from error
    if message.format != FORMAT:
        raise BadInput(f"control message: this release reads format {FORMAT}, got {message.format}")
    return message


def read_forget(data: bytes) -> Forget | None:
    """The message in these bytes where it is one of this kind and this release."""
    try:
        message = _forget_decoder.decode(data)
    except _NO_MESSAGE:
        return None
    return message if message.format == FORMAT else None
