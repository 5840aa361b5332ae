"""Where MovieLens 100K is fetched from, in this order: what the user gives, the cache, GroupLens, a wheel on PyPI.

The wheel of RecBole carries a copy for machines that reach a package registry and nothing else. Whatever the way, the content
must have the digests of ml100k.py, so all sources are the same data set. The network is behind two functions (`download_zip`,
`download_wheel`) that arrive as arguments.
"""

import hashlib
import http.client
import importlib.util
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from model.data.ml100k import MovieLens, check, parse, read_files
from uic.errors import BadInput, EnvironmentProblem

GROUPLENS_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
WHEEL_REQUIREMENT = "recbole==1.2.1"
WHEEL_DIGEST = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"

_TIMEOUT_S = 10.0
_PIP_TIMEOUT_S = 300
_MAX_ZIP_BYTES = 100_000_000  # the real one has 5 MB; this only bounds what a wrong server can send

Report = Callable[[str], None]
Download = Callable[[Path, Report], Path]
"""Brings a file into the given folder and returns it; raises EnvironmentProblem where that cannot be done."""


def cache_directory(environ: Mapping[str, str]) -> Path:
    """`$XDG_CACHE_HOME/uic`, else `~/.cache/uic`."""
    home = environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "uic"


def download_zip(folder: Path, report: Report, url: str = GROUPLENS_URL) -> Path:
    """Stream GroupLens' zip into `folder`."""
    target = folder / "ml-100k.zip"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer, target.open("wb") as file:
            size, received = int(answer.headers.get("Content-Length") or 0), 0
            while block := answer.read(1 << 18):
                file.write(block)
                received += len(block)
                report(f"downloading {url}: {received / 1e6:.1f}" + (f" of {size / 1e6:.1f} MB" if size else " MB"))
                if received > _MAX_ZIP_BYTES:
                    raise EnvironmentProblem(f"{url}: expected about 5 MB, got more than {_MAX_ZIP_BYTES // 10**6} MB")
            if size and received != size:
                raise EnvironmentProblem(f"{url}: expected {size} bytes, the connection ended after {received}")
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        raise EnvironmentProblem(f"{url}: {getattr(error, 'reason', error)}") from None
    return target


def download_wheel(folder: Path, report: Report) -> Path:
    """Let pip fetch RecBole's wheel into `folder`, without its dependencies and from whatever index pip is set to."""
    if importlib.util.find_spec("pip") is None:
        raise EnvironmentProblem(f"{WHEEL_REQUIREMENT}: pip is not in this environment (uv sync --extra train brings it)")
    report(f"fetching {WHEEL_REQUIREMENT} with pip")
    command = [sys.executable, "-m", "pip", "download", WHEEL_REQUIREMENT, "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise EnvironmentProblem(f"{WHEEL_REQUIREMENT}: pip did not finish within {_PIP_TIMEOUT_S} s") from None
    wheels = sorted(folder.glob("recbole-*.whl"))
    if done.returncode != 0 or not wheels:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise EnvironmentProblem(f"{WHEEL_REQUIREMENT}: pip download failed: {last[0][:300]}")
    return wheels[0]


def load(
    source: Path | None,
    cache: Path,
    *,
    report: Report = lambda line: None,
    zip_from: Download = download_zip,
    wheel_from: Download = download_wheel,
) -> tuple[MovieLens, str]:
    """MovieLens 100K and where it came from; a `source` that is not it is an error, never a reason to look elsewhere."""
    if source is not None:
        return _checked(source), f"{source.name}, given by the user"

    # Name in the cache, how to get it, what to call it, the digest of the file itself where one is known.
    ways: list[tuple[str, Download, str, str | None]] = [
        ("ml-100k.zip", zip_from, GROUPLENS_URL, None),
        ("recbole-1.2.1-py3-none-any.whl", wheel_from, f"the PyPI wheel {WHEEL_REQUIREMENT}", WHEEL_DIGEST),
    ]
    tried: list[str] = []
    for name, _, origin, digest in ways:
        if (cache / name).exists():
            try:
                return _from_file(cache / name, digest), origin
            except BadInput as error:
                report(f"the cached copy is damaged and is fetched again: {error}")
    for name, download, origin, digest in ways:
        try:
            return _fetch(cache, name, download, digest, report), origin
        except (BadInput, EnvironmentProblem) as error:
            tried.append(str(error))
            report(f"not from there: {error}")
    raise EnvironmentProblem(
        "MovieLens 100K: no source can be used:\n  "
        + "\n  ".join(tried)
        + f"\nbring {GROUPLENS_URL} here by other means and pass it with --source PATH (the zip, or a folder with "
        "u.data and u.item)"
    )


def _fetch(cache: Path, name: str, download: Download, digest: str | None, report: Report) -> MovieLens:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Inside the cache, so that the last step is a rename on one file system: nobody ever sees half a file.
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as folder:
            file = download(Path(folder), report)
            data = _from_file(file, digest)
            file.replace(cache / name)
            return data
    except OSError as error:
        raise EnvironmentProblem(f"{cache}: cannot be used as the cache: {error}") from None


def _from_file(file: Path, digest: str | None) -> MovieLens:
    if digest is not None:
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != digest:
            raise BadInput(f"{file.name}: expected SHA-256 {digest[:16]}..., got {found[:16]}...")
    return _checked(file)


def _checked(path: Path) -> MovieLens:
    return check(parse(read_files(path), path.name), path.name)
