"""Every error of the User Interest Center, as one tree.

    UicError                      the message names the thing, what was expected and what came
    ├── InvalidEvent              one behaviour event cannot be applied: it goes to the dead letters
    ├── BadInput                  an argument, file or setting given by a person is wrong
    │   └── ForeignDirectory      an output folder already holds something that is not ours to replace
    ├── CorruptMemory             the bytes of one user's memory cannot be used
    │   ├── TruncatedMemory       fewer or more bytes than the header asks for
    │   ├── NotAMemory            wrong magic: these bytes are something else
    │   ├── UnknownFormat         written by a release that this one does not know
    │   ├── LayoutMismatch        a memory of other sizes or another variant of the model
    │   ├── ChecksumMismatch      the CRC-32C does not match: the bytes changed after they were written
    │   └── NotFinite             it has a value that is no number, which small numbers cannot hold
    ├── BundleError               a bundle is incomplete, altered, or does not fit
    ├── StoreError                the online store cannot be used
    │   ├── StoreLocked           another process writes to it
    │   ├── StoreUnavailable      it does not answer now; the same may be asked again later
    │   └── StoreMismatch         it holds memories of another layout
    ├── JobError                  the streaming job could not start, or died
    └── EnvironmentProblem        this machine lacks something (Java, network, disk, an optional package)

The command line prints the message of a UicError and exits with code 2; anything else is our mistake and keeps its traceback.
"""


class UicError(Exception):
    """The root: catch this to catch every error that the project raises on purpose."""


class InvalidEvent(UicError):
    """A behaviour event that must not reach a memory.

    `reason` is a short fixed word for counting (`bad_json`, `missing_field`, ...); the message says what was expected and
    what came.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class BadInput(UicError):
    """An argument, a file or a setting that a person gave is wrong."""


class ForeignDirectory(BadInput):
    """An output folder already holds something that this command did not make."""


class CorruptMemory(UicError):
    """The bytes of a user memory cannot be used."""


class TruncatedMemory(CorruptMemory):
    """The byte string is shorter or longer than its header says."""


class NotAMemory(CorruptMemory):
    """The byte string does not begin with the magic of a user memory."""


class UnknownFormat(CorruptMemory):
    """The format number belongs to another release."""


class LayoutMismatch(CorruptMemory):
    """The memory was written for other sizes or another variant of the model."""


class ChecksumMismatch(CorruptMemory):
    """The CRC-32C at the end does not match the bytes before it."""


class NotFinite(CorruptMemory):
    """A tensor has a value that is infinite or no number; no copy in small numbers can be made of it."""


class BundleError(UicError):
    """A bundle is incomplete, altered or unusable here."""


class StoreError(UicError):
    """The online store cannot be used."""


class StoreLocked(StoreError):
    """Another process holds the store open for writing."""


class StoreUnavailable(StoreError):
    """The store does not answer now: it is away, paused, starting or full. What was asked may have been done, or not."""


class StoreMismatch(StoreError):
    """The store holds memories of another layout."""


class JobError(UicError):
    """The streaming job could not start, or died."""


class EnvironmentProblem(UicError):
    """Something outside the project is missing: Java, network, disk space, an optional package."""
