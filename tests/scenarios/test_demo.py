"""The demo, as a newcomer runs it: real data, real Flink, little training; killed in the middle, and run again."""

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from shell import ENVIRONMENT, run

START_S = 600.0


@pytest.mark.timeout(900)
def test_the_demo_ends_with_equal_probabilities_also_where_it_was_killed_before(tmp_path: Path) -> None:
    kill_while_it_streams(tmp_path)
    said = run("uic demo --fast", tmp_path)
    assert "used again: demo/data" in said
    figures = json.loads((tmp_path / "demo/report/figures.json").read_text())

    assert figures["samples"] == 19_848
    assert 0 <= figures["largest_difference"] <= 1e-4
    assert figures["verified_users"] == 943
    assert figures["events"] == 100_000
    assert "report: demo/report/report.html" in said
    page = (tmp_path / "demo/report/report.html").read_text()
    for picture in re.findall(r'src="([^"]+)"', page):
        assert (tmp_path / "demo/report" / picture).stat().st_size > 5_000


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
