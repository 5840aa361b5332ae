"""The project's code as a wheel: how it reaches the workers of a cluster."""

import json
import shutil
import subprocess
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit

from uic.errors import BadInput, EnvironmentProblem

_NAME = "user-interest-center"


def find_wheel(named: Path | None, into: Path) -> Path:
    """The wheel to send: the one named, else one built from the checkout that this code runs from.

    Raises BadInput where the named one is none, EnvironmentProblem where none can be built.
    """
    if named is not None:
        if named.suffix != ".whl" or not named.is_file():
            raise BadInput(f"{named}: expected a wheel (*.whl) of this project; `uv build --wheel` in the checkout makes one")
        return named.absolute()
    checkout = _checkout()
    uv = shutil.which("uv") or (None if checkout is None else shutil.which("uv", path=checkout / ".tools" / "bin"))
    if checkout is None or uv is None:
        missing = "uv is not on the PATH" if uv is None else "this code does not run from a checkout"
        raise EnvironmentProblem(f"no wheel can be built: {missing}; name one that is built: --wheel dist/*.whl")
    shutil.rmtree(into, ignore_errors=True)
    done = subprocess.run(
        [uv, "build", "--wheel", "--quiet", "--out-dir", into, checkout], capture_output=True, text=True, check=False
    )
    wheels = sorted(into.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        raise EnvironmentProblem(f"{checkout}: the wheel could not be built: {done.stderr.strip()[-500:]}")
    return wheels[-1].absolute()


def _checkout() -> Path | None:
    """Where this project is installed from, if that is an editable checkout."""
    origin = json.loads(distribution(_NAME).read_text("direct_url.json") or "{}")
    if not origin.get("dir_info", {}).get("editable"):
        return None
    return Path(unquote(urlsplit(origin["url"]).path))
