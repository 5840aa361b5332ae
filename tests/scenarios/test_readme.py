"""Every command of the README, in its order, in an empty folder. Real data, real Flink, little training."""

import re
from pathlib import Path

import pytest
from shell import run

ROOT = Path(__file__).parents[2]


def readme_blocks() -> list[list[str]]:
    """The lines of each of the README's `sh` blocks: on one machine, then on a cluster."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    return [[line for line in block.splitlines() if line.strip()] for block in blocks]


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
