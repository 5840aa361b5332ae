"""Every command of the README, in its order, in an empty folder; and the demo. Real data, real Flink, little training."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The folder of `uic` first; little training, since quality is not what is tried here.
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "UIC__TRAIN__EPOCHS": "1",
}


def readme_blocks() -> list[list[str]]:
    """The lines of each of the README's `sh` blocks: on one machine, then on a cluster."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    return [[line for line in block.splitlines() if line.strip()] for block in blocks]


def run(command: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.timeout(900)
def test_the_commands_of_the_readme_work_in_their_order(tmp_path: Path) -> None:
    single, cluster = readme_blocks()
    said = {command.split()[1]: run(command, tmp_path) for command in single}

    assert {"data", "train", "evaluate", "export", "events", "job", "verify", "user", "score", "dlq"} <= said.keys()
    assert "parity holds over 1000 events" in said["export"]
    assert re.search(r"applied +100,000", said["job"])
    assert "users compared: 943" in said["verify"]
    assert "mismatches: 0" in said["verify"]
    assert "39 events applied" in said["user"]
    assert "memory after 39 events" in said["score"]
    assert "no event was left out" in said["dlq"]

    # One shell, since `eval` sets what the commands after it read; whatever fails, the servers end.
    printed = run("\n".join(["trap 'uic dev down' EXIT", *cluster]), tmp_path)
    assert "100,000 events sent, 100,000 acknowledged" in printed
    assert "users compared: 943" in printed
    assert "mismatches: 0" in printed


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
