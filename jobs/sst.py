"""RocksDB's files as a checkpoint holds them: is every block as it was written?

An SST file is a row of blocks, a footer at its end and an index that knows where the blocks are. RocksDB gives each block a
checksum and looks at it when it reads the block, which may be days after the restore; here all of them are looked at before.
A manifest is a log, each entry of which has a checksum of its own.

    block    content, compression (1 byte; 0 = none), checksum (4 bytes, over content and the byte of compression)
    entry    shared and own length of the key, in an index nothing more, else the value's length; own part of the key; the value
    footer   the last 53 bytes: kind of checksum, places of meta index and index, zeros, format version, magic

Numbers without a width are varints, of seven bits a byte. https://github.com/facebook/rocksdb/wiki/Rocksdb-BlockBasedTable-Format
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

import google_crc32c

MAGIC = bytes.fromhex("f7cff485b741e288")
_FOOTER = 53
_TRAILER = 5
_CRC32C, _XXH3 = 1, 4
_LAST_BYTE_PRIME = 0x6B9083D9
_WORD = 0xFFFFFFFF
_PLAIN = 0
_LOG_BLOCK = 32768
_LOG_HEAD = struct.Struct("<IHB")


class Wrong(NamedTuple):
    """A place in a file whose bytes are not those that were written."""

    offset: int
    size: int
    why: str


class Unreadable(Exception):
    """A file that this module cannot follow: not said to be damaged, but not checked either."""


class _Block(NamedTuple):
    offset: int
    size: int


def is_sst(data: memoryview) -> bool:
    """Whether a file ends as RocksDB's do."""
    return len(data) >= _FOOTER and data[-len(MAGIC) :] == MAGIC


class Sst:
    """An SST file; `data` is all of it. Raises Unreadable for a format that is not known here."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        footer = bytes(data[-_FOOTER:])
        self._kind = footer[0]
        version = int.from_bytes(footer[-12:-8], "little")
        if self._kind not in (_CRC32C, _XXH3) or not 2 <= version <= 5:
            raise Unreadable(f"an SST file of format {version} with checksums of kind {self._kind}")
        places, _ = _varints(footer, 1, 4)
        self._meta_index = _Block(places[0], places[1])
        self._index = _Block(places[2], places[3])

    def wrong(self) -> Iterator[Wrong]:
        """Every block whose bytes do not match its checksum; raises Unreadable where the index cannot be followed."""
        for block in (self._meta_index, self._index):
            if (wrong := self._check(block)) is not None:
                yield Wrong(wrong.offset, wrong.size, f"{wrong.why}; it leads to the others, which were not looked at")
                return
        for block in (*self._blocks(self._meta_index, has_length=True), *self._blocks(self._index, has_length=False)):
            if (wrong := self._check(block)) is not None:
                yield wrong

    def is_compressed(self) -> bool:
        """Whether values do not lie in it as they are; to be asked of a file in which nothing is wrong."""
        blocks = self._blocks(self._index, has_length=False)
        return any(self._data[block.offset + block.size] != _PLAIN for block in blocks)

    def _check(self, block: _Block) -> Wrong | None:
        end = block.offset + block.size
        if end + _TRAILER > len(self._data) - _FOOTER:
            return Wrong(
                len(self._data) - _FOOTER, _FOOTER, f"a block of {block.size} bytes at {block.offset} is beyond the file's end"
            )
        stored = int.from_bytes(self._data[end + 1 : end + _TRAILER], "little")
        computed = _checksum(self._data[block.offset : end + 1], self._kind)
        if computed == stored:
            return None
        why = f"RocksDB's checksum of {block.size} bytes is {computed:08x}, the file says {stored:08x}"
        return Wrong(block.offset, block.size + _TRAILER, why)

    def _blocks(self, index: _Block, *, has_length: bool) -> Iterator[_Block]:
        """The blocks to which the entries of an index lead."""
        if self._data[index.offset + index.size] != _PLAIN:
            raise Unreadable("an SST file with a compressed index")
        content = bytes(self._data[index.offset : index.offset + index.size])
        restarts = int.from_bytes(content[-4:], "little") & 0x7FFFFFFF
        at, end = 0, len(content) - 4 - 4 * restarts
        while at < end:
            (shared, own), at = _varints(content, at, 2)
            if has_length:
                _, at = _varints(content, at, 1)
            elif shared:
                raise Unreadable("an SST file whose index tells places by their distance")
            at += own
            (offset, size), after = _varints(content, at, 2)
            at = after
            yield _Block(offset, size)


def check_manifest(data: memoryview) -> Iterator[Wrong]:
    """The first entry of a MANIFEST that does not match its CRC, if any."""
    at = 0
    while at + _LOG_HEAD.size <= len(data):
        left = _LOG_BLOCK - at % _LOG_BLOCK
        if left < _LOG_HEAD.size:
            at += left
            continue
        stored, size, _ = _LOG_HEAD.unpack_from(data, at)
        content = bytes(data[at + 6 : at + _LOG_HEAD.size + size])
        if len(content) != 1 + size or _masked_crc(content) != stored:
            yield Wrong(at, len(content), "an entry of RocksDB's manifest does not match its CRC")
            return
        at += _LOG_HEAD.size + size


def _checksum(content: memoryview, kind: int) -> int:
    """The checksum of a block with its byte of compression at the end."""
    if kind == _CRC32C:
        return _masked_crc(bytes(content))
    import xxhash

    return (xxhash.xxh3_64_intdigest(content[:-1]) ^ content[-1] * _LAST_BYTE_PRIME) & _WORD


def _masked_crc(content: bytes) -> int:
    crc: int = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & _WORD


def _varints(data: bytes, at: int, count: int) -> tuple[list[int], int]:
    """So many varints from `at` on, and where they end.

    >>> _varints(bytes([5, 0x80, 1]), 0, 2)
    ([5, 128], 3)
    """
    numbers = []
    for _ in range(count):
        number = shift = 0
        while True:
            byte = data[at]
            at += 1
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        numbers.append(number)
    return numbers, at
