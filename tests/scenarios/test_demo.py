"""The demo, as a newcomer runs it: real data, real Flink, little training; killed in the middle, and run again.

On an eighth of its users: what it does takes as many processes and servers as with all of them, whom test_readme.py has.
"""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from shell import ENVIRONMENT, run

from jobs.demo import KIND
from model.data.ml100k_source import cache_directory, load
from uic.artefact import mark

START_S = 600.0


@pytest.mark.timeout(900)
def test_the_demo_ends_with_equal_probabilities_also_where_it_was_killed_before(tmp_path: Path) -> None:
    stats = prepare_an_eighth(tmp_path)
    kill_while_it_streams(tmp_path)
    said = run("uic demo --fast", tmp_path)
    assert "used again: demo/data" in said
    figures = json.loads((tmp_path / "demo/report/figures.json").read_text())

    assert figures["samples"] == sum(stats["samples"]["test"].values())
    assert 0 <= figures["largest_difference"] <= 1e-4
    assert figures["verified_users"] == stats["users"] == 117
    assert figures["events"] == stats["events"]
    assert "report: demo/report/report.html" in said
    page = (tmp_path / "demo/report/report.html").read_text()
    for picture in re.findall(r'src="([^"]+)"', page):
        assert (tmp_path / "demo/report" / picture).stat().st_size > 5_000


def prepare_an_eighth(folder: Path) -> Any:  # JSON
    """Every eighth user of MovieLens 100K as the dataset that the demo finds."""
    events = load(None, cache_directory(os.environ))[0].events()
    events[events["user_id"] % 8 == 0].to_parquet(folder / "ratings.parquet")
    asked = "--events ratings.parquet --time-column time --time-unit s --window-hours 168"
    run(f"uic data prepare table {asked} --out demo/data", folder)
    mark(folder / "demo", KIND)
    return json.loads((folder / "demo/data/stats.json").read_text())


def kill_while_it_streams(folder: Path) -> None:
    with (folder / "killed.log").open("wb") as log:
        process = subprocess.Popen(["uic", "demo", "--fast"], cwd=folder, env=ENVIRONMENT, stdout=log, stderr=log)
        give_up_at = time.monotonic() + START_S
        while not (folder / "demo/store/CURRENT").exists():
            assert process.poll() is None, (folder / "killed.log").read_text()
            assert time.monotonic() < give_up_at, "it did not come to stream"
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
