"""What is fuzzed: a decoder, the law that it keeps for any bytes, and bytes to begin with.

The law is the same everywhere: a decoder returns a value that encodes back to what it came of, or raises the error that it
documents; nothing else, in bounded time and memory. `check` raises where that is not so, whatever it raises.
"""

import random
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

Check = Callable[[bytes], None]
Mend = Callable[[bytes, random.Random], bytes]


def as_it_is(data: bytes, draw: random.Random) -> bytes:
    """Nothing to mend: no checksum stands in these bytes."""
    return data


@dataclass(frozen=True, kw_only=True)
class Target:
    """One decoder, or several that must agree.

    check   the law; returns where it holds
    seeds   what the code itself writes, of each kind
    mend    makes altered bytes pass the checksum, or nothing behind it would ever be reached
    words   what stands in such bytes: put into others at random
    """

    name: str
    law: str
    check: Check
    seeds: Sequence[bytes]
    mend: Mend = as_it_is
    words: Sequence[bytes] = ()
    most_bytes: int = 4096


@dataclass(frozen=True)
class Finding:
    """Bytes for which a law does not hold. `place` tells one reason from another: the error, and where it was raised."""

    target: str
    error: str
    place: str
    data: bytes

    @property
    def name(self) -> str:
        return f"{self.target}-{sha256(self.place.encode()).hexdigest()[:8]}"


def broken(target: Target, data: bytes) -> Finding | None:
    """What is wrong with a target for these bytes, if anything is."""
    try:
        target.check(data)
    except Exception as error:  # whatever is raised against the law is what is looked for
        frames = traceback.extract_tb(error.__traceback__)
        place = " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in reversed(frames[-3:]))
        words = f"{type(error).__name__}: {error}".partition("\n")[0][:300]
        return Finding(target.name, words, f"{type(error).__name__} at {place}", data)
    return None
