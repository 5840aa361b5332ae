"""Directories that appear whole or not at all: datasets, bundles, runs, event folders.

A directory is written under a hidden name beside its target and renamed when complete, so that a kill at any moment leaves
either the old content or the new one. `artefact.json` in it says of which kind it is; a directory without it, or of another
kind, is never replaced.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from uic.errors import BadInput, ForeignDirectory

MARKER = "artefact.json"


def kind_of(directory: Path) -> str | None:
    """The kind written in the directory's marker, or None where there is no readable marker."""
    try:
        content = json.loads((directory / MARKER).read_text())
    except (OSError, ValueError):
        return None
    kind = content.get("kind") if isinstance(content, dict) else None
    return kind if isinstance(kind, str) else None


def check_is(directory: Path, kind: str) -> None:
    """Raise BadInput unless `directory` is a finished artefact of this kind."""
    if not directory.is_dir():
        raise BadInput(f"{directory}: expected a {kind} directory, but there is none")
    found = kind_of(directory)
    if found != kind:
        raise BadInput(f"{directory}: expected a {kind} directory, found {found or f'no {MARKER} in it'}")


def check_may_write(target: Path, kind: str, *, replace: bool) -> None:
    """Raise ForeignDirectory unless `target` is absent, empty, or (with `replace`) an artefact of the same kind.

    A marker that is just being written, or was when its writer was killed, is nothing yet: several processes may begin at once.
    """
    if not target.exists():
        return
    if not target.is_dir():
        raise ForeignDirectory(f"{target}: expected a directory to write a {kind} into, but it is a file")
    if all(each.name.startswith(f".{MARKER}.") for each in target.iterdir()):
        return
    found = kind_of(target)
    if found != kind:
        raise ForeignDirectory(
            f"{target}: expected an empty folder or a {kind}, found {found or 'files of something else'}; "
            "it is left as it is, choose another output folder"
        )
    if not replace:
        raise ForeignDirectory(f"{target}: there is a {kind} already; pass --overwrite to replace it")


def mark(directory: Path, kind: str) -> None:
    """Write the marker of `kind` into `directory`, atomically."""
    write_atomically(directory / MARKER, json.dumps({"kind": kind}) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Replace the file `path` by `text` in one rename, flushed to the disk first."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@contextmanager
def new_directory(target: Path, kind: str, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty directory to fill; on leaving without an exception it becomes `target` in one rename.

    Raises ForeignDirectory before anything is written if `target` holds something else. What a killed predecessor left
    half-written is removed; what it had moved aside is moved back.
    """
    target = target.absolute()
    _recover(target)
    check_may_write(target, kind, replace=replace)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{target.name}.partial-{os.getpid()}"
    partial.mkdir()
    try:
        yield partial
        mark(partial, kind)
        _flush_to_disk(partial)
        if target.exists():
            aside = target.parent / f".{target.name}.old-{os.getpid()}"
            target.rename(aside)
            partial.rename(target)
            shutil.rmtree(aside)
        else:
            partial.rename(target)
        _flush_entry(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _recover(target: Path) -> None:
    for left in _abandoned(target, "old"):
        if target.exists():
            shutil.rmtree(left)
        else:
            left.rename(target)
    for left in _abandoned(target, "partial"):
        shutil.rmtree(left)


def _abandoned(target: Path, role: str) -> list[Path]:
    """The directories `.NAME.ROLE-PID` beside `target` whose process is gone; what is named otherwise is not ours."""
    prefix = f".{target.name}.{role}-"
    if not target.parent.is_dir():
        return []
    beside = [path for path in target.parent.iterdir() if path.name.startswith(prefix) and path.is_dir()]
    return [path for path in beside if _is_gone(path.name.removeprefix(prefix))]


def _is_gone(pid: str) -> bool:
    if not (pid.isascii() and pid.isdecimal()):
        return False
    if int(pid) == os.getpid():
        return True
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False


def _flush_to_disk(directory: Path) -> None:
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            _flush_entry(path)
    _flush_entry(directory)


def _flush_entry(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
