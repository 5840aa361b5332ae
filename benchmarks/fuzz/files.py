"""Targets: small files of JSON, the dump of a store, and files of RocksDB and Flink, as an altered disk would give them."""

import atexit
import io
import json
import random
import shutil
import struct
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

import google_crc32c

from benchmarks.fuzz.memories import CODEC, copies, states
from benchmarks.fuzz.target import Target
from jobs import flink_metadata, sst
from jobs.daily.entry import Entry, example
from uic.errors import BadInput, CorruptMemory, JobError, StoreError
from uic.forgetting import Entry as Forgetting
from uic.forgetting import Forgotten
from uic.quarantine import Quarantine
from uic.store import dump
from uic.store.contract import StoreIdentity
from uic.store.lineage import Cell, Lineage
from uic.store.redis_keys import Frame
from uic.store.writing import Span, Whole

_SIZE = struct.Struct("<I")


@cache
def _scratch() -> Path:
    # In memory where there is such a folder: a disk would be most of the time.
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="uic-fuzz-", dir=shared if shared.is_dir() else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder / "file"


def _in_file(data: bytes) -> Path:
    path = _scratch()
    path.write_bytes(data)
    return path


def check_notes(data: bytes) -> None:
    """Each of the small files, read from the same bytes: what is read is written and read back as the same."""
    text = data.decode(errors="replace")
    with suppress(StoreError):
        lineage = Lineage.from_json(data, "there")
        assert Lineage.from_json(lineage.to_json(), "there") == lineage
    with suppress(StoreError):
        frame = Frame.from_json(data, "there")
        assert Frame.from_json(frame.to_json().encode(), "there") == frame
    with suppress(JobError):
        entry = Entry.from_json(text, "there")
        assert Entry.from_json(json.dumps(entry.to_json()), "there") == entry
    with suppress(BadInput):
        quarantine = Quarantine.read(_in_file(data))
        assert Quarantine.read(_in_file(quarantine.to_json().encode())) == quarantine
    with suppress(JobError):
        forgotten = Forgotten(_in_file(data))
        until_ms = forgotten.until_ms("u")
        assert until_ms is None or isinstance(until_ms, int)


def check_dump(data: bytes) -> None:
    """A dump is read and written back as the same, or refused before anything of a wrong record is handed on."""
    file = io.BytesIO(data)
    try:
        head = dump.read_head(file, Path("there"))
        wholes = list(dump.read(file, Path("there")))
    except (BadInput, CorruptMemory):
        return
    again = io.BytesIO()
    dump.write(again, head, wholes)
    again.seek(0)
    assert dump.read_head(again, Path("there")) == head
    assert list(dump.read(again, Path("there"))) == wholes


def _dumps() -> list[bytes]:
    made = []
    for numbers, blobs in (("float32", states()), ("int8", copies())):
        wholes = [
            Whole(b"u", blobs[0], {Cell(0, 86_400_000): blobs[1], Cell(1, 172_800_000): b""}, {7: blobs[0]}),
            Whole("ü".encode(), None, {Cell(0, 86_400_000): blobs[2]}, {}),
        ]
        identity = StoreIdentity(CODEC.layout.layout_name, "toy")
        for few in (wholes, wholes[:1], []):
            file = io.BytesIO()
            head = dump.Head(identity, "UTC", Span(0, 86_400_000), Lineage().begin(1, 86_400_000), numbers)  # type: ignore[arg-type]  # these two are
            dump.write(file, head, few)
            made.append(file.getvalue())
    return made


def _mend_dump(data: bytes, draw: random.Random) -> bytes:
    """The records with sizes and CRCs that are right, as far as there are records."""
    head, end, rest = data.partition(b"\n")
    parts, at = [head, end], 0
    while len(rest) - at > 2 * _SIZE.size:
        said = _SIZE.unpack_from(rest, at)[0]
        size = said if _SIZE.size <= said <= len(rest) - at - _SIZE.size else len(rest) - at - _SIZE.size
        body = rest[at + _SIZE.size : at + size]
        parts.append(_SIZE.pack(size) + body + _SIZE.pack(google_crc32c.value(body)))
        at += _SIZE.size + size
    return b"".join(parts)


