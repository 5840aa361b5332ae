"""What only the store on disk promises (uic/store/rocksdb.py): it survives, is shared, and refuses what is not its own."""

import json
import struct
import threading
from pathlib import Path

import pytest
from child import child
from rocksdict import Options, Rdict
from test_apply import memory
from test_store import IDENTITY, blob

from uic.codec import read_header
from uic.errors import BadInput, StoreError, StoreLocked, StoreMismatch
from uic.store.contract import StoreIdentity
from uic.store.rocksdb import RocksStore

# Writes one user after the other, each as often as the parent asks, and says what is acknowledged.
WRITER = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_apply import memory
from test_store import IDENTITY, blob
from uic.store.rocksdb import RocksStore
store = RocksStore.create_or_open(Path(sys.argv[1]), IDENTITY)
for sequence in range(int(sys.argv[2])):
    user = f"u{{sequence % 7}}"
    assert store.write(user, blob(sequence, sequence))
    store.write_kept(user, blob(sequence, sequence))
    print(sequence, flush=True)
print("done", flush=True)
sys.stdin.readline()
store.close()
"""


def test_a_store_survives_closing_and_opening_again(tmp_path: Path) -> None:
    for sequence in range(3):
        store = RocksStore.create_or_open(tmp_path / "store", IDENTITY)
        assert store.write("u1", blob(sequence))
        store.close()
    store = RocksStore.create_or_open(tmp_path / "store", IDENTITY)
    assert store.read("u1") == blob(2)
    assert not store.write("u1", blob(1))
    assert list(store.users()) == ["u1"]
    assert store.identity == IDENTITY
    store.close()


def test_another_process_reads_while_the_writer_writes_and_sees_more_after_a_refresh(tmp_path: Path) -> None:
    with child(WRITER, tmp_path / "store", 100) as writer:
        assert writer.said() == "0"
        reader = RocksStore.open_to_read(tmp_path / "store")
        assert reader.identity == IDENTITY
        assert reader.read("u0") is not None
        while writer.said() != "done":
            pass
        reader.refresh()
        assert sorted(reader.users()) == [f"u{number}" for number in range(7)]
        assert reader.read("u1") == blob(99, 99)
        assert reader.read_kept("u1", 1) == blob(1, 1)
        reader.close()
        writer.tell("close")
        writer.process.wait()
    assert writer.process.returncode == 0


def test_a_reading_store_leaves_nothing_behind_and_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "views"))
    (tmp_path / "views").mkdir()
    store = RocksStore.create_or_open(tmp_path / "store", IDENTITY)
    store.write("u1", blob(1))
    reader = RocksStore.open_to_read(tmp_path / "store")
    with pytest.raises(Exception, match="secondary"):
        reader.write("u1", blob(2))
    reader.close()
    assert list((tmp_path / "views").iterdir()) == []
    assert store.read("u1") == blob(1)
    store.close()


def test_kill_9_of_the_writer_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    with child(WRITER, tmp_path / "store", 10**9) as writer:
        for _ in range(200):
            writer.said()
        writer.kill()
        acknowledged = int(([*writer.rest()] or ["199"])[-1])
    store = RocksStore.create_or_open(tmp_path / "store", IDENTITY, wait_s=0)
    for sequence in range(acknowledged + 1):
        assert store.read_kept(f"u{sequence % 7}", sequence) == blob(sequence, sequence)
    latest = sorted(read_header(store.read(user) or b"").sequence for user in store.users())
    assert latest[0] > acknowledged - 7
    assert len(latest) == 7
    store.close()


def test_a_second_writer_is_told_that_the_store_is_locked_after_its_wait(tmp_path: Path) -> None:
    with child(WRITER, tmp_path / "store", 1) as writer:
        while writer.said() != "done":
            pass
        with pytest.raises(StoreLocked, match=r"store: another process has written to this store for the last 0 s"):
            RocksStore.create_or_open(tmp_path / "store", IDENTITY, wait_s=0.2)
        writer.tell("close")
        # The lock of a dying predecessor: waiting for it is enough.
        RocksStore.create_or_open(tmp_path / "store", IDENTITY, wait_s=60).close()


@pytest.mark.parametrize(
    ("other", "names"),
    [
        (IDENTITY._replace(layout="0123456789abcdef"), (IDENTITY.layout, "0123456789abcdef")),
        (IDENTITY._replace(lineage="lineage-b"), ("lineage-a", "lineage-b")),
    ],
)
def test_a_store_of_another_layout_or_lineage_is_refused_with_both_names(
    tmp_path: Path, other: StoreIdentity, names: tuple[str, str]
) -> None:
    store = RocksStore.create_or_open(tmp_path / "store", IDENTITY)
    store.write("u1", blob(1))
    store.close()
    with pytest.raises(StoreMismatch, match=f"holds memories of l[a-z]+ {names[0]}, the bundle [a-z ]+ {names[1]}"):
        RocksStore.create_or_open(tmp_path / "store", other)
    # Refusing lets go of the lock, and nothing was changed.
    store = RocksStore.create_or_open(tmp_path / "store", IDENTITY, wait_s=0)
    assert (store.identity, store.read("u1")) == (IDENTITY, blob(1))
    store.close()


def test_a_folder_of_something_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("thesis", "file"):
        with pytest.raises(BadInput, match=f"{name}: expected an online store or an empty folder, found something else"):
            RocksStore.create_or_open(tmp_path / name, IDENTITY)
        with pytest.raises(BadInput, match="expected an online store, but there is none"):
            RocksStore.open_to_read(tmp_path / name)
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter1.tex"]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("raw", [True, False])
def test_the_rocksdb_of_another_program_is_refused_and_stays_readable_to_it(tmp_path: Path, raw: bool) -> None:
    path = str(tmp_path / "theirs")
    theirs = Rdict(path, Options(raw_mode=raw))
    theirs[b"key"] = b"value"
    theirs.close()
    with pytest.raises(BadInput, match="theirs: expected an online store"):
        RocksStore.create_or_open(tmp_path / "theirs", IDENTITY, wait_s=0)
    theirs = Rdict(path)
    assert dict(theirs.items()) == {b"key": b"value"}
    theirs.close()


@pytest.mark.parametrize(
    "made",
    [
        ["rocksdict-config.json"],
        ["rocksdict-config.json", "LOG", "LOCK", "000000.dbtmp"],
        ["LOCK", "IDENTITY", "MANIFEST-000001"],
    ],
)
def test_a_store_whose_maker_was_killed_half_way_is_made_again(tmp_path: Path, made: list[str]) -> None:
    for name in made:
        (tmp_path / name).touch()
    store = RocksStore.create_or_open(tmp_path, IDENTITY, wait_s=0)
    assert store.write("u1", blob(1))
    store.close()


def test_a_store_without_its_list_of_files_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    store = RocksStore.create_or_open(tmp_path, IDENTITY)
    store.write("u1", blob(1))
    store.close()
    (tmp_path / "CURRENT").unlink()
    with pytest.raises(BadInput, match="found something else; it is left as it is"):
        RocksStore.create_or_open(tmp_path, IDENTITY)


def test_a_store_that_has_no_identity_yet_says_that_its_job_stopped_and_nothing_stays_of_the_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, views = tmp_path / "store", tmp_path / "views"
    views.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(views))
    Rdict(str(store), Options(raw_mode=True)).close()
    with pytest.raises(StoreError, match="no identity yet; its job stopped while making it"):
        RocksStore.open_to_read(store)
    assert not any(views.iterdir())
    RocksStore.create_or_open(store, IDENTITY).close()
    RocksStore.open_to_read(store).close()
    assert not any(views.iterdir())


def test_a_store_of_a_newer_release_is_refused_with_both_formats(tmp_path: Path) -> None:
    db = Rdict(str(tmp_path), Options(raw_mode=True))
    db[b"!identity"] = json.dumps({"format": 3, **IDENTITY._asdict()}).encode()
    db.close()
    for _ in range(2):  # the second would meet a lock that the first had kept
        with pytest.raises(StoreError, match="format 2 in float16 or int8; got 3 in float32"):
            RocksStore.create_or_open(tmp_path, IDENTITY, wait_s=0)
    with pytest.raises(StoreError, match="format 2 in float16 or int8; got 3 in float32"):
        RocksStore.open_to_read(tmp_path)


def test_the_keys_on_disk_are_the_documented_ones(tmp_path: Path) -> None:
    store = RocksStore.create_or_open(tmp_path, IDENTITY)
    store.write("ü", blob(3))
    store.write_kept("ü", blob(258))
    store.close()
    db = Rdict(str(tmp_path), Options(raw_mode=True))
    found = dict(db.items())
    db.close()
    assert json.loads(found.pop(b"!identity")) == {
        "format": 1,
        "layout": IDENTITY.layout,
        "lineage": "lineage-a",
        "zone": "UTC",
    }
    assert found == {"Lü".encode(): blob(3), "Kü".encode() + b"\0" + bytes([0, 0, 0, 0, 0, 0, 1, 2]): blob(258)}


def test_the_keys_of_daily_copies_are_the_documented_ones(tmp_path: Path) -> None:
    day_ms = 86_400_000
    store = RocksStore.create_or_open(tmp_path, IDENTITY, kept=2)
    for sequence in (1, 2):
        assert store.write("ü", memory(sequence, sequence * day_ms, generation=3))
    store.begin_generation(4, 2 * day_ms)
    store.delete("ü")
    store.close()
    db = Rdict(str(tmp_path), Options(raw_mode=True))
    found = dict(db.items())
    db.close()
    assert json.loads(found.pop(b"!days")) == {"first_ms": day_ms, "last_ms": 2 * day_ms}
    assert json.loads(found.pop(b"G")) == {"format": 1, "cuts": [{"generation": 4, "cut_ms": 2 * day_ms}]}
    del found[b"!identity"]
    copy = b"D\x02" + "ü".encode()
    assert found == {
        copy + struct.pack(">Iq", 3, 2 * day_ms): memory(1, day_ms, generation=3),
        copy + struct.pack(">Iq", 4, 3 * day_ms): b"",
    }


def test_threads_that_write_one_user_at_once_leave_the_largest_version(tmp_path: Path) -> None:
    store = RocksStore.create_or_open(tmp_path, IDENTITY)
    start = threading.Barrier(4)

    def write(first: int) -> None:
        start.wait()
        for sequence in range(first, 800, 4):
            store.write("u1", blob(sequence, sequence))

    threads = [threading.Thread(target=write, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.read("u1") == blob(799, 799)
    store.close()


def test_a_reader_starts_no_threads_to_look_for_new_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RocksStore.create_or_open(tmp_path / "store", IDENTITY).close()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    reader = RocksStore.open_to_read(tmp_path / "store")
    (said,) = [file.read_text() for file in tmp_path.glob("uic-store-view-*/LOG")]
    reader.close()
    # RocksDB's own words; with more, each look starts so many threads but one and ends them, ten times a second.
    assert "max_file_opening_threads: 1\n" in said
