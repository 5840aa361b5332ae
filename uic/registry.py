"""The registry of bundles: a folder or an object store, reached through fsspec. Nothing in it is ever changed in place.

    VERSION-DIGEST/...        the files of a bundle, as uic/bundle.py lists them
    pushed/VERSION.json       written last: the bundle is there. {"digest": of its manifest, "bytes", "at_ms"}
    promoted/VERSION.json     it became a job's model. {"at_ms"}
    refused/VERSION.json      a job would not take it. {"at_ms", "why"}
    retired/VERSION.json      it must not be promoted any more; its files stay, since savepoints may be of it. {"at_ms"}

The digest of a bundle is that of its manifest, which has the digest of every other file.
"""

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from uic import artefact
from uic.bundle import KIND, MANIFEST, Bundle, Manifest, check_file
from uic.errors import BadInput, BundleError, EnvironmentProblem

_DIGEST_SHOWN = 16
_Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A bundle in the registry. Times are None for what never happened; `refused` is why a job would not take it."""

    version: int
    digest: str
    bytes: int
    pushed_ms: int
    promoted_ms: int | None = None
    retired_ms: int | None = None
    refused: str | None = None

    @property
    def state(self) -> str:
        """retired, promoted, refused or pushed: what was done with it last that matters."""
        if self.retired_ms is not None:
            return "retired"
        if self.promoted_ms is not None:
            return "promoted"
        return "pushed" if self.refused is None else "refused"

    @property
    def folder(self) -> str:
        return f"{self.version}-{self.digest[:_DIGEST_SHOWN]}"


def digest_of(path: Path) -> str:
    """The digest of the bundle in this folder: SHA-256 of its manifest."""
    return hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()


class Registry:
    """Bundles at a URL: a path of this machine, or whatever fsspec and its plug-ins reach (s3://, gs://, ...)."""

    def __init__(self, url: str) -> None:
        # A path must mean the same to workers, whose working directory is another one.
        self.url = url if "://" in url else str(Path(url).absolute())
        try:
            self._fs, root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise BadInput(f"registry.url {url}: {error}") from error
        self._root = PurePosixPath(root)

    def push(self, path: Path, *, now_ms: int, say: _Say = lambda _: None) -> Entry:
        """Check every digest of a bundle and put it into the registry: it is there as a whole, or not at all.

        The same bundle a second time changes nothing. Raises BadInput where this version is there with other contents.
        """
        bundle = Bundle.open(path)
        manifest = bundle.manifest
        size = sum(int(entry["bytes"]) for entry in manifest.files.values())
        entry = Entry(version=manifest.version, digest=digest_of(path), bytes=size, pushed_ms=now_ms)
        there = self.find(entry.version)
        if there is None:
            with self._errors():
                for number, name in enumerate([*manifest.files, MANIFEST], 1):
                    say(f"{name} ({number} of {len(manifest.files) + 1})")
                    self._put(path / name, f"{entry.folder}/{name}")
            self._note("pushed", entry.version, {"digest": entry.digest, "bytes": size, "at_ms": now_ms})
            there = self.find(entry.version)
        if there is None or there.digest != entry.digest:
            found = "no readable entry" if there is None else f"digest {there.digest[:_DIGEST_SHOWN]}..."
            raise BadInput(
                f"{path}: version {entry.version} is in {self.url} already, with other contents: expected digest "
                f"{entry.digest[:_DIGEST_SHOWN]}..., found {found} there; a version is never replaced: export the model anew"
            )
        return there

    def find(self, version: int) -> Entry | None:
        """What the registry says of a version, None where it was never pushed as a whole."""
        pushed = self._read("pushed", version)
        if pushed is None:
            return None
        promoted, retired, refused = (self._read(each, version) for each in ("promoted", "retired", "refused"))
        return Entry(
            version=version,
            digest=str(pushed["digest"]),
            bytes=int(pushed["bytes"]),
            pushed_ms=int(pushed["at_ms"]),
            promoted_ms=None if promoted is None else int(promoted["at_ms"]),
            retired_ms=None if retired is None else int(retired["at_ms"]),
            refused=None if refused is None else str(refused["why"]),
        )

    def get(self, version: int) -> Entry:
        """The same; raises BadInput where there is none."""
        entry = self.find(version)
        if entry is None:
            known = [each.version for each in self.entries()]
            raise BadInput(
                f"{self.url}: no bundle {version} there; there are {', '.join(map(str, known)) or 'none'}. `uic bundle push` "
                "puts one there"
            )
        return entry

    def entries(self) -> list[Entry]:
        """Every bundle, oldest first."""
        with self._errors():
            if not self._fs.isdir(self._at("pushed")):
                return []
            names = [PurePosixPath(name) for name in self._fs.ls(self._at("pushed"), detail=False)]
        versions = sorted(int(name.stem) for name in names if name.suffix == ".json" and name.stem.isdecimal())
        return [entry for version in versions if (entry := self.find(version)) is not None]

    def manifest(self, entry: Entry) -> Manifest:
        """The manifest of a bundle; raises BundleError where it is not the one that was pushed."""
        return _manifest(self._manifest_bytes(entry), f"{self.url}/{entry.folder}/{MANIFEST}")

    def fetch(self, entry: Entry, cache: Path) -> Bundle:
        """The bundle as a folder below `cache`, every digest checked; raises BundleError where it is not what was pushed."""
        cache.mkdir(parents=True, exist_ok=True)
        target = cache / entry.folder
        with _locked(cache / ".lock"):
            if target.exists():
                try:
                    return _opened(target, entry)
                except BundleError:
                    pass  # what lies here was damaged: fetched anew
            data = self._manifest_bytes(entry)
            manifest = _manifest(data, f"{self.url}/{entry.folder}/{MANIFEST}")
            with artefact.new_directory(target, KIND, replace=True) as partial, self._errors():
                (partial / MANIFEST).write_bytes(data)
                for name, facts in manifest.files.items():
                    self._fs.get_file(self._at(f"{entry.folder}/{name}"), str(partial / name))
                    check_file(partial / name, facts)
            return _opened(target, entry)

    def note_promoted(self, version: int, now_ms: int) -> None:
        self._note("promoted", version, {"at_ms": now_ms})

    def note_refused(self, version: int, why: str, now_ms: int) -> None:
        self._note("refused", version, {"at_ms": now_ms, "why": why})

    def note_retired(self, version: int, now_ms: int) -> None:
        self._note("retired", version, {"at_ms": now_ms})

    def _manifest_bytes(self, entry: Entry) -> bytes:
        where = f"{self.url}/{entry.folder}/{MANIFEST}"
        with self._errors():
            try:
                data = bytes(self._fs.cat_file(self._at(f"{entry.folder}/{MANIFEST}")))
            except FileNotFoundError as error:
                raise BundleError(f"{where}: missing; version {entry.version} was pushed with it") from error
        found = hashlib.sha256(data).hexdigest()
        if found != entry.digest:
            raise BundleError(
                f"{where}: altered: expected SHA-256 {entry.digest[:_DIGEST_SHOWN]}..., got {found[:_DIGEST_SHOWN]}..."
            )
        return data

    def _put(self, path: Path, name: str) -> None:
        self._fs.makedirs(str(PurePosixPath(self._at(name)).parent), exist_ok=True)
        self._fs.put_file(str(path), self._at(name))

    def _note(self, kind: str, version: int, content: dict[str, Any]) -> None:
        with self._errors():
            self._fs.makedirs(self._at(kind), exist_ok=True)
            self._fs.pipe_file(self._at(f"{kind}/{version}.json"), json.dumps(content).encode() + b"\n")

    def _read(self, kind: str, version: int) -> dict[str, Any] | None:
        with self._errors():
            try:
                content = json.loads(self._fs.cat_file(self._at(f"{kind}/{version}.json")))
            except (FileNotFoundError, ValueError):
                return None  # a note that was cut off by the end of its writer was never made
        return content if isinstance(content, dict) else None

    def _at(self, name: str) -> str:
        return str(self._root / name)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise BundleError(f"{self.url}: {error.filename or error}: missing") from error
        except OSError as error:
            raise EnvironmentProblem(f"registry.url {self.url}: cannot be used: {error}") from error


def _manifest(data: bytes, where: str) -> Manifest:
    manifest = Manifest.parse(data, where)
    for name in manifest.files:
        if PurePosixPath(name).name != name:
            raise BundleError(f"{where}: expected names of files in one folder, got {name!r}")
    return manifest


def _opened(path: Path, entry: Entry) -> Bundle:
    if digest_of(path) != entry.digest:
        raise BundleError(f"{path}: another bundle than {entry.folder}")
    return Bundle.open(path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
