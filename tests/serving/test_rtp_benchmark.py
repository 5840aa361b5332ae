"""The benchmark of serving runs at tiny sizes, so that it cannot rot, and its generator measures what it says."""

import dataclasses
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import tiny
from typer import Typer
from typer.testing import CliRunner

from benchmarks.rtp.__main__ import PARTS, main
from benchmarks.rtp.generator import HOST, Generator
from uic.bundle import MANIFEST, Bundle, Manifest, digest

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
REQUEST = b"POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\n."


@contextmanager
def server(pause_s: float, answers: int = 1_000_000, kept: list[socket.socket] | None = None) -> Iterator[int]:
    """Answers the requests of each connection one after the other, after a pause; so many in all, then it ends them.

    `kept` is given every connection.
    """
    left = iter(range(answers))

    def serve(connection: socket.socket) -> None:
        with connection:
            while connection.recv(1 << 16) and next(left, None) is not None:
                time.sleep(pause_s)
                connection.sendall(ANSWER)

    def accept() -> None:
        with suppress(OSError):  # closed, since the test is over
            while True:
                connection, _ = listener.accept()
                if kept is not None:
                    kept.append(connection)
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server((HOST, 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def test_a_slow_answer_makes_those_wait_that_were_due_meanwhile() -> None:
    with server(pause_s=0.02) as port:
        generator = Generator([port], [[REQUEST]], connections=1)
        answers = generator.open_loop(rate=200, seconds=0.2, seed=1)
        generator.close()
    assert answers.is_ok.all()
    # Four come while one is answered: the last waits for all before it, though it is sent when its turn comes.
    assert np.diff(answers.latency_us).mean() > 5_000
    assert answers.latency_us[-1] > 0.02e6 * len(answers.status) - 1e6 * answers.due_s[-1]


def test_what_one_server_drops_the_next_one_answers() -> None:
    with server(pause_s=0, answers=3) as leaving, server(pause_s=0) as staying:
        generator = Generator([leaving, staying], [[REQUEST]], connections=2, tries=3)
        answers = generator.open_loop(rate=100, seconds=0.2, seed=1)
        generator.close()
    assert answers.is_ok.all()
    assert answers.retried >= 1


def test_a_connection_that_was_ended_between_two_requests_is_not_used() -> None:
    kept: list[socket.socket] = []
    with server(pause_s=0, kept=kept) as port:
        generator = Generator([port], [[REQUEST]], connections=1)
        assert generator.open_loop(rate=100, seconds=0.1, seed=1).is_ok.all()
        kept[0].shutdown(socket.SHUT_RDWR)
        assert generator.open_loop(rate=100, seconds=0.1, seed=1).is_ok.all()
        generator.close()
    assert len(kept) == 2


def test_what_nobody_answers_is_told() -> None:
    with server(pause_s=0, answers=3) as port:
        generator = Generator([port], [[REQUEST]], connections=1)
        answers = generator.open_loop(rate=100, seconds=0.2, seed=1)
        generator.close()
    assert answers.is_ok.sum() == 3
    assert (answers.status[3:] == 0).all()


def make_bundle(path: Path) -> Path:
    """The tiny one with tables of embeddings, which DIEN needs."""
    tiny.make_bundle(path)
    manifest, bundle = Manifest.read(path / MANIFEST), Bundle.open(path)
    rows = bundle.items.table_rows + bundle.categories.table_rows
    table = np.random.default_rng(3).normal(size=(rows, manifest.embedding))
    (path / "embeddings.bin").write_bytes(table.astype("<f4").tobytes())
    files = {**manifest.files, "embeddings.bin": digest(path / "embeddings.bin")}
    (path / MANIFEST).write_text(dataclasses.replace(manifest, files=files).to_json())
    return path


@pytest.mark.timeout(300)
def test_every_part_that_needs_nothing_from_outside_runs(tmp_path: Path) -> None:
    app = Typer()
    app.command()(main)
    out, parts = tmp_path / "out", [part for part in PARTS if part != "feast"]
    asked = ["--quick", "--seconds", "0.4", "--only", ",".join(parts), "--bundle", str(make_bundle(tmp_path / "bundle"))]
    done = CliRunner().invoke(app, [*asked, "--out", str(out), "--work", str(tmp_path)])
    assert done.exit_code == 0, (done.output, done.exception)
    found = json.loads((out / "result.json").read_text())
    for part in parts:
        assert all(row.get("errors", 0) == 0 for row in found[part]), found[part]
    assert found["rolling"][0]["failed"] == 0
    assert len(found["rolling"][0]["restarts_s"]) == 2
    assert found["steady"][0]["updates"]["events"] > 0
    assert "DIEN" not in (out / "table.md").read_text()  # which is compared at 1,000 events alone
    assert (out / "plot.png").exists()