def check_rocks(data: bytes) -> None:
    """A file of RocksDB's or Flink's: places that are wrong, or said not to be readable; within the file always."""
    view = memoryview(data)
    for wrong in sst.check_manifest(view):
        assert 0 <= wrong.offset <= len(data)
    if sst.is_sst(view):
        # Whoever reads one says of the second: its index leads beyond the end of the file.
        with suppress(sst.Unreadable, IndexError):
            file = sst.Sst(view)
            wrongs = list(file.wrong())
            assert all(each.why for each in wrongs)
            if not wrongs:
                file.is_compressed()
    for piece in flink_metadata.pieces(data, _scratch().parent):
        assert piece.size >= 0
        assert piece.path is not None or piece.inline_at is not None


@cache
def _rocks() -> tuple[bytes, ...]:
    """An SST file and a manifest, as RocksDB writes them, and the handles of a `_metadata`."""
    from rocksdict import Options, Rdict

    with tempfile.TemporaryDirectory(prefix="uic-fuzz-") as folder:
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        db = Rdict(f"{folder}/db", options)
        for number in range(6):
            db[b"L%d" % number] = states()[0]
        db.flush()
        db.close()
        made = [
            path.read_bytes()
            for path in sorted(Path(folder, "db").iterdir())
            if path.suffix == ".sst" or "MANIFEST" in path.name
        ]
    uuid = b"01234567-89ab-cdef-0123-456789abcdef"
    text = b"file:/uic-nothing/" + uuid
    handle = b"\x00\x0a000016.sst\x02" + struct.pack(">QH", 4096, len(text)) + text
    beside = b"\x06\x00\x24" + uuid + struct.pack(">Q", 77)
    inline = b"\x01" + struct.pack(">H", len(uuid)) + uuid + struct.pack(">I", 5) + b"inner"
    return (*made, flink_metadata.MAGIC + struct.pack(">IQ", 4, 12) + handle + beside + inline)


def _forgotten() -> bytes:
    path = _scratch().with_name("forgotten.jsonl")
    path.unlink(missing_ok=True)
    forgotten = Forgotten(path)
    forgotten.note("u", Forgetting(1000, "anew", 2000))
    forgotten.note("v", Forgetting(None, "drop", 2000))
    return path.read_bytes()


def targets() -> list[Target]:
    """All three targets."""
    quarantine = Quarantine(from_ms=5, users=frozenset({"u"}), items=frozenset({1}), between_ms=((1, 2),))

    def to_json(entry: Entry) -> bytes:
        return json.dumps(entry.to_json()).encode()

    notes = [
        Lineage().begin(1, 5000).begin(2, 3000).to_json().encode(),
        Frame(StoreIdentity("0" * 16, "toy"), "UTC", 1024, "int8").to_json().encode(),
        to_json(example()),
        to_json(example(cut={0: 9, 1: 9}, cut_by_clock=(1,), pins=("ann",), tainted="rolled back")),
        quarantine.after(Quarantine(from_ms=1)).to_json().encode(),
        _forgotten(),
    ]
    words = (
        *(b"Infinity", b"1e999", b"NaN", b"null", b"[]", b"{}", b"-1"),
        *(b'"format"', b'"cuts"', b'"generation"', b'"before":', b'"span"'),
    )
    return [
        Target(
            name="notes",
            law="generations, frame, catalogue entry, quarantine, forgotten users: read and written back the same, or refused",
            check=check_notes,
            seeds=notes,
            words=words,
        ),
        Target(
            name="dump",
            law="a dump of a store is read and written back the same, or refused",
            check=check_dump,
            seeds=_dumps(),
            mend=_mend_dump,
            words=words,
        ),
        Target(
            name="rocks",
            law="RocksDB's and Flink's files are looked through, or said not to be readable",
            check=check_rocks,
            seeds=_rocks(),
            words=(sst.MAGIC, b"file:", b"s3:", b"\x02\x00\x00", b"\x06\x00\x24", b"../", b"%00"),
            most_bytes=8192,
        ),
    ]
