"""How far a command over all users is: one moving line on a terminal, nothing elsewhere."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
_PAGE = 512


def shown(items: Iterable[Item], what: str) -> Iterator[Item]:
    """The same items, counted on standard error while they pass."""
    with counting(f"users {what}") as show:
        for page in paged(items):
            yield from page
            show(len(page))


@contextmanager
def counting(what: str) -> Iterator[Callable[[int], None]]:
    """A line that is told how many more there were."""
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn, Task, TimeElapsedColumn
    from rich.text import Text

    class Count(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.completed:,.0f} {what}  {task.speed or 0:,.0f}/s")

    with Progress(Count(), TimeElapsedColumn(), console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        counted = bar.add_task("", total=None)
        yield lambda more: bar.advance(counted, more)


def paged(items: Iterable[Item], size: int = _PAGE) -> Iterator[list[Item]]:
    """
    >>> list(paged("abc", 2))
    [['a', 'b'], ['c']]
    """
    every = iter(items)
    while page := list(islice(every, size)):
        yield page
