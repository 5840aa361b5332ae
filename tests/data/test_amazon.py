"""`uic data prepare amazon-books` on small files in the true formats."""

import gzip
import json
import string
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paper_logs import DAY_S, amazon_log, metadata_line, review_line, write_amazon
from typer.testing import CliRunner, Result

from jobs.data import data_app
from model.data.amazon import HOW_TO_OBTAIN, TABLE_1, Metadata, Review, asin, item_id, parsed
from model.data.dataset import Dataset
from uic.errors import BadInput


def run(*arguments: object) -> Result:
    return CliRunner().invoke(data_app, ["prepare", "amazon-books", *(str(argument) for argument in arguments)])


def dataset(files: tuple[Path, Path], out: Path, *arguments: object) -> Dataset:
    usual = ["--min-history", 5, "--valid-share", 0.25, "--test-share", 0.25]
    result = run("--reviews", files[0], "--metadata", files[1], "--out", out, *usual, *arguments)
    if result.exception is not None:
        raise result.exception
    return Dataset.open(out)


@given(st.text(string.digits + string.ascii_uppercase, min_size=10, max_size=10))
def test_an_asin_is_a_number_and_back(text: str) -> None:
    assert asin(item_id(text)) == text
    assert 0 <= item_id(text) < 1 << 63


@given(st.lists(st.lists(st.text(max_size=20), min_size=1, max_size=3), min_size=1, max_size=2))
def test_json_and_python_literals_say_the_same(paths: list[list[str]]) -> None:
    line = {"asin": "0001713353", "categories": paths, "title": "It's"}
    assert parsed(json.dumps(line).encode(), Metadata) == parsed(repr(line).encode("utf-8", "replace"), Metadata)


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b"{'asin': open('x')}", b"{'asin': 1}", b'{"asin": "x"}', b"{'a': " + b"(" * 500]
)
def test_what_is_no_review_is_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"[a-z]"):
        parsed(line, Review)


def test_reviews_become_a_dataset_beside_table_1(tmp_path: Path) -> None:
    files = write_amazon(tmp_path / "raw", amazon_log())
    made = dataset(files, tmp_path / "d")
    assert made.stats["paper"] == TABLE_1 == {"users": 75_053, "items": 358_367, "categories": 1_583, "instances": 150_016}
    assert made.stats["log"] == {"users": 60, "items": len(set(made.events()["item_id"])), "categories": 6}
    events, samples = made.events(), made.samples()
    assert set(events["behaviour"]) == {"review"}
    lengths = events.groupby("user").size()
    assert lengths.min() > 5
    assert lengths.max() <= 101
    assert (samples.groupby(["user", "position"])["label"].agg(["sum", "size"]).to_numpy() == [1, 2]).all()
    assert made.stats["split_by"] == "user"
    assert made.stats["times"]["valid_from_ms"] == made.stats["times"]["test_from_ms"]


def test_a_category_is_the_last_name_of_the_first_path_and_unknown_without_metadata(tmp_path: Path) -> None:
    log = amazon_log()
    made = dataset(write_amazon(tmp_path / "raw", log), tmp_path / "d")
    books = sorted({book for _, book, _ in log})
    names = made.names().categories
    assert sorted(names.values()) == [f"Subject {number}" for number in range(6)]
    for item, category in made.events()[["item_id", "category_id"]].drop_duplicates().itertuples(index=False):
        number = books.index(asin(item))
        assert names.get(category) == (f"Subject {number % 6}" if number % 7 else None)
        assert (category == -1) == (number % 7 == 0)


