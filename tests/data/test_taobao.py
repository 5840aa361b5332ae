"""`uic data prepare taobao` on small files in the true format."""

from pathlib import Path

import numpy as np
import pytest
from paper_logs import gzipped, taobao_log, write_taobao, zipped
from typer.testing import CliRunner, Result

from jobs.data import data_app
from model.data.dataset import Dataset
from model.data.leak import UNSEEN
from model.data.taobao import FIRST_MS, HOW_TO_OBTAIN, TABLE_1
from uic.errors import BadInput
from uic.vocabulary import FIRST_ROW


def run(*arguments: object) -> Result:
    return CliRunner().invoke(data_app, ["prepare", "taobao", *(str(argument) for argument in arguments)])


def dataset(source: Path, out: Path, *arguments: object) -> Dataset:
    result = run("--source", source, "--out", out, "--window-hours", 24, *arguments)
    if result.exception is not None:
        raise result.exception
    return Dataset.open(out)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_taobao(tmp_path / "UserBehavior.csv", taobao_log())


def test_clicks_become_a_dataset_beside_table_1(source: Path, tmp_path: Path) -> None:
    result = run("--source", source, "--out", tmp_path / "d", "--window-hours", 24)
    words = " ".join(result.output.split())
    for expected in ("beside the paper's Table 1", "987,994", "4,162,024", "9,439", UNSEEN, "last event of its own history"):
        assert expected in words
    made = Dataset.open(tmp_path / "d")
    assert set(made.events()["behaviour"]) == {"pv"}
    assert made.stats["paper"] == TABLE_1 == {"users": 987_994, "items": 4_162_024, "categories": 9_439, "instances": 987_994}
    assert made.stats["log"] == {"users": 60, "items": 40, "categories": 5}
    assert made.label == "cold-user"
    assert "reading UserBehavior.csv" in words


def test_every_user_is_asked_once_and_half_of_the_labels_are_clicks(tmp_path: Path) -> None:
    source = write_taobao(tmp_path / "log.csv", taobao_log(users=2000, rows=12_000))
    samples = dataset(source, tmp_path / "d").samples()
    assert not samples["user"].duplicated().any()
    # Five standard deviations of a fair coin.
    assert abs(samples["label"].mean() - 0.5) < 5 * 0.5 / np.sqrt(len(samples))


def test_the_latest_three_tenths_of_the_users_are_the_test(source: Path, tmp_path: Path) -> None:
    samples = dataset(source, tmp_path / "d").samples()
    assert (samples["split"] == "test").mean() == pytest.approx(0.3, abs=0.05)
    assert (samples["split"] == "valid").mean() == pytest.approx(0.1, abs=0.05)
    test, rest = samples["split"] == "test", samples["split"] != "test"
    assert samples["time_ms"][test].min() > samples["time_ms"][rest].max()


@pytest.mark.parametrize("pack", [gzipped, zipped])
def test_packed_or_with_other_line_ends_it_is_the_same_dataset(source: Path, tmp_path: Path, pack: object) -> None:
    assert callable(pack)
    plain = dataset(source, tmp_path / "a").stats["files"]
    assert dataset(pack(source), tmp_path / "b").stats["files"] == plain
    windows = write_taobao(tmp_path / "windows.csv", taobao_log(), end="\r\n")
    assert dataset(windows, tmp_path / "c").stats["files"] == plain


def test_all_legacy_options_are_the_authors_scripts(source: Path, tmp_path: Path) -> None:
    names = ["target-in-history", "item-zero-is-padding", "all-behaviours", "uniform-negatives", "any-time"]
    made = dataset(source, tmp_path / "d", *(part for name in names for part in ("--legacy", name)))
    assert made.stats["candidate_ends_history"] == {"positive": 1.0, "negative": 1.0}
    assert set(made.events()["behaviour"]) == {"pv", "cart", "fav", "buy"}
    assert 0 not in made.events()["item_id"].to_numpy()
    assert made.stats["left_out"]["padding_item"] > 0


