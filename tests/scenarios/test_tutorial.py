"""Every command of the tutorial for modellers, in its order, in an empty folder: from a raw log to scores over HTTP."""

import json
import re
import socket
from pathlib import Path

import pytest
from shell import run

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"


@pytest.mark.timeout(900)
def test_the_tutorial_leads_from_a_raw_log_to_a_served_model(tmp_path: Path) -> None:
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # One shell, whose server ends also where a command fails.
    shell = "\n".join(["trap 'kill $(jobs -p) 2> /dev/null || true' EXIT", *blocks])
    said = run(shell, tmp_path, timeout_s=800, UIC__SERVE__PORT=str(port), UIC__SERVE__DRAIN_S="0")

    table = json.loads((tmp_path / "compared" / "table2.json").read_text())
    auc = {row["arm"]: row["auc"]["mean"] for row in table["rows"]}
    assert auc.keys() == {"MIMN", "DIN", "candidate only"}
    assert auc["MIMN"] > auc["candidate only"] + 0.05, auc
    assert "parity holds over 1000 events" in said
    assert re.search(r"applied +12,000", said)
    assert "users compared: 150" in said
    assert "mismatches: 0" in said
    assert re.search(r"^live \['0\.\d{3}'(, '0\.\d{3}'){4}\]$", said, flags=re.MULTILINE)
