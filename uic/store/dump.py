"""All of an online store in one file, to keep it, to move it, or to read it with a program of one's own.

The first line is JSON: layout, lineage (of the bundles), zone, span (first_ms, last_ms; null: none), generations (as in
lineage.json), format (1; of a store in small numbers 2, and then numbers). Then come records, numbers little-endian:

    size of the rest (4), kind (1: "L", "D", "K", or "E"), size of the user (1), the user in UTF-8,
    generation (4), end of the day in ms (8, signed), sequence (8), the memory (uic/codec.py, uic/small.py), CRC-32C of the
    rest before it (4)

"L" is a latest memory, "D" a daily copy (an empty memory: had left by then), "K" a kept memory; what does not apply is 0.
A user's records follow each other. "E" ends the file: in the place of the sequence, how many records came before.
"""

import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import google_crc32c

from uic.errors import BadInput, CorruptMemory, StoreError
from uic.memory import Numbers
from uic.store.contract import StoreIdentity
from uic.store.lineage import Cell, Lineage
from uic.store.opening import numbers_from_json, numbers_to_json
from uic.store.writing import Span, Whole

_SIZE = struct.Struct("<I")
_HEAD = struct.Struct("<cB")
_NUMBERS = struct.Struct("<IqQ")
_LATEST, _COPY, _KEPT, _END = _KINDS = b"L", b"D", b"K", b"E"
_LONGEST = 1 << 28


class Head(NamedTuple):
    """What a dump says of its store."""

    identity: StoreIdentity
    zone: str
    span: Span | None
    lineage: Lineage
    numbers: Numbers = "float32"


def write(file: IO[bytes], head: Head, wholes: Iterable[Whole]) -> None:
    """Write a dump."""
    about = {
        **numbers_to_json(head.numbers),
        **head.identity._asdict(),
        "zone": head.zone,
        "span": None if head.span is None else head.span._asdict(),
        "generations": json.loads(head.lineage.to_json()),
    }
    file.write(json.dumps(about).encode() + b"\n")
    count = 0
    for user, latest, copies, kept in wholes:
        records = [] if latest is None else [_record(_LATEST, user, latest)]
        records += [_record(_COPY, user, blob, cell=cell) for cell, blob in copies.items()]
        records += [_record(_KEPT, user, blob, sequence=sequence) for sequence, blob in kept.items()]
        count += len(records)
        file.write(b"".join(records))
    file.write(_record(_END, b"", b"", sequence=count))


def read_head(file: IO[bytes], path: Path) -> Head:
    """What the first line says; raises BadInput where it is none of a dump's."""
    line = file.readline(_LONGEST)
    try:
        about = json.loads(line)
        span = None if about["span"] is None else Span(**about["span"])
        identity = StoreIdentity(about["layout"], about["lineage"])
        numbers = numbers_from_json(about, path)
        return Head(identity, about["zone"], span, Lineage.from_json(json.dumps(about["generations"]), path), numbers)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInput(f"{path}: expected what `uic store export` writes, got something else: {error!r}") from error
    except StoreError as error:
        raise BadInput(str(error)) from error


def read(file: IO[bytes], path: Path) -> Iterator[Whole]:
    """The users, after the head; raises CorruptMemory where the file is cut off or was changed."""
    count = 0
    now: tuple[bytes, bytes | None, dict[Cell, bytes], dict[int, bytes]] | None = None
    while True:
        at = file.tell()
        kind, user, (generation, ends_ms, sequence), blob = _parse(_rest(file, path, at), path, at)
        if now is not None and (kind == _END or user != now[0]):
            yield Whole(*now)
            now = None
        if kind == _END:
            if sequence != count:
                raise CorruptMemory(f"{path}: its end says {sequence} records, {count} are there")
            return
        count += 1
        latest = now[1] if now is not None else None
        copies, kept = (now[2], now[3]) if now is not None else ({}, {})
        if kind == _LATEST:
            latest = blob
        elif kind == _COPY:
            copies[Cell(generation, ends_ms)] = blob
        else:
            kept[sequence] = blob
        now = user, latest, copies, kept


def _record(kind: bytes, user: bytes, blob: bytes, *, cell: Cell = Cell(0, 0), sequence: int = 0) -> bytes:
    body = _HEAD.pack(kind, len(user)) + user + _NUMBERS.pack(cell.generation, cell.ends_ms, sequence) + blob
    return _SIZE.pack(len(body) + 4) + body + _SIZE.pack(google_crc32c.value(body))


def _rest(file: IO[bytes], path: Path, at: int) -> bytes:
    size = file.read(_SIZE.size)
    wanted = _SIZE.unpack(size)[0] if len(size) == _SIZE.size else _LONGEST + 1
    rest = file.read(wanted) if wanted <= _LONGEST else b""
    if len(rest) != wanted:
        raise CorruptMemory(f"{path}: cut off in the record at byte {at}, or no record is there; export the store again")
    return rest


def _parse(rest: bytes, path: Path, at: int) -> tuple[bytes, bytes, tuple[int, int, int], bytes]:
    body, said = rest[:-4], rest[-4:]
    if len(rest) < _HEAD.size + _NUMBERS.size + 4 or _SIZE.pack(google_crc32c.value(body)) != said:
        raise CorruptMemory(f"{path}: the record at byte {at} is not as it was written: its CRC-32C is another one")
    kind, size = _HEAD.unpack_from(body)
    blob_at = _HEAD.size + size + _NUMBERS.size
    if kind not in _KINDS or len(body) < blob_at:
        raise CorruptMemory(f"{path}: the record at byte {at} is of kind {kind!r}, its user of {size} bytes: none of a dump's")
    return kind, body[_HEAD.size : _HEAD.size + size], _NUMBERS.unpack_from(body, _HEAD.size + size), body[blob_at:]