def test_broken_clocks_are_left_out_and_counted_unless_any_time_will_do(tmp_path: Path) -> None:
    log = [*taobao_log(), (1, 1, 1, "pv", 1_000), (1, 2, 1, "pv", 2_122_867_355), (1, 3, 1, "pv", -2_134_949_234)]
    source = write_taobao(tmp_path / "log.csv", log)
    assert dataset(source, tmp_path / "a").stats["left_out"]["outside_the_days"] == 3
    # No window reaches from one of these to another event, so any item will do as a negative.
    legacy = dataset(source, tmp_path / "b", "--legacy", "any-time", "--legacy", "uniform-negatives")
    # A time before 1970 is none that an event can have.
    assert legacy.stats["left_out"]["outside_the_days"] == 1
    assert (legacy.events().query("user == '1'")["time_ms"] // 1000).tolist() == [1_000, 2_122_867_355]


def test_a_bad_line_is_named_or_dropped_and_counted(tmp_path: Path) -> None:
    source = write_taobao(tmp_path / "log.csv", taobao_log())
    lines = source.read_text().splitlines(keepends=True)
    lines[6] = "1,2,3,share,1511600000\n"
    lines[9] = "user,item\n"
    source.write_text("".join(lines))
    with pytest.raises(
        BadInput, match=r"log\.csv: expected user,item,category,behaviour .*line 7: '1,2,3,share.*; line 10: 'user,item'"
    ):
        dataset(source, tmp_path / "d")
    assert not (tmp_path / "d").exists()
    assert dataset(source, tmp_path / "d", "--drop-invalid").stats["left_out"]["invalid"] == {"lines": 2}


def test_an_empty_file_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()
    with pytest.raises(BadInput, match="the log: expected events, got none"):
        dataset(tmp_path / "empty.csv", tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_a_missing_file_says_how_to_obtain_it(tmp_path: Path) -> None:
    for arguments in ([], ["--source", tmp_path / "UserBehavior.csv"]):
        with pytest.raises(BadInput, match="Tianchi") as caught:
            raise run(*arguments).exception or AssertionError
        assert HOW_TO_OBTAIN in str(caught.value)


def test_a_download_cut_short_is_told_as_such(source: Path, tmp_path: Path) -> None:
    packed = gzipped(source)
    packed.write_bytes(packed.read_bytes()[:-100])
    with pytest.raises(BadInput, match=r"UserBehavior\.csv\.gz: the file cannot be read to its end"):
        dataset(packed, tmp_path / "d")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["UserBehavior.csv", "UserBehavior.csv.gz"]


# What the authors' scripts do wrong, one test each: none of it may come back.


def test_erratum_item_0_is_an_item_like_any_other(source: Path, tmp_path: Path) -> None:
    made = dataset(source, tmp_path / "d")
    assert 0 in made.events()["item_id"].to_numpy()
    assert made.vocabularies.items.row(0) >= FIRST_ROW


def test_erratum_the_tail_of_a_batch_is_kept(source: Path, tmp_path: Path) -> None:
    made = dataset(source, tmp_path / "d")
    assert len(made.samples()) == 60 == made.stats["users"]


def test_erratum_a_history_that_covers_the_catalogue_gets_a_negative_all_the_same(tmp_path: Path) -> None:
    source = write_taobao(tmp_path / "log.csv", taobao_log(items=2, rows=1200))
    for arguments in ([], ["--legacy", "uniform-negatives"]):
        made = dataset(source, tmp_path / "d", "--overwrite", *arguments)
        assert made.stats["left_out"]["without_negative"] == 0
        assert set(made.samples()["label"]) == {0, 1}


def test_erratum_a_catalogue_of_one_item_is_refused_in_words(tmp_path: Path) -> None:
    source = write_taobao(tmp_path / "log.csv", taobao_log(items=1))
    with pytest.raises(BadInput, match="60 without another item to draw"):
        dataset(source, tmp_path / "d", "--legacy", "uniform-negatives")


def test_erratum_times_are_in_the_order_of_the_clock_and_ties_in_that_of_the_file(tmp_path: Path) -> None:
    at = FIRST_MS // 1000 + 50
    log = [*taobao_log(), (7, 1, 1, "pv", at + 9), (7, 2, 1, "pv", at), (7, 3, 1, "pv", at), (7, 1, 1, "pv", at)]
    made = dataset(write_taobao(tmp_path / "log.csv", log), tmp_path / "d", "--window-hours", 1000)
    asked = made.samples().query("user == '7'")
    assert made.events().query("user == '7'")["item_id"].tolist()[:3] == [2, 3, 1]
    assert asked["position"].tolist() == [3]
