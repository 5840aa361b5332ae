"""A person's shell: commands as the README has them, in a folder."""

import os
import subprocess
import sys
from pathlib import Path

# The folder of `uic` first; little training, since quality is not what is tried here.
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "UIC__TRAIN__EPOCHS": "1",
}


def run(command: str, folder: Path) -> str:
    """What the command printed; it must succeed."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
