"""RocksDB's own checksums, looked at before RocksDB does (jobs/sst.py)."""

import random
from pathlib import Path

import pytest
from rocksdict import AccessType, BlockBasedOptions, ChecksumType, DBCompressionType, Options, Rdict

from jobs.sst import Sst, Unreadable, check_manifest, is_sst

VALUE = 600
KEYS = 400


def files(path: Path, compression: DBCompressionType, checksum: ChecksumType) -> dict[str, bytes]:
    """The files of a small database with values that compress to about a half."""
    blocks = BlockBasedOptions()
    blocks.set_checksum_type(checksum)
    blocks.set_format_version(5)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_compression_type(compression)
    options.set_block_based_table_factory(blocks)
    draw = random.Random(1)
    db = Rdict(str(path), options, access_type=AccessType.read_write())
    for number in range(KEYS):
        db[b"user %d" % number] = draw.randbytes(VALUE // 2) + bytes(VALUE // 2)
    db.flush()
    db.close()
    return {each.name: each.read_bytes() for each in path.iterdir() if each.is_file()}


def the_sst(path: Path, compression: DBCompressionType, checksum: ChecksumType) -> bytes:
    (data,) = [data for name, data in files(path, compression, checksum).items() if name.endswith(".sst")]
    return data


@pytest.mark.parametrize("checksum", [ChecksumType.xxh3(), ChecksumType.crc32c()], ids=["XXH3", "CRC-32C"])
def test_a_file_is_right_as_it_is_and_wrong_with_any_bit_flipped(tmp_path: Path, checksum: ChecksumType) -> None:
    data = the_sst(tmp_path / "db", DBCompressionType.none(), checksum)
    assert is_sst(memoryview(data))
    assert list(Sst(memoryview(data)).wrong()) == []
    assert not Sst(memoryview(data)).is_compressed()
    draw = random.Random(2)
    for bit in [draw.randrange(8 * (len(data) - 53)) for _ in range(200)]:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        (wrong,) = Sst(memoryview(bytes(flipped))).wrong()
        assert wrong.offset <= bit // 8 < wrong.offset + wrong.size


def test_a_compressed_file_is_not_taken_for_one_in_which_values_can_be_seen(tmp_path: Path) -> None:
    file = Sst(memoryview(the_sst(tmp_path / "db", DBCompressionType.snappy(), ChecksumType.xxh3())))
    with pytest.raises(Unreadable, match="compressed index"):
        list(file.wrong())


def test_another_kind_of_checksum_is_said(tmp_path: Path) -> None:
    data = the_sst(tmp_path / "db", DBCompressionType.none(), ChecksumType.xxhash64())
    with pytest.raises(Unreadable, match="an SST file of format 5 with checksums of kind 3"):
        Sst(memoryview(data))


def test_what_is_no_sst_file_is_not_taken_for_one() -> None:
    assert not is_sst(memoryview(b""))
    assert not is_sst(memoryview(bytes(100)))


def test_a_manifest_is_right_as_it_is_and_wrong_with_any_bit_flipped(tmp_path: Path) -> None:
    (data,) = [
        data
        for name, data in files(tmp_path / "db", DBCompressionType.none(), ChecksumType.xxh3()).items()
        if name.startswith("MANIFEST")
    ]
    assert list(check_manifest(memoryview(data))) == []
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert len(list(check_manifest(memoryview(bytes(flipped))))) == 1, f"bit {bit} was not noticed"
