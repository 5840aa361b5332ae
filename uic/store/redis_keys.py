"""The keys of a store in Redis. With the name "uic":

    uic                      a hash: "identity" JSON (layout, lineage, zone, buckets, format; numbers, where
                             they are small: then format is 2), "source" JSON (the topic that is
                             followed), "P" and a partition: next offset and when that was written in ms, with a space;
                             "lost" when (ms) a writer found that Redis had lost what was stored, until a repair;
                             "moved" where its readers go on to (uic/store/moved.py)
    uic:days                 JSON: first_ms, last_ms; the midnights that the store can be read as of
    uic:{17}:G               JSON: the lineage, as bucket 17 has it
    uic:{17}:L:user          the latest memory of a user of bucket 17
    uic:{17}:D:user          their daily copies, a hash: generation (4, BE), end of the day in ms (8, signed, BE) -> memory
    uic:{17}:K:user          their kept memories, a hash: sequence (8, BE) -> memory

A user's bucket is the CRC-32 of the id's UTF-8 bytes, modulo the number of buckets, which is fixed when the store is made. The
braces make Redis put a bucket into one slot, and so on one server of a cluster.
"""

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from uic.errors import StoreError
from uic.memory import Numbers
from uic.store.contract import StoreIdentity
from uic.store.lineage import Cell
from uic.store.opening import numbers_from_json, numbers_to_json

BUCKETS = 1024
IDENTITY = b"identity"
SOURCE = b"source"
POSITION = b"P"
LOST = b"lost"
_CELL = struct.Struct(">Iq")
_SEQUENCE = struct.Struct(">Q")


class Frame(NamedTuple):
    """What was said when the store was made."""

    identity: StoreIdentity
    zone: str
    buckets: int
    numbers: Numbers = "float32"

    def to_json(self) -> str:
        frame = {**self.identity._asdict(), "zone": self.zone, "buckets": self.buckets}
        return json.dumps({**frame, **numbers_to_json(self.numbers)})

    @classmethod
    def from_json(cls, text: bytes, place: object) -> "Frame":
        try:
            content = json.loads(text)
            identity = StoreIdentity(content["layout"], content["lineage"])
            return cls(identity, content["zone"], int(content["buckets"]), numbers_from_json(content, place))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise StoreError(f"{place}: what kind of store this is cannot be read: {error!r}") from error


class Keys:
    """The keys of one store.

    >>> Keys("uic", 1024).of(b"u1")[1]
    b'uic:{886}:L:u1'
    """

    def __init__(self, name: str, buckets: int) -> None:
        self.store = name.encode()
        self.days = self.store + b":days"
        self.buckets = buckets

    def bucket(self, user: bytes) -> int:
        return zlib.crc32(user) % self.buckets

    def lineage(self, bucket: int) -> bytes:
        return b"%b:{%d}:G" % (self.store, bucket)

    def of(self, user: bytes) -> tuple[bytes, bytes, bytes, bytes]:
        """What the script (uic/store/redis_script.py) is called with for a user."""
        start = b"%b:{%d}:" % (self.store, self.bucket(user))
        return start + b"G", start + b"L:" + user, start + b"D:" + user, start + b"K:" + user

    def pattern(self, kind: bytes) -> bytes:
        """For Redis' SCAN: the keys of all users of a kind, L, D or K."""
        return b"%b:{*}:%b:*" % (self.store, kind)

    def user(self, key: bytes) -> bytes:
        """Whose key this is."""
        return key[key.index(b"}") + 4 :]


def field_of(cell: Cell) -> bytes:
    return _CELL.pack(*cell)


def cell_of(field: bytes) -> Cell:
    return Cell._make(_CELL.unpack(field))


def cells(flat: Sequence[bytes]) -> dict[Cell, bytes]:
    """Fields and values of the hash of copies, as the script answers them."""
    return {cell_of(field): value for field, value in zip(flat[::2], flat[1::2], strict=True)}


def kept_in(fields: Mapping[bytes, bytes]) -> dict[int, bytes]:
    return {_SEQUENCE.unpack(field)[0]: blob for field, blob in fields.items()}


def kept_field(sequence: int) -> bytes:
    return _SEQUENCE.pack(sequence)
