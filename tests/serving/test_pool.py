"""What is short is scored by the event loop, the rest in threads; both count towards what may wait (serving/pool.py)."""

import asyncio
import math
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.pool import Pool
from serving.wire import Refused


@pytest.fixture
def pool() -> Iterator[Pool]:
    made = Pool(threads=1, waiting=1)
    yield made
    made.close()


def run(pool: Pool, *works: Callable[[], object], until: float = math.inf, is_short: bool = True) -> list[object]:
    """What comes of works that are asked for at the same moment."""

    async def main() -> list[object]:
        asked = (pool.run(work, until=until, time_s=1, is_short=is_short) for work in works)
        return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(main())


def test_short_work_is_done_by_the_event_loop_and_long_work_beside_it(pool: Pool) -> None:
    here = threading.current_thread().name
    assert run(pool, lambda: threading.current_thread().name) == [here]
    assert run(pool, lambda: threading.current_thread().name, until=1e9, is_short=False) != [here]


@given(waiting=st.integers(0, 5), asked=st.integers(1, 12))
def test_what_there_is_room_for_is_done_in_turn_and_the_rest_is_turned_away(waiting: int, asked: int) -> None:
    pool, done = Pool(threads=1, waiting=waiting), list[int]()
    results = run(pool, *(lambda number=number: done.append(number) for number in range(asked)))
    room = 1 + waiting
    assert done == list(range(min(room, asked)))
    refused = [each for each in results if isinstance(each, Refused)]
    assert [(each.status, each.code) for each in refused] == [(503, "overloaded")] * max(0, asked - room)
    assert pool.inside == 0
    pool.close()


def test_between_two_short_works_the_loop_sees_who_has_come(pool: Pool) -> None:
    seen: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def work(name: str) -> None:
            seen.append(name)
            loop.call_soon(seen.append, f"came during {name}")

        await asyncio.gather(
            *(pool.run(lambda name=name: work(name), until=math.inf, time_s=1, is_short=True) for name in "ab")
        )

    asyncio.run(main())
    assert seen == ["a", "came during a", "b", "came during b"]


def test_short_work_that_nobody_waits_for_any_more_is_never_begun(pool: Pool) -> None:
    done: list[bool] = []
    (refused,) = run(pool, lambda: done.append(True), until=-1.0)
    assert isinstance(refused, Refused)
    assert (refused.status, refused.code) == (504, "too_late")
    assert not done
    assert pool.inside == 0


def test_a_mistake_in_short_work_is_the_callers_and_leaves_room(pool: Pool) -> None:
    (mistake,) = run(pool, lambda: 1 / 0)
    assert isinstance(mistake, ZeroDivisionError)
    assert pool.inside == 0
