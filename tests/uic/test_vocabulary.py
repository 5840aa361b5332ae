"""Raw ids to embedding rows (uic/vocabulary.py): never padding, and append-only."""

import numpy as np
import pytest
from drawn import INT64
from hypothesis import given
from hypothesis import strategies as st

from uic.errors import BadInput
from uic.vocabulary import FIRST_ROW, PADDING_ROW, UNKNOWN_ROW, Vocabulary

ID = INT64 | st.integers(-30, 30)  # far apart, and close together
IDS = st.lists(ID, unique=True, max_size=30)


def vocabulary(ids: list[int]) -> Vocabulary:
    return Vocabulary(np.array(ids, dtype=np.int64))


def test_padding_unknown_and_first_rows_are_what_the_graphs_were_exported_with() -> None:
    assert (PADDING_ROW, UNKNOWN_ROW, FIRST_ROW) == (0, 1, 2)


@given(IDS)
def test_row_i_plus_2_belongs_to_the_ith_id(ids: list[int]) -> None:
    known = vocabulary(ids)
    assert known.rows(known.ids).tolist() == list(range(2, len(ids) + 2))
    assert known.raw_by_row[known.rows(known.ids)].tolist() == ids
    assert (len(known), known.table_rows) == (len(ids), len(ids) + 2)


@given(IDS, st.lists(ID))
def test_any_id_has_a_row_of_the_table_and_never_the_padding_row(ids: list[int], asked: list[int]) -> None:
    known = vocabulary(ids)
    rows = known.rows(np.array(asked, dtype=np.int64))
    assert [known.row(raw) for raw in asked] == rows.tolist()
    assert rows.shape == (len(asked),)
    assert rows.dtype == np.int64
    assert all(row == (ids.index(raw) + 2 if raw in ids else UNKNOWN_ROW) for raw, row in zip(asked, rows, strict=True))
    assert np.all((rows > PADDING_ROW) & (rows < known.table_rows))


def test_ids_of_any_shape_are_looked_up_at_once() -> None:
    assert vocabulary([5, -3]).rows(np.array([[5, 6, 0], [-3, -3, 5]])).tolist() == [[2, 1, 1], [3, 3, 2]]


@given(IDS, st.lists(INT64, max_size=30))
def test_an_extended_vocabulary_keeps_every_row_and_appends_the_new_ids_in_order(ids: list[int], more: list[int]) -> None:
    before = vocabulary(ids)
    after = before.extended(np.array(more, dtype=np.int64))
    assert after.begins_with(before)
    assert after.rows(before.ids).tolist() == before.rows(before.ids).tolist()
    assert after.ids[len(ids) :].tolist() == sorted(set(more) - set(ids))
    assert before.begins_with(after) == (len(after) == len(before))


def test_a_vocabulary_in_another_order_or_with_a_row_removed_is_no_beginning() -> None:
    assert not vocabulary([2, 1, 3]).begins_with(vocabulary([1, 2]))
    assert not vocabulary([1]).begins_with(vocabulary([1, 2]))
    assert vocabulary([1, 2]).begins_with(vocabulary([]))


def test_repeated_ids_are_refused_with_how_many() -> None:
    with pytest.raises(BadInput, match="expected distinct ids, got 2 repeated ones"):
        vocabulary([1, 2, 1, 1])
