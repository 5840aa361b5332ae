"""What fuzzing has found: bytes for which a law did not hold, each with what must become of them."""

import io
import json
import struct
from pathlib import Path

import google_crc32c
import httpx
import pytest

from benchmarks.fuzz.every import TARGETS
from benchmarks.fuzz.memories import CODEC, states
from benchmarks.fuzz.target import broken
from jobs.flink_metadata import MAGIC, pieces
from operators import control
from serving.client import Candidate, NotScored, ScoreClient
from serving.wire import Refused, read_request
from uic.codec import CRC
from uic.errors import BadInput, CorruptMemory, JobError, LayoutMismatch, StoreError
from uic.forgetting import Forgotten
from uic.quarantine import Quarantine
from uic.store import dump
from uic.store.apply import Applier
from uic.store.contract import InMemoryStore, StoreIdentity
from uic.store.lineage import Lineage

DEEP = b'{"a":' + b"[" * 100_000
GOOD = states()[0]


def with_crc(body: bytes) -> bytes:
    return body + CRC.pack(google_crc32c.value(body))


# The right size, layout and CRC over a head that no release writes: another number of tensors, of fingerprints, another table.
WRONG_HEADS = {
    "tensors": with_crc(GOOD[:6] + b"\x07\x00" + GOOD[8:-4]),
    "ring": with_crc(GOOD[:28] + b"\x01" + GOOD[29:-4]),
    "table": with_crc(GOOD[:56] + b"\x02" + GOOD[57:-4]),
}


@pytest.mark.parametrize("blob", WRONG_HEADS.values(), ids=WRONG_HEADS)
def test_a_wrong_head_under_a_right_crc_is_refused_by_every_reader_alike(blob: bytes) -> None:
    """The number of tensors was not looked at where one memory is read, and ended a batch; a follower stored the others."""
    for read in (CODEC.decode, lambda one: CODEC.decode_many([GOOD, one]), Applier(InMemoryStore(), CODEC).version):
        with pytest.raises(LayoutMismatch, match="the tensor table does not fit"):
            read(blob)
    assert broken(TARGETS["memory"], blob) is None


@pytest.mark.parametrize("message", [b'{"kind":"promote","to":"\xff"}', b'{"kind":"forget","to":"\xff"}', b"\xff", DEEP])
def test_a_control_message_that_is_no_text_or_too_deep_is_passed_over(message: bytes) -> None:
    """It ended the job: msgspec tells these with errors that are not its own."""
    with pytest.raises(BadInput, match="control message"):
        control.read(message)
    assert control.read_forget(message) is None


@pytest.mark.parametrize("status", [200, 503])
@pytest.mark.parametrize("body", [b'{"users":[{"user_id":"\xff"}]}', b'{"error":{"code":"\xff"}}', DEEP])
def test_a_client_is_told_of_an_answer_that_is_no_text_or_too_deep(status: int, body: bytes) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(status, content=body))
    with ScoreClient("http://rtp", tries=1, transport=transport) as client, pytest.raises(NotScored) as caught:
        client.score("u", [Candidate(1)])
    assert caught.value.status == status


@pytest.mark.parametrize("digits", [129, 300])
def test_a_user_whose_number_is_longer_than_any_user_can_be_is_refused(digits: int) -> None:
    """No event can name them, and RocksDB's keys have no room for them: as of a day the store was said not to answer."""
    body = b'{"users": [{"user_id": %b, "candidates": []}]}' % (b"9" * digits)
    with pytest.raises(Refused, match=r"at most 128 UTF-8 bytes - at `\$.users\[0\].user_id`") as caught:
        read_request(body, most_users=1, most_candidates=1)
    assert caught.value.status == 422
    assert (
        len(str(read_request(body.replace(b"9" * digits, b"9" * 128), most_users=1, most_candidates=1).users[0].user_id)) == 128
    )


@pytest.mark.parametrize(
    "body",
    [b"L\xff" + bytes(20), b"X\x01u" + bytes(20), b"\x00\x00" + bytes(20)],
    ids=["a user longer than the record", "an unknown kind", "none"],
)
def test_a_record_of_a_dump_that_cannot_be_one_is_refused_though_its_crc_is_right(body: bytes) -> None:
    file = io.BytesIO()
    head = dump.Head(StoreIdentity(CODEC.layout.layout_name, "toy"), "UTC", None, Lineage())
    dump.write(file, head, [])
    size = struct.pack("<I", len(body) + 4)
    altered = io.BytesIO(file.getvalue().partition(b"\n")[0] + b"\n" + size + with_crc(body))
    assert dump.read_head(altered, Path("there")) == head
    with pytest.raises(CorruptMemory, match="none of a dump's"):
        list(dump.read(altered, Path("there")))


@pytest.mark.parametrize(
    "text",
    [json.dumps({"format": 1, "cuts": [{"generation": float("inf"), "cut_ms": 0}]}), '{"format": 1, "cuts": ' + "[" * 100_000],
    ids=["an infinite generation", "too deep"],
)
def test_generations_that_cannot_be_read_are_the_stores_error(text: str) -> None:
    with pytest.raises(StoreError, match="there: the store's generations cannot be read"):
        Lineage.from_json(text, "there")


@pytest.mark.parametrize("salt", ["", "00" * 31, "00" * 65])
def test_a_salt_of_another_length_is_told_when_it_is_read(tmp_path: Path, salt: str) -> None:
    """One of more than 64 bytes was taken, and the first look-up of a user failed."""
    path = tmp_path / "forgotten.jsonl"
    path.write_text(json.dumps({"format": 1, "salt": salt}) + "\n")
    with pytest.raises(JobError, match="nobody may be left out"):
        Forgotten(path)


def test_files_that_are_nested_too_deeply_are_told_by_their_names(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DEEP + b"\n")
    with pytest.raises(BadInput, match=str(path)):
        Quarantine.read(path)
    with pytest.raises(JobError, match=str(path)):
        Forgotten(path)
    with path.open("rb") as file, pytest.raises(BadInput, match=str(path)):
        dump.read_head(file, path)


def test_a_file_whose_name_is_longer_than_names_can_be_is_one_that_is_missing(tmp_path: Path) -> None:
    """`uic checkpoint` ended with the operating system's error instead of naming the piece that is not there."""
    uri = b"file:/" + b"n" * 300
    metadata = MAGIC + struct.pack(">IQ", 4, 12) + struct.pack(">BQH", 2, 7, len(uri)) + uri
    (piece,) = pieces(metadata, tmp_path)
    assert (piece.path, piece.size) == (Path("/" + "n" * 300), 7)
    assert broken(TARGETS["rocks"], metadata) is None
