"""Logs larger than memory: how much is held at once, what is told meanwhile, and what a stop leaves behind."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from paper_logs import settings, taobao_log, write_taobao

from model.data import taobao
from model.data.dataset import EVENT_COLUMNS, Dataset, write_events
from model.data.last_event import prepare
from model.data.log_table import LogTable, log_table
from model.data.prepare import Source

USERS, ITEMS, LINES = 60_000, 300, 600_000  # five blocks of the file, and more than one batch of the result


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    log = taobao_log(users=USERS, rows=LINES, items=ITEMS)
    return write_taobao(tmp_path_factory.mktemp("large") / "log.csv", log)


def test_a_reader_holds_a_block_of_the_file_and_not_the_file(large: Path) -> None:
    before, held, all_bytes, rows = pa.total_allocated_bytes(), 0, 0, 0
    for table in taobao.read(large)[0]:
        held = max(held, pa.total_allocated_bytes() - before)
        all_bytes += table.nbytes
        rows += len(table)
    assert rows == LINES
    assert 0 < held < all_bytes / 1.5


def test_a_writer_holds_what_it_writes_at_once_however_many_batches_come(tmp_path: Path) -> None:
    rows = pa.table({name: pa.array(np.arange(1000)).cast(kind) for name, kind in EVENT_COLUMNS.items()})

    def most_held(count: int) -> int:
        before, held = pa.total_allocated_bytes(), 0

        def batches() -> Iterator[object]:
            nonlocal held
            for _ in range(count):
                yield from rows.take(pa.array(np.arange(1000))).to_batches()
                held = max(held, pa.total_allocated_bytes() - before)

        write_events(tmp_path / "events.parquet", batches(), rows_at_once=4000)
        assert pq.read_metadata(tmp_path / "events.parquet").num_rows == count * 1000
        return held

    assert most_held(200) <= 1.2 * most_held(20)


def test_what_a_preparation_takes_into_memory_grows_with_users_items_and_windows_and_not_with_events(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    batches: list[int] = []
    arrays, in_batches = LogTable.arrays, LogTable.batches

    def counted_arrays(log: LogTable, query: str) -> dict[str, np.ndarray]:
        found = arrays(log, query)
        taken.append(len(next(iter(found.values()))))
        return found

    def counted_batches(log: LogTable, query: str) -> Iterator[pa.RecordBatch]:
        for batch in in_batches(log, query):
            batches.append(len(batch))
            yield batch

    def fill(log: LogTable) -> tuple[dict[str, int], None]:
        log.load(taobao.read(large)[0])
        return {}, None

    monkeypatch.setattr(LogTable, "arrays", counted_arrays)
    monkeypatch.setattr(LogTable, "batches", counted_batches)
    chosen = settings(samples_per_user=1, split="time", length=None, window_ms=3_600_000)
    made = prepare(fill, tmp_path / "d", chosen, source=Source(name="toy", digest="none"), memory_mb=200)
    assert made.stats["events"] == sum(batches) > LINES / 2
    assert max(batches) < LINES / 2
    # The log is of 211 hours: two windows of an hour have a hundredth of it, fewer events than there are users.
    assert USERS * 0.9 < max(taken) <= USERS


def test_a_long_stage_tells_how_far_it_is_and_what_is_on_disk(tmp_path: Path) -> None:
    lines, told = [], threading.Event()

    def report(line: str) -> None:
        lines.append(line)
        if "on disk" in line:
            told.set()

    with log_table(tmp_path / "work", memory_mb=100) as log, log.stage("ordering", report):
        assert told.wait(60)
    assert lines[:2] == ["ordering", "ordering: 0 %, 0.0 GB on disk for the while"]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_a_stop_while_the_log_is_sorted_leaves_nothing_or_what_the_next_run_removes(
    tmp_path: Path, stop: signal.Signals
) -> None:
    source = write_taobao(tmp_path / "log.csv", taobao_log(users=40_000, rows=400_000, items=ITEMS))
    out = tmp_path / "out" / "d"
    command = [sys.executable, "-m", "jobs.cli", "data", "prepare", "taobao", "--window-hours", "24"]
    words = [*command, "--source", str(source), "--out", str(out)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as stopped:
        assert stopped.stdout is not None
        assert stopped.stderr is not None
        assert any("numbering the events" in line for line in stopped.stdout)
        stopped.send_signal(stop)
        assert stopped.wait(60) != 0
        assert "Traceback" not in stopped.stderr.read()
    left = [path.name for path in out.parent.iterdir()]
    assert left == ([] if stop == signal.SIGINT else [f".d.partial-{stopped.pid}"])
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    assert [path.name for path in out.parent.iterdir()] == ["d"]
    assert len(Dataset.open(out).samples()) > 9_000
