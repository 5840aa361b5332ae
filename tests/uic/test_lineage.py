"""Generations and cells (uic/store/lineage.py): which memories count, and which a store may let go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uic.codec import NO_TIME
from uic.errors import BadInput, StoreError
from uic.store.lineage import Cell, Cut, Lineage, best, needed

DAY_MS = 1000  # days are short here, and all alike
MIDNIGHTS = st.integers(0, 6).map(lambda day: day * DAY_MS)
CELLS = st.builds(Cell, st.integers(0, 3), st.one_of(MIDNIGHTS, st.just(NO_TIME)))
LINEAGES = st.lists(MIDNIGHTS, max_size=3).map(
    lambda cuts_ms: Lineage(tuple(Cut(generation + 1, cut_ms) for generation, cut_ms in enumerate(cuts_ms)))
)


def counts(lineage: Lineage, generation: int, log_time_ms: int) -> bool:
    """The definition: its generation has begun, and it was taken in before the cut of every later one."""
    has_begun = not lineage.cuts or generation <= lineage.cuts[-1].generation
    return has_begun and all(log_time_ms < cut.cut_ms for cut in lineage.cuts if cut.generation > generation)


@given(LINEAGES, st.integers(0, 5), st.integers(0, 6 * DAY_MS))
def test_a_memory_counts_as_defined(lineage: Lineage, generation: int, log_time_ms: int) -> None:
    assert lineage.shows(generation, log_time_ms) == counts(lineage, generation, log_time_ms)


@given(LINEAGES, CELLS, st.integers(1, DAY_MS))
def test_all_memories_of_a_cell_count_or_none_does(lineage: Lineage, cell: Cell, before_ms: int) -> None:
    log_time_ms = NO_TIME if cell.ends_ms == NO_TIME else cell.ends_ms - before_ms
    assert lineage.shows_cell(cell) == counts(lineage, cell.generation, log_time_ms)


@given(LINEAGES, st.lists(CELLS, unique=True), MIDNIGHTS)
def test_what_is_not_needed_is_not_missed_by_any_read(lineage: Lineage, cells: list[Cell], first_ms: int) -> None:
    keep = needed(cells, lineage, first_ms)
    for before_ms in (*range(first_ms, 8 * DAY_MS, DAY_MS), None):
        assert best(keep, lineage, before_ms) == best(cells, lineage, before_ms)
    for cell in keep:
        midnights = (*range(first_ms, 8 * DAY_MS, DAY_MS), None)
        assert any(best(cells, lineage, before_ms) == cell for before_ms in midnights)


@given(LINEAGES, st.lists(CELLS, unique=True), MIDNIGHTS, MIDNIGHTS)
def test_after_a_rollback_reads_return_what_they_would_have_returned_as_of_the_cut(
    lineage: Lineage, cells: list[Cell], first_ms: int, cut_ms: int
) -> None:
    cut_ms = max(first_ms, cut_ms)
    cells = [
        cell for cell in cells if not lineage.cuts or cell.generation <= lineage.cuts[-1].generation
    ]  # the rest is refused
    after = lineage.begin(10, cut_ms)
    keep = needed(cells, lineage, first_ms)  # only this is still there
    assert best(keep, after) == best(cells, lineage, cut_ms)
    for before_ms in range(first_ms, 8 * DAY_MS, DAY_MS):
        assert best(keep, after, before_ms) == best(cells, lineage, min(cut_ms, before_ms))


@given(LINEAGES)
def test_a_lineage_is_read_as_it_was_written(lineage: Lineage) -> None:
    assert Lineage.from_json(lineage.to_json(), "here") == lineage


def test_generations_begin_one_after_the_other() -> None:
    lineage = Lineage().begin(1, 5000).begin(4, 9000)
    for generation in (4, 3, 0, -1):
        with pytest.raises(BadInput, match=f"expected one after 4, .*; got {generation}. It has begun 1 at 5000, 4 at 9000"):
            lineage.begin(generation, 9000)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "here: the store's generations cannot be read"),
        ("[]", "cannot be read"),
        ('{"format": 1, "cuts": [{"generation": 1}]}', "cannot be read"),
        ('{"format": 2, "cuts": []}', "this release reads generations of format 1, got 2"),
    ],
)
def test_what_is_no_lineage_is_refused(text: str, says: str) -> None:
    with pytest.raises(StoreError, match=says):
        Lineage.from_json(text, "here")
