"""Ids find the rows that the vocabulary gives them, by a table or not (serving/rows.py)."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serving.rows import Rows
from uic.vocabulary import Vocabulary

_ANY = st.integers(-(2**63), 2**63 - 1)


@given(
    ids=st.lists(_ANY | st.integers(-20, 20), unique=True, max_size=20)
    | st.lists(st.integers(2**63 - 30, 2**63 - 1), unique=True),
    data=st.data(),
)
def test_rows_are_the_vocabularys(ids: list[int], data: st.DataObject) -> None:
    vocabulary = Vocabulary(np.array(ids, dtype=np.int64))
    raw = np.array(data.draw(st.lists(_ANY | st.integers(-25, 25) | st.sampled_from(ids or [0]))), dtype=np.int64)
    rows = Rows(vocabulary)(raw)
    assert rows.dtype == np.int64
    assert rows.tolist() == vocabulary.rows(raw).tolist()
