"""Tables as people have them: what is read, and what is refused with which words."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.data.event_log import Reading, TableColumns, clean_events, clean_impressions
from model.data.table_file import column_names, read_table
from uic.errors import BadInput, InvalidEvent
from uic.event import parse_event

NOW_MS = 1_800_000_000_000
READING = Reading(latest_ms=NOW_MS)
NAMES = ["user_id", "item_id", "category_id", "behaviour", "time_ms"]


def table(**changes: object) -> pd.DataFrame:
    columns = {
        "user_id": ["a", "b", "c"],
        "item_id": [1, 2, 3],
        "category_id": [7, 8, -1],
        "behaviour": ["pv", "buy", "pv"],
        "time_ms": [1_511_539_217_000, 1_511_539_218_000, 1_511_539_219_000],
    }
    return pd.DataFrame(columns | changes)


def test_a_good_table_comes_out_as_it_went_in() -> None:
    log = clean_events(table(), TableColumns(), READING)
    expected = table().rename(columns={"user_id": "user"})
    pd.testing.assert_frame_equal(log.frame, expected)
    assert (log.rows_read, log.invalid, log.time_unit) == (3, {}, "ms")


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("user_id", ["a", "", "c"], ["expected text of 1 to 128 UTF-8 bytes", "row 1 has ''"]),
        ("user_id", ["a", "b", None], ["row 2 has nothing (null)"]),
        ("user_id", ["a", "ü" * 65, "c"], ["row 1 has 'üüü", "(67 characters)"]),
        ("user_id", ["a", "\ud800", "c"], ["row 1 has '\\ud800'"]),
        ("user_id", [True, False, True], ["row 0 has True"]),
        ("user_id", [1.5, 2.0, 3.0], ["row 0 has 1.5"]),
        ("item_id", [1, None, 3], ["expected a 64-bit integer", "row 1 has nothing (null)"]),
        ("item_id", [1.0, 2.5, 3.0], ["row 1 has 2.5"]),
        ("item_id", ["1", "two", "3"], ["row 0 has '1'; row 1 has 'two'"]),
        ("item_id", [1.0, float("inf"), 3.0], ["row 1 has inf"]),
        ("item_id", [1.0, 2.0**53, 3.0], ["row 1 has 9007199254740992.0"]),  # a float no longer tells it from its neighbour
        ("item_id", np.array([1, 2**63, 3], dtype=np.uint64), ["row 1 has 9223372036854775808"]),
        ("item_id", [[1], [2], [3]], ["expected a 64-bit integer, got [1]"]),
        ("category_id", [7, 8, None], ["column category_id", "row 2 has nothing (null)"]),
        ("behaviour", ["pv", "", None], ["column behaviour", "row 1 has ''; row 2 has nothing (null)"]),
        ("time_ms", [1_511_539_217_000, -5, 1_511_539_219_000], ["expected a time as a number", "row 1 has -5"]),
        ("time_ms", [1_511_539_217_000, NOW_MS + 1, 1_511_539_219_000], ["not after 2027-01-15", f"row 1 has {NOW_MS + 1}"]),
        ("time_ms", [1_511_539_217_000, 1_511_539_218, 1_511_539_219_000], ["row 1 has 1511539218"]),
        ("time_ms", [1_511_539_217, 1_511_539_218_000, 1_511_539_219], ["row 1 has 1511539218000"]),
        ("time_ms", [1.511e12, float("nan"), 1.512e12], ["row 1 has nothing (null)"]),
        ("time_ms", ["2017-11-24", "yesterday", "1511539219000"], ["row 0 has '2017-11-24'", "3 of 3 rows"]),
    ],
)
def test_a_bad_value_is_named_with_its_column_and_row(column: str, values: object, words: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        clean_events(table(**{column: values}), TableColumns(), READING, what="log.parquet")
    for word in [*words, column]:
        assert word in str(caught.value)


def test_the_message_counts_rows_and_shows_the_first_few() -> None:
    many = pd.concat([table()] * 10, ignore_index=True).assign(item_id=[None] * 20 + list(range(10)))
    many.loc[29, "user_id"] = ""
    with pytest.raises(BadInput) as caught:
        clean_events(many, TableColumns(), READING, what="log.csv")
    message = str(caught.value)
    assert message.startswith("log.csv: 21 of 30 rows cannot be used")
    assert "row 0 has nothing (null); row 1 has nothing (null); row 2 has nothing (null); and 17 more" in message
    assert "--drop-invalid" in message


def test_drop_invalid_leaves_out_bad_rows_and_counts_them_by_column() -> None:
    bad = table(user_id=["", "b", "c"], item_id=[None, 2, 3])
    log = clean_events(bad, TableColumns(), Reading(latest_ms=NOW_MS, drop_invalid=True))
    assert log.frame["user"].tolist() == ["b", "c"]
    assert log.invalid == {"user_id": 1, "item_id": 1}
    with pytest.raises(BadInput, match="none of 3 rows can be used"):
        clean_events(table(user_id=[""] * 3), TableColumns(), Reading(drop_invalid=True))


def test_a_missing_column_is_named_beside_those_that_are_there() -> None:
    with pytest.raises(BadInput, match="expected a column time_ms; the table has user_id, item_id, category_id, behaviour"):
        clean_events(table().drop(columns="time_ms"), TableColumns(), READING)
    with pytest.raises(BadInput, match="expected at least one row, got none"):
        clean_events(table().iloc[:0], TableColumns(), READING)


def test_a_log_without_behaviours_needs_one_for_all() -> None:
    bare = table().drop(columns=["behaviour", "category_id"])
    columns = TableColumns(behaviour=None, category=None)
    with pytest.raises(BadInput, match="--behaviour click"):
        clean_events(bare, columns, READING)
    log = clean_events(bare, columns, READING, behaviour="click")
    assert log.frame["behaviour"].tolist() == ["click"] * 3
    assert log.frame["category_id"].tolist() == [-1] * 3


@pytest.mark.parametrize(
    ("values", "unit", "first_ms", "found"),
    [
        ([1_511_539_217, 1_511_539_218, 1_511_539_219], "auto", 1_511_539_217_000, "s"),
        ([1_511_539_217_000] * 3, "auto", 1_511_539_217_000, "ms"),
        ([1_511_539_217.25] * 3, "auto", 1_511_539_217_250, "s"),
        ([5, 6, 7], "ms", 5, "ms"),
        ([5, 6, 7], "auto", 5000, "s"),
        (pd.to_datetime(["2017-11-24 16:00:17"] * 3), "auto", 1_511_539_217_000, "datetime"),
        (pd.to_datetime(["2017-11-24 16:00:17+08:00"] * 3), "auto", 1_511_510_417_000, "datetime"),
    ],
)
def test_the_time_unit_is_found_by_magnitude_or_given(values: object, unit: str, first_ms: int, found: str) -> None:
    reading = Reading(time_unit=unit, latest_ms=NOW_MS)  # type: ignore[arg-type]  # one of its literals
    log = clean_events(table(time_ms=values), TableColumns(), reading)
    assert (int(log.frame["time_ms"].iloc[0]), log.time_unit) == (first_ms, found)


def test_microseconds_are_refused_by_name() -> None:
    with pytest.raises(BadInput, match="looks like microseconds or nanoseconds"):
        clean_events(table(time_ms=[1_511_539_217_000_000] * 3), TableColumns(), READING)


@given(
    st.one_of(st.text(max_size=130), st.integers(-(10**20), 10**20), st.none(), st.booleans()),
    st.one_of(st.integers(-(2**64), 2**64), st.text(max_size=3), st.none(), st.booleans()),
    st.integers(-10, NOW_MS + 10),
)
def test_a_table_and_the_stream_accept_the_same_events(user: object, item: object, time_ms: int) -> None:
    import json

    row = pd.DataFrame({"user_id": [user], "item_id": [item], "category_id": [1], "behaviour": ["pv"], "time_ms": [time_ms]})
    row = row.astype({"user_id": object, "item_id": object})
    line = json.dumps(dict(zip(NAMES, [user, item, 1, "pv", time_ms], strict=True))).encode()
    try:
        event = parse_event(line, now_ms=NOW_MS, max_ahead_ms=0)
    except InvalidEvent:
        with pytest.raises(BadInput):
            clean_events(row, TableColumns(), Reading(time_unit="ms", latest_ms=NOW_MS))
    else:
        log = clean_events(row, TableColumns(), Reading(time_unit="ms", latest_ms=NOW_MS)).frame
        assert log.to_numpy().tolist() == [[event.user_id, event.item_id, 1, "pv", event.time_ms]]


def shown(**changes: object) -> pd.DataFrame:
    return table().drop(columns="behaviour").assign(**({"label": [0, 1, 0], "bid": [0.5, 1.5, 2.5]} | changes))


def test_impressions_keep_labels_and_named_features() -> None:
    frame = clean_impressions(shown(label=[False, True, False]), TableColumns(features=("bid",)), READING).frame
    assert frame.dtypes[["label", "f_bid"]].tolist() == [np.int8, np.float32]
    assert frame[["label", "f_bid"]].to_numpy().tolist() == [[0, 0.5], [1, 1.5], [0, 2.5]]


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("label", [0, 2, 1], ["expected 0 or 1", "row 1 has 2"]),
        ("label", [0, None, 1], ["expected 0 or 1", "row 1 has nothing (null)"]),
        ("bid", [0.5, float("nan"), 1], ["expected a finite number", "row 1 has nothing (null)"]),
        ("bid", [0.5, 1e300, 1], ["expected a finite number", "row 1 has 1e+300"]),
        ("bid", [0.5, "high", 1], ["row 1 has 'high'"]),
    ],
)
def test_a_bad_impression_is_named_with_its_column_and_row(column: str, values: object, words: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        clean_impressions(shown(**{column: values}), TableColumns(features=("bid",)), READING)
    for word in [*words, column]:
        assert word in str(caught.value)


def test_a_csv_keeps_users_as_text_and_reads_the_rest_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(
        "user_id,item_id,category_id,behaviour,time_ms,other\n007,1,2,pv,1511539217,x\nNA,9007199254740993,,pv,1511539218,y\n"
    )
    read = read_table(path, NAMES, ["user_id", "behaviour"])
    assert column_names(path) == [*NAMES, "other"]
    csv = Reading(latest_ms=NOW_MS, from_text=True)
    with pytest.raises(BadInput, match=r"column category_id: expected a 64-bit integer; row 1 has nothing \(null\)"):
        clean_events(read, TableColumns(), csv)
    log = clean_events(read, TableColumns(category=None), csv).frame
    assert log["user"].tolist() == ["007", "NA"]
    assert log["item_id"].tolist() == [1, 9007199254740993]


def test_one_bad_cell_does_not_turn_a_csv_column_into_text(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,category_id,behaviour,time_ms\na,1,2,pv,1511539217\nb,x,2,pv,soon\nc,3,2,pv,1511539219\n")
    read = read_table(path, NAMES, ["user_id", "behaviour"])
    with pytest.raises(BadInput) as caught:
        clean_events(read, TableColumns(), Reading(latest_ms=NOW_MS, from_text=True))
    assert "1 of 3 rows" in str(caught.value)
    assert "column item_id: expected a 64-bit integer; row 1 has 'x'" in str(caught.value)
    assert "row 1 has 'soon'" in str(caught.value)


def test_large_ids_stay_exact_where_a_parquet_column_has_gaps(tmp_path: Path) -> None:
    big = 2**62 + 1
    ids = pd.array([big, None, 3], dtype="Int64")
    table(item_id=ids).to_parquet(tmp_path / "log.parquet")
    read = read_table(tmp_path / "log.parquet", NAMES, [])
    log = clean_events(read, TableColumns(), Reading(latest_ms=NOW_MS, drop_invalid=True))
    assert log.frame["item_id"].tolist() == [big, 3]
    assert log.invalid == {"item_id": 1}


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "log.parquet").write_bytes(b"PAR1 not really")
    (tmp_path / "log.csv").write_bytes(b"a,b\xff\xfe\n")
    with pytest.raises(BadInput, match="expected a Parquet file, got"):
        column_names(tmp_path / "log.parquet")
    with pytest.raises(BadInput, match="expected a CSV file in UTF-8"):
        column_names(tmp_path / "log.csv")
    with pytest.raises(BadInput, match=r"expected a file ending in \.parquet or \.csv, got \.xlsx"):
        column_names(tmp_path / "log.xlsx")
    with pytest.raises(BadInput, match="expected a file, but there is nothing"):
        column_names(tmp_path / "missing.csv")
