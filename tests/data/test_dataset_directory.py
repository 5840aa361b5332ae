"""The directory: what was written is read back, what was altered is refused."""

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from toy_logs import SOURCE, clean, settings, steady_log

from model.data.dataset import EVENT_COLUMNS, SAMPLE_COLUMNS, Dataset, Names, file_digest
from model.data.prepare import build, prepare
from uic.errors import BadInput


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    names = Names(categories={3: "Comedy|Romance"}, items={100: "Misérables, Les (1995)"})
    return prepare(clean(steady_log()), tmp_path / "d", settings(), source=SOURCE, names=names)


def test_what_was_built_is_read_back(dataset: Dataset) -> None:
    made = build(clean(steady_log()), settings(), source=SOURCE)
    pd.testing.assert_frame_equal(dataset.events(), made.events)
    pd.testing.assert_frame_equal(dataset.samples(), made.samples)
    assert dataset.vocabularies.items.ids.tolist() == made.vocabularies.items.ids.tolist()
    assert {**made.stats, "format": 1} == {
        name: value for name, value in json.loads(json.dumps(dataset.stats)).items() if name != "files"
    }
    assert dataset.names().categories == {3: "Comedy|Romance"}
    assert dataset.names().items == {100: "Misérables, Les (1995)"}


def test_columns_have_the_contracts_names_types_and_order(dataset: Dataset) -> None:
    for name, columns in (("events", EVENT_COLUMNS), ("samples", SAMPLE_COLUMNS)):
        schema = pq.read_schema(dataset.path / f"{name}.parquet")
        assert {field.name: field.type for field in schema} == columns
    assert list(dataset.events("item_id", "time_ms").columns) == ["item_id", "time_ms"]


def test_a_split_is_read_alone(dataset: Dataset) -> None:
    parts = [dataset.samples(split) for split in ("train", "valid", "test")]
    assert [set(part["split"]) for part in parts] == [{"train"}, {"valid"}, {"test"}]
    assert sum(map(len, parts)) == len(dataset.samples())


def test_stats_hold_the_digests_of_the_other_files(dataset: Dataset) -> None:
    files = dataset.stats["files"]
    assert set(files) == {"events.parquet", "samples.parquet", "vocabulary.npz", "names.json"}
    assert all(file_digest(dataset.path / name) == digest for name, digest in files.items())


def test_a_folder_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="expected a dataset directory, but there is none"):
        Dataset.open(tmp_path / "nowhere")
    with pytest.raises(BadInput, match=r"expected a dataset directory, found no artefact\.json in it"):
        Dataset.open(tmp_path)


@pytest.mark.parametrize("name", ["events.parquet", "samples.parquet", "vocabulary.npz", "stats.json"])
def test_a_missing_or_cut_file_is_refused_by_name(dataset: Dataset, name: str) -> None:
    file = dataset.path / name
    content = file.read_bytes()
    for damaged in (content[: len(content) // 2], b""):
        file.write_bytes(damaged)
        with pytest.raises(BadInput, match=name):
            Dataset.open(dataset.path)
    file.unlink()
    with pytest.raises(BadInput, match=name):
        Dataset.open(dataset.path)


def test_a_missing_or_wrong_typed_column_is_refused(dataset: Dataset) -> None:
    path = dataset.path / "samples.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["label"]), path)
    with pytest.raises(BadInput, match=r"samples\.parquet: expected a column label \[int8\], got only user, position"):
        Dataset.open(dataset.path)
    pq.write_table(table.set_column(4, "label", table["label"].cast("int64")), path)
    with pytest.raises(BadInput, match=r"column label: expected int8, got int64"):
        Dataset.open(dataset.path)


def test_another_format_is_refused(dataset: Dataset) -> None:
    (dataset.path / "stats.json").write_text(json.dumps({**dataset.stats, "format": 2}))
    with pytest.raises(BadInput, match="expected format 1, got 2; prepare it again"):
        Dataset.open(dataset.path)