@pytest.mark.parametrize("pack", [gzip.compress, bytes])
def test_gzip_or_not_it_is_the_same_dataset(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    packed = dataset(write_amazon(tmp_path / "packed", amazon_log(), pack=pack), tmp_path / "a")
    plain = dataset(write_amazon(tmp_path / "plain", amazon_log()), tmp_path / "b")
    assert packed.stats["files"] == plain.stats["files"]


def test_reviews_of_one_day_stay_in_the_order_of_the_file(tmp_path: Path) -> None:
    books = [asin(number) for number in (9, 3, 7, 1, 5, 8, 2)]
    log = [("A", book, 15_003 * DAY_S) for book in books]
    # In the file the later day may come first.
    made = dataset(write_amazon(tmp_path / "raw", [("A", asin(4), 15_020 * DAY_S), *log, *amazon_log()]), tmp_path / "d")
    assert made.events().query("user == 'A'")["item_id"].tolist() == [9, 3, 7, 1, 5, 8, 2, 4]


def test_a_bad_line_is_named_or_dropped_and_counted(tmp_path: Path) -> None:
    reviews, metadata = write_amazon(tmp_path / "raw", amazon_log())
    reviews.write_text(reviews.read_text() + '{"asin": "0001713353"}\n' + review_line(("A", "short", 1)) + "\n")
    metadata.write_text(metadata.read_text() + "{'asin': '0000000001', \n")
    count = len(amazon_log())
    with pytest.raises(
        BadInput, match=rf"reviews: expected reviews with reviewerID.* line {count + 1}: .*; line {count + 2}: "
    ):
        dataset((reviews, metadata), tmp_path / "d")
    made = dataset((reviews, metadata), tmp_path / "d", "--drop-invalid")
    assert made.stats["left_out"]["invalid"] == {"reviews": 2, "metadata": 1}


def test_metadata_of_other_products_are_refused(tmp_path: Path) -> None:
    reviews, metadata = write_amazon(tmp_path / "raw", amazon_log())
    metadata.write_text(metadata_line("ZZZZZZZZZZ", ["Books"]) + "\n")
    with pytest.raises(BadInput, match=r"expected `categories` .* got none for any of"):
        dataset((reviews, metadata), tmp_path / "d")


def test_a_missing_file_says_how_to_obtain_both(tmp_path: Path) -> None:
    reviews, _ = write_amazon(tmp_path / "raw", amazon_log())
    for arguments in ([], ["--reviews", reviews], ["--reviews", reviews, "--metadata", tmp_path / "meta_Books.json.gz"]):
        with pytest.raises(BadInput, match=r"reviews_Books_5\.json\.gz") as caught:
            raise run(*arguments).exception or AssertionError
        assert HOW_TO_OBTAIN in str(caught.value)


# What the authors' scripts do wrong, one test each: none of it may come back.


def test_erratum_the_files_given_are_the_files_read(tmp_path: Path) -> None:
    first = dataset(write_amazon(tmp_path / "one", amazon_log(seed=1)), tmp_path / "a")
    second = dataset(write_amazon(tmp_path / "two", amazon_log(seed=2)), tmp_path / "b")
    assert first.stats["source"]["digest"] != second.stats["source"]["digest"]
    assert first.stats["files"]["events.parquet"] != second.stats["files"]["events.parquet"]


def test_erratum_a_negative_without_metadata_is_drawn_like_any_other(tmp_path: Path) -> None:
    samples = dataset(write_amazon(tmp_path / "raw", amazon_log(users=300)), tmp_path / "d").samples()
    unknown = samples[samples["category_id"] == -1]
    assert set(unknown["label"]) == {0, 1}


def test_erratum_no_history_need_be_shorter_than_the_length(tmp_path: Path) -> None:
    made = dataset(write_amazon(tmp_path / "raw", amazon_log()), tmp_path / "d", "--length", 5)
    assert set(made.samples()["position"]) == {5}


def test_erratum_a_pair_is_never_split_and_users_are_split_by_the_seed(tmp_path: Path) -> None:
    files = write_amazon(tmp_path / "raw", amazon_log(users=300))
    splits = []
    for seed in (0, 0, 1):
        samples = dataset(files, tmp_path / "d", "--seed", seed, "--overwrite").samples()
        assert (samples.groupby("user")["split"].nunique() == 1).all()
        splits.append(samples["split"].tolist())
    assert splits[0] == splits[1] != splits[2]


def test_erratum_the_tail_of_a_batch_is_kept(tmp_path: Path) -> None:
    made = dataset(write_amazon(tmp_path / "raw", amazon_log()), tmp_path / "d")
    assert len(made.samples()) == 2 * made.stats["users"]
    assert len(made.samples()) % 128
