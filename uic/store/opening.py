"""A folder of RocksDB as ours: which options it has, whose memories it holds, and what is refused."""

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path

from rocksdict import BlockBasedOptions, DBCompressionType, Options, Rdict, WriteBatch

from uic.errors import StoreError, StoreLocked, StoreMismatch
from uic.memory import Numbers
from uic.small import Shrink
from uic.store.contract import Shard, StoreIdentity

IDENTITY = b"!identity"
SHARD = b"!shard"
SHARDS_FILE = "shards.json"  # uic/store/sharded.py
# A store in small numbers has a number of its own, so that a release which knows none refuses it as a whole.
_FORMATS: dict[Numbers, int] = {"float32": 1, "float16": 2, "int8": 2}
# What RocksDB makes in a new folder before CURRENT, and so before any data.
_BEFORE_CURRENT = re.compile(r"rocksdict-config\.json|LOCK|LOG(\.old\.\d+)?|IDENTITY|MANIFEST-\d+|\d+\.dbtmp")


def write_identity(db: Rdict, identity: StoreIdentity, zone: str, numbers: Numbers, shard: Shard | None) -> None:
    batch = WriteBatch(raw_mode=True)
    batch.put(IDENTITY, json.dumps({**identity._asdict(), "zone": zone, **numbers_to_json(numbers)}).encode())
    if shard is not None:
        batch.put(SHARD, json.dumps(shard._asdict()).encode())
    db.write(batch)


def check_identity(found: StoreIdentity, expected: StoreIdentity, path: object) -> None:
    """Raise StoreMismatch unless the store's memories can be used with a bundle of this layout and lineage."""
    if found.layout != expected.layout:
        raise StoreMismatch(
            f"{path}: the store holds memories of layout {found.layout}, the bundle makes {expected.layout}. "
            "Use the bundle they were made with, or another store and replay the log into it"
        )
    if found.lineage != expected.lineage:
        raise StoreMismatch(
            f"{path}: the store holds memories of lineage {found.lineage}, the bundle is of {expected.lineage}: same sizes, "
            "but another memory space. Use a bundle trained on from theirs, or another store and replay the log into it"
        )


def check_zone(found: str, expected: str | None, path: object) -> None:
    """Raise StoreMismatch where the store's days are those of another zone; None expects none in particular."""
    if expected is not None and found != expected:
        raise StoreMismatch(
            f"{path}: the store's days are those of {found}, days.zone says {expected}: its daily copies were made at other "
            "midnights. Use its zone, or another store and replay the log into it"
        )


def numbers_to_json(numbers: Numbers) -> dict[str, str | int]:
    """What is said of a store's numbers, and its format with them."""
    return {"format": _FORMATS[numbers], **({} if numbers == "float32" else {"numbers": numbers})}


def numbers_from_json(content: Mapping[str, object], path: object) -> Numbers:
    """The inverse; raises StoreError for what another release has written."""
    found, numbers = content.get("format"), content.get("numbers", "float32")
    for known, number in _FORMATS.items():
        if (known, number) == (numbers, found):
            return known
    raise StoreError(f"{path}: this release reads store format 1, and format 2 in float16 or int8; got {found} in {numbers}")


def check_numbers(found: Numbers, shrink: Shrink | None, path: object) -> None:
    """Raise StoreMismatch where memories are to be kept in other numbers than the store's; None keeps whatever it has."""
    if shrink is not None and shrink.numbers != found:
        way = (
            f"`uic store copy --numbers {shrink.numbers}` makes another store of it"
            if found == "float32"
            else "what was rounded away is not to be had again: follow the topic into another store"
        )
        raise StoreMismatch(
            f"{path}: the store holds memories in {found}, store.numbers says {shrink.numbers}. Set store.numbers to {found}, "
            f"or use another store: {way}"
        )


def read_shard(db: Rdict) -> Shard | None:
    raw = get(db, SHARD)
    return None if raw is None else Shard(**json.loads(raw))


def check_shard(found: Shard | None, expected: Shard | None, path: Path) -> None:
    if found == expected:
        return
    if expected is None:
        assert found is not None
        raise StoreMismatch(f"{path}: this is shard {found.number} of {found.shards}; open the store, {path.parent}")
    raise StoreMismatch(
        f"{path}: expected {_shard_words(expected)}, found {_shard_words(found)}. Use it as it was made, or another folder"
    )


def _shard_words(shard: Shard | None) -> str:
    if shard is None:
        return "a whole store"
    return f"shard {shard.number} of {shard.shards} for a topic of {shard.partitions} partitions"


def is_ours(path: Path) -> bool:
    """Whether a store may be opened or made here: an empty folder, a store, or one whose maker was killed half-way."""
    if not path.is_dir():
        return False
    names = [each.name for each in path.iterdir()]
    if "CURRENT" not in names:
        return all(_BEFORE_CURRENT.fullmatch(name) for name in names)
    try:
        # Opening would rewrite this file and leave a store of another program unreadable to it.
        return bool(json.loads((path / "rocksdict-config.json").read_text()).get("raw_mode", True))
    except (OSError, ValueError, AttributeError):
        return True  # cut off by a kill, or not made by rocksdict: the keys will tell


def get(db: Rdict, key: bytes) -> bytes | None:
    value = db.get(key)
    assert value is None or isinstance(value, bytes)  # raw mode has no other values
    return value


def options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_max_open_files(-1)  # what a secondary instance needs to keep reading files that the primary drops
    options.set_compression_type(DBCompressionType.lz4())
    options.set_keep_log_file_num(2)
    # Users who are new to the store are told from the others without reading a block.
    tables = BlockBasedOptions()
    tables.set_bloom_filter(10, False)
    options.set_block_based_table_factory(tables)
    return options


def reading_options() -> Options:
    """Those of a secondary instance, which looks for new files many times a second."""
    found = options()
    # Each look would start fifteen threads to open what files there may be, and end them: 150 a second.
    found.set_max_file_opening_threads(1)
    return found


def open_waiting(path: Path, wait_s: float) -> Rdict:
    give_up_at = time.monotonic() + wait_s
    while True:
        try:
            return Rdict(str(path), options())
        except Exception as error:  # rocksdict raises plain Exception for everything
            if "lock" not in str(error).lower():
                raise StoreError(f"{path}: the store cannot be opened: {error}") from error
            if time.monotonic() > give_up_at:
                raise StoreLocked(
                    f"{path}: another process has written to this store for the last {wait_s:.0f} s: {error}"
                ) from error
        time.sleep(0.1)


def read_identity(db: Rdict, path: Path) -> StoreIdentity | None:
    raw = get(db, IDENTITY)
    if raw is None:
        return None
    content = json.loads(raw)
    numbers_from_json(content, path)
    return StoreIdentity(layout=content["layout"], lineage=content["lineage"])


def read_numbers(db: Rdict, path: Path) -> Numbers:
    """In which numbers the store's memories are; float32 where nothing is said."""
    raw = get(db, IDENTITY)
    return "float32" if raw is None else numbers_from_json(json.loads(raw), path)


def read_zone(db: Rdict) -> str | None:
    """The zone of the store's days; None in a store that was made before there were daily copies."""
    raw = get(db, IDENTITY)
    zone = None if raw is None else json.loads(raw).get("zone")
    return None if zone is None else str(zone)
