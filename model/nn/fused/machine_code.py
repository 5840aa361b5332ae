"""Functions compiled by numba, kept on disk between processes."""

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])
# Sums may be added up in any order, as in any product of matrices: loops over a state would wait for each in turn otherwise.
_ANY_ORDER = {"reassoc", "contract", "nsz"}
_IN_ORDER = {"contract", "nsz"}


def compiled(function: F) -> F:
    """The function as machine code; other threads run meanwhile."""
    return _made(function, _ANY_ORDER)


def compiled_in_order(function: F) -> F:
    """The same, for arithmetic that depends on the order in which it is written."""
    return _made(function, _IN_ORDER)


def _made(function: F, fastmath: set[str]) -> F:
    config: Any = numba.config  # what it holds is made when it is imported
    given, folder = config.CACHE_DIR, _folder()
    config.CACHE_DIR = folder or given
    try:
        # Inlined, all of them: of what is called by its name there may be several copies in a process, each rounded in its own
        # way, and which is taken depends on what was compiled here and what was loaded. A run that is gone on with would end
        # differently.
        made: Any = numba.njit(cache=folder is not None, nogil=True, error_model="numpy", fastmath=fastmath, forceinline=True)(
            function
        )
        return made  # type: ignore[no-any-return]  # called like the function itself
    finally:
        config.CACHE_DIR = given


@cache
def _folder() -> str | None:
    """Where the code is kept, None where nothing can be written: then each process compiles, which takes some seconds.

    numba sees a change of a function's own file, not one of what the function calls: so there is a folder for each state of the
    sources.
    """
    digest = hashlib.sha256(b"".join(each.read_bytes() for each in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()[:16]
    kept = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(kept) / "user-interest-center" / digest
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return str(folder) if os.access(folder, os.W_OK) else None
