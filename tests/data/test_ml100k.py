"""MovieLens 100K: two formats, several sources, one content."""

import os
import shutil
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pandas as pd
import pytest

from model.data import ml100k_source
from model.data.dataset import Names
from model.data.ml100k import GENRES, MovieLens, check, genre_names, parse, read_files
from model.data.ml100k_source import Report, cache_directory, download_zip, load
from uic.errors import BadInput, EnvironmentProblem

U_DATA = b"196\t242\t3\t881250949\n186\t302\t3\t891717742\n22\t242\t1\t881250949\n"
U_ITEM = (
    "242|Kolya (1996)|24-Jan-1997||http://us.imdb.com/M/title-exact?Kolya%20(1996)|0|0|0|0|0|1|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
    "302|Cérémonie, La (1995)|01-Jan-1995||http://x|0|1|0|0|0|0|0|0|1|0|0|0|0|0|0|0|0|0|0\n"
    "267|unknown||||1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0\n"
).encode("latin-1")
INTER = b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + U_DATA
ITEM = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "242\tKolya\t1996\tComedy\n302\tCérémonie, La\t1995\tAction Drama\n267\tunkonwn\tunkonwn\tunknown\n"
).encode()
GROUPLENS = {"u.data": U_DATA, "u.item": U_ITEM}
RECBOLE = {"ml-100k.inter": INTER, "ml-100k.item": ITEM}


def folder(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def zipped(path: Path, files: dict[str, bytes], inside: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{inside}/{name}", content)
    return path


def as_grouplens(data: MovieLens) -> dict[str, bytes]:
    """The real content in GroupLens' layout, as far as we read it."""
    rows = ["\t".join(map(str, row)) + "\n" for row in data.ratings.to_numpy().tolist()]
    films = [
        "|".join([str(item), data.titles[item], "", "", "", *("1" if mask >> bit & 1 else "0" for bit in range(19))]) + "\n"
        for item, mask in data.genre_masks.items()
    ]
    return {"u.data": "".join(rows).encode(), "u.item": "".join(films).encode("latin-1")}


@pytest.mark.parametrize("files", [GROUPLENS, RECBOLE], ids=["grouplens", "recbole"])
def test_both_formats_say_the_same(files: dict[str, bytes], tmp_path: Path) -> None:
    for path in (folder(tmp_path / "ml-100k", files), zipped(tmp_path / "x.zip", files, "some/folder")):
        data = parse(read_files(path), "here")
        assert data.ratings.to_numpy().tolist() == [[196, 242, 3, 881250949], [186, 302, 3, 891717742], [22, 242, 1, 881250949]]
        assert data.genre_masks == {242: 1 << 5, 302: 1 << 1 | 1 << 8, 267: 1}
        assert data.titles == {242: "Kolya (1996)", 302: "Cérémonie, La (1995)", 267: "unknown"}


def test_a_rating_is_an_event_whose_category_is_the_films_genre_set() -> None:
    data = parse(GROUPLENS, "here")
    assert data.events().iloc[1].tolist() == [186, 302, 1 << 1 | 1 << 8, "rate", 891717742]
    assert data.names() == Names(categories={1: "unknown", 32: "Comedy", 258: "Action|Drama"}, items=data.titles)


def test_genre_names_name_every_bit() -> None:
    assert [genre_names(1 << bit) for bit in range(19)] == GENRES
    assert genre_names((1 << 19) - 1) == "|".join(GENRES)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({**GROUPLENS, "u.data": b"1::2::3::4\n"}, r"u\.data line 1: expected user, item, rating, seconds, got '1::2::3::4'"),
        ({**GROUPLENS, "u.data": U_DATA + b"1\t242\t6\t881250949\n"}, r"u\.data line 4: expected user"),
        ({**GROUPLENS, "u.data": U_DATA[:-4]}, r"not MovieLens 100K as GroupLens publishes it"),
        ({**GROUPLENS, "u.data": b"1\t999\t5\t881250949\n"}, r"each rated film among the 3 described, got \[999\]"),
        ({**GROUPLENS, "u.item": b"242|Kolya|1|0\n"}, r"u\.item line 1: expected id\|title"),
        ({**RECBOLE, "ml-100k.item": ITEM.replace(b"Comedy", b"Comic")}, r"ml-100k\.item line 2: expected id, title"),
        ({**RECBOLE, "ml-100k.inter": U_DATA}, r"ml-100k\.inter: expected the header 'user_id:token"),
        ({"u.data": U_DATA}, r"expected u\.data and u\.item .* found u\.data"),
        ({**RECBOLE, "ml-100k.item": ITEM.decode().encode("latin-1")}, r"ml-100k\.item: expected utf-8 text, got byte 0xe9"),
        ({"readme.txt": b"hello"}, r"found none of them"),
        (GROUPLENS, r"the ratings should have the digest 3c61dc9b90a365d2\.\.\., got .* \(3 ratings of 100000, 3 films"),
    ],
)
def test_a_given_source_that_is_not_movielens_100k_is_refused(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load(folder(tmp_path / "given", files), tmp_path / "cache", zip_from=never, wheel_from=never)


def test_a_given_source_that_is_no_folder_and_no_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ml.zip").write_bytes(b"<html>not found</html>")
    with pytest.raises(BadInput, match=r"ml\.zip: expected a zip with MovieLens 100K, got File is not a zip"):
        load(tmp_path / "ml.zip", tmp_path / "cache")
    path = zipped(tmp_path / "bad.zip", GROUPLENS, "ml-100k")
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"bad\.zip: expected a zip with MovieLens 100K, got Bad CRC-32"):
        load(path, tmp_path / "cache")
    with pytest.raises(BadInput, match="expected a folder or a zip with MovieLens 100K, but there is nothing"):
        load(tmp_path / "nowhere", tmp_path / "cache")


