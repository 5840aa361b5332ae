"""A stack of servers that the tests of one folder share, and that ends with the last of them rather than with the session.

Idle servers are not free: those of the scenarios take a tenth of a core for as long as they run.
"""

from collections.abc import Callable

import pytest

from jobs.dev.stack import DevStack


class SharedStack:
    """Started when it is first asked for, and anew where it was ended in between."""

    def __init__(self, make: Callable[[], DevStack]) -> None:
        self._make = make
        self._running: DevStack | None = None

    def running(self) -> DevStack:
        if self._running is None:
            stack = self._make()
            stack.start()
            self._running = stack
        return self._running

    def end(self) -> None:
        if self._running is not None:
            self._running.stop()
            self._running = None


KEY = pytest.StashKey[SharedStack]()


def end_after_its_folder(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """For the hook `pytest_runtest_teardown` of the folder's conftest, behind pytest's own."""
    if KEY in item.session.stash and (nextitem is None or nextitem.path.parent != item.path.parent):
        item.session.stash[KEY].end()
