"""Up to which offset a savepoint has read each partition: the Kafka source's own state, read from the savepoint's files.

What Flink's KafkaSource keeps of a partition is the offset of the next record to read. Each subtask has a list of them, which
`_metadata` names and places (numbers big-endian, a text is its length in 2 bytes and UTF-8):

    text "SourceReaderState", mode (1 byte), count (4), so many places (8 each), then a handle to the bytes
    (jobs/flink_metadata.py): within `_metadata`, in a file, or in a file beside it

    at a place   length (4), version of the format = 0 (4), length again (4), text: topic, partition (4), next offset (8),
                 stopping offset (8)

The enumerator's state in the same `_metadata` holds where each partition began, not where it is, and is passed over.
"""

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from jobs import flink_metadata
from uic.errors import JobError

EARLIEST, LATEST, COMMITTED = -2, -1, -3
_STATE = b"\x00\x11SourceReaderState"
_HEAD = struct.Struct(">Bi")
_FRAME = struct.Struct(">iii")
_SPLIT = struct.Struct(">iqq")
_MOST_SPLITS = 1 << 16
_REACH = 2 << 20  # a handle and what it holds within `_metadata`, at most
_WORDS = {EARLIEST: "earliest", LATEST: "latest", COMMITTED: "where the group has committed"}


class Split(NamedTuple):
    """A partition of a topic and the next offset to read; a negative one is a word: EARLIEST, LATEST, COMMITTED."""

    topic: str
    partition: int
    offset: int


def source_offsets(savepoint: Path, topic: str, earliest: Mapping[int, int]) -> dict[int, int]:
    """The next offset to read of each partition of `topic`, as it was at the savepoint's barrier.

    `earliest` has every partition of the topic, with the first offset the broker held when the savepoint was taken: where
    nothing was read yet and the job began at the earliest event. Raises JobError where a partition is not in the savepoint, or
    would be gone on with from a place that is not fixed in it.
    """
    found = {split.partition: split.offset for split in splits(savepoint) if split.topic == topic}
    missing = sorted(set(earliest) - set(found))
    if missing:
        raise JobError(
            f"{savepoint}: it says nothing of partition {', '.join(map(str, missing))} of {topic}: it was taken before the "
            "source had begun to read; take another one"
        )
    for partition, offset in found.items():
        if offset < 0 and offset != EARLIEST:
            raise JobError(
                f"{savepoint}: nothing was read yet of partition {partition} of {topic}, and the job would begin there at "
                f"{_WORDS.get(offset, offset)}, which is another place every time; take another one after its first event"
            )
    return {partition: earliest[partition] if offset == EARLIEST else offset for partition, offset in sorted(found.items())}


def splits(savepoint: Path) -> Iterator[Split]:
    """What the sources of a savepoint have kept; raises JobError where it cannot be read."""
    metadata = (savepoint / flink_metadata.FILE).read_bytes()
    at = 0
    while (at := metadata.find(_STATE, at)) >= 0:
        start = at + len(_STATE)
        if len(metadata) < start + _HEAD.size:
            return
        mode, count = _HEAD.unpack_from(metadata, start)
        end = start + _HEAD.size + 8 * count
        if mode > 2 or not 0 <= count <= _MOST_SPLITS or end > len(metadata):
            raise _unreadable(savepoint, f"its list at byte {at} has mode {mode} and {count} entries")
        piece = next(flink_metadata.pieces(metadata[end : end + _REACH], savepoint), None)
        if piece is None:
            raise _unreadable(savepoint, f"nothing tells where the list at byte {at} is")
        if piece.path is None:
            assert piece.inline_at is not None  # what is in no file is in `_metadata`
            content = metadata[end + piece.inline_at :][: piece.size]
            # Within these bytes the name stands once more.
            at = end + piece.inline_at + piece.size
        else:
            content = piece.path.read_bytes()
            at = end
        for (place,) in struct.iter_unpack(">q", metadata[start + _HEAD.size : end]):
            yield _split(savepoint, content, place)


def _split(savepoint: Path, content: bytes, place: int) -> Split:
    try:
        length, version, inner = _FRAME.unpack_from(content, place)
        (size,) = struct.unpack_from(">H", content, place + _FRAME.size)
        topic_at = place + _FRAME.size + 2
        topic = content[topic_at : topic_at + size].decode()
        partition, offset, _ = _SPLIT.unpack_from(content, topic_at + size)
    except (struct.error, UnicodeDecodeError) as error:
        raise _unreadable(savepoint, f"an entry at byte {place}: {error}") from error
    if version != 0 or inner != 2 + size + _SPLIT.size or length != inner + 8:
        raise _unreadable(savepoint, f"an entry of version {version}, {length} and {inner} bytes; version 0 is known")
    return Split(topic, partition, offset)


def _unreadable(savepoint: Path, why: str) -> JobError:
    return JobError(f"{savepoint}: the offsets of the Kafka source cannot be read: {why}; was it made by another connector?")