def test_grouplens_layout_and_the_wheel_hold_the_same_data(movie_lens: MovieLens, tmp_path: Path) -> None:
    path = zipped(tmp_path / "ml-100k.zip", as_grouplens(movie_lens), "ml-100k")
    data, origin = load(path, tmp_path / "cache", zip_from=never, wheel_from=never)
    pd.testing.assert_frame_equal(data.ratings, movie_lens.ratings)
    assert (data.genre_masks, data.titles) == (movie_lens.genre_masks, movie_lens.titles)
    assert origin == "ml-100k.zip, given by the user"


def test_one_altered_rating_film_or_line_order_is_noticed(movie_lens: MovieLens) -> None:
    def altered(**changes: object) -> MovieLens:
        return MovieLens(**({"ratings": movie_lens.ratings, "genre_masks": movie_lens.genre_masks, "titles": {}} | changes))  # type: ignore[arg-type]  # fields by name

    assert check(altered(), "here") is not None
    wrong = movie_lens.ratings.copy()
    wrong.loc[50_000, "seconds"] += 1
    with pytest.raises(BadInput, match="the ratings should have the digest"):
        check(altered(ratings=wrong), "here")
    with pytest.raises(BadInput, match="the films should have the digest"):
        check(altered(genre_masks={**movie_lens.genre_masks, 1: 3}), "here")
    with pytest.raises(BadInput, match="the order of the ratings should have the digest"):
        check(altered(ratings=movie_lens.ratings.sort_values("seconds")), "here")


def never(target: Path, report: Report) -> Path:
    raise AssertionError("the network was asked")


def unreachable(target: Path, report: Report) -> Path:
    raise EnvironmentProblem("https://files.grouplens.org: no route to host")


def test_sources_are_asked_in_order_and_the_first_that_answers_is_cached(movie_lens: MovieLens, tmp_path: Path) -> None:
    def answers(target: Path, report: Report) -> Path:
        return zipped(target / "ml-100k.zip", as_grouplens(movie_lens), "ml-100k")

    cache = tmp_path / "cache"
    assert load(None, cache, zip_from=answers, wheel_from=never)[1] == ml100k_source.GROUPLENS_URL
    assert [path.name for path in cache.iterdir()] == ["ml-100k.zip"]
    assert load(None, cache, zip_from=never, wheel_from=never)[1] == ml100k_source.GROUPLENS_URL

    # Cut short on the disk: noticed, said, and fetched again.
    whole = read_files(cache / "ml-100k.zip")
    (cache / "ml-100k.zip").write_bytes((cache / "ml-100k.zip").read_bytes()[:-100])
    said: list[str] = []
    load(None, cache, zip_from=answers, wheel_from=never, report=said.append)
    assert "the cached copy is damaged and is fetched again" in said[0]
    assert read_files(cache / "ml-100k.zip") == whole


def test_the_wheel_is_the_last_resort_and_must_have_its_digest(tmp_path: Path) -> None:
    def other_wheel(target: Path, report: Report) -> Path:
        return zipped(target / "recbole-1.2.1-py3-none-any.whl", RECBOLE, "recbole/dataset_example/ml-100k")

    with pytest.raises(EnvironmentProblem) as caught:
        load(None, tmp_path / "cache", zip_from=unreachable, wheel_from=other_wheel)
    message = str(caught.value)
    assert "no route to host" in message
    assert "expected SHA-256 9c9948202011f37e..." in message
    assert "--source PATH" in message
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_wheel_in_the_cache_is_fetched_again(tmp_path: Path) -> None:
    own = tmp_path / "cache"
    real = cache_directory(os.environ) / "recbole-1.2.1-py3-none-any.whl"
    fetched: list[str] = []

    def fetch(target: Path, report: Report) -> Path:
        fetched.append("wheel")
        return Path(shutil.copy(real, target)) if real.exists() else ml100k_source.download_wheel(target, report)

    load(None, own, zip_from=unreachable, wheel_from=fetch)
    load(None, own, zip_from=never, wheel_from=never)
    wheel = own / real.name
    content = bytearray(wheel.read_bytes())
    content[1000] ^= 1
    wheel.write_bytes(content)
    load(None, own, zip_from=unreachable, wheel_from=fetch)
    assert fetched == ["wheel", "wheel"]


def test_a_cache_that_cannot_be_written_is_the_machines_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentProblem, match="cannot be used as the cache"):
        load(None, tmp_path / "file" / "uic", zip_from=never, wheel_from=never)


def test_the_cache_follows_xdg() -> None:
    assert cache_directory({"XDG_CACHE_HOME": "/somewhere"}) == Path("/somewhere/uic")
    assert cache_directory({}) == cache_directory({"XDG_CACHE_HOME": ""}) == Path.home() / ".cache" / "uic"


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", "6" if self.path == "/cut" else "3")
        self.end_headers()
        self.wfile.write(b"abc")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_download_is_whole_or_an_error_that_names_the_address(tmp_path: Path, url: str) -> None:
    said: list[str] = []
    assert download_zip(tmp_path, said.append, url).read_bytes() == b"abc"
    assert said[-1].startswith(f"downloading {url}: 0.0 of 0.0 MB")
    with pytest.raises(EnvironmentProblem, match=f"{url}/missing: "):
        download_zip(tmp_path, said.append, f"{url}/missing")
    with pytest.raises(EnvironmentProblem, match=f"{url}/cut: "):
        download_zip(tmp_path, said.append, f"{url}/cut")
    with pytest.raises(EnvironmentProblem, match="Connection refused"):
        download_zip(tmp_path, said.append, "http://127.0.0.1:9")
