"""Is a daily checkpoint still what was taken, and would a job go on from it? Looked at in four ways, the quick ones first."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from jobs import checkpoints
from jobs.daily.catalogue import Catalogue
from jobs.daily.entry import Entry
from jobs.daily.offsets import source_offsets
from uic.errors import UicError

_MOST_SAID = 20


@dataclass
class Verification:
    """What was looked at: files, their bytes, the memories in them, the users that a restored job had; and what is wrong."""

    files: int = 0
    bytes: int = 0
    memories: int | None = None
    users: int | None = None
    wrong: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not self.wrong


def verify(
    catalogue: Catalogue,
    entry: Entry,
    *,
    restores: bool = True,
    work: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
    advance: Callable[[int], None] = lambda _: None,
) -> Verification:
    """Digests of all files, offsets, CRC of every memory; then, unless something is wrong already, a restore into Flink.

    `work`: where the restored job may put its files. `advance` is called with bytes read, twice those of the entry in all.
    """
    savepoint = catalogue.savepoint(entry)
    found = Verification(files=len(entry.files), bytes=entry.bytes)
    found.wrong += catalogue.wrong_files(entry, advance)
    if not (savepoint / "_metadata").exists():
        return found
    try:
        # What was never read has no offset of its own in the savepoint; the entry says where it began.
        offsets = source_offsets(savepoint, entry.topic, entry.offsets)
        if offsets != dict(entry.offsets):
            found.wrong.append(f"{savepoint}: its offsets are {offsets}, the entry says {dict(entry.offsets)}")
    except UicError as error:
        found.wrong.append(str(error))
    form = checkpoints.form_of(Path(entry.bundle))
    if form is None:
        found.wrong.append(f"{entry.bundle}: the bundle of this checkpoint is gone; put it back, or nothing can go on from it")
    elif form.layout != entry.layout:
        found.wrong.append(f"{entry.bundle}: its layout is {form.layout}, the checkpoint's is {entry.layout}")
    inspection = checkpoints.inspect(savepoint, form, advance=advance)
    found.memories = inspection.memories
    found.wrong += [*inspection.missing, *map(str, inspection.bad[:_MOST_SAID])]
    if inspection.memories != entry.memories:
        found.wrong.append(f"{savepoint}: {inspection.memories:,} memories are there of {entry.memories:,}")
    if found.wrong or form is None or not restores:
        return found

    from jobs.daily.restore import restore

    try:
        restored = restore(savepoint, form, work=work, say=say)
    except UicError as error:
        found.wrong.append(str(error))
        return found
    found.users = restored.users
    if not restored.is_same:
        found.wrong.append(
            f"{savepoint}: a job restored from it had {restored.users:,} users' memories, and they are not the "
            f"{entry.memories:,} that are in it"
        )
    return found
