"""The demo, as a newcomer runs it: real data, real Flink, little training."""

import json
import re
from pathlib import Path

import pytest
from shell import run


@pytest.mark.timeout(900)
def test_the_demo_ends_with_equal_probabilities_and_can_be_run_twice(tmp_path: Path) -> None:
    first = run("uic demo --fast", tmp_path)
    figures = json.loads((tmp_path / "demo/report/figures.json").read_text())

    assert figures["samples"] == 19_848
    assert 0 <= figures["largest_difference"] <= 1e-4
    assert figures["verified_users"] == 943
    assert figures["events"] == 100_000
    assert "report: demo/report/report.html" in first
    page = (tmp_path / "demo/report/report.html").read_text()
    for picture in re.findall(r'src="([^"]+)"', page):
        assert (tmp_path / "demo/report" / picture).stat().st_size > 5_000

    (tmp_path / "demo/report/figures.json").unlink()
    run("uic demo --fast", tmp_path)
    assert json.loads((tmp_path / "demo/report/figures.json").read_text())["events"] == 100_000
